//! What a request can reach.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use shared::{
    id::RealmName,
    time::Time,
    trust::{PublicKey, SigningKey},
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    api::error::ApiError,
    certificates::Certificates,
    db::{Sqlite, retention::Retention},
    metrics::Metrics,
    realm::Realm,
    router::MAX_PUBLICATION,
};

/// MiB of publications that are in memory at once: two of the largest, or many of the usual size,
/// so that a publisher behind a slow link keeps nobody waiting.
pub(crate) const PUBLICATION_ROOM: usize = 2 * (MAX_PUBLICATION >> 20);

/// The state of the server.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) realms: BTreeMap<RealmName, Arc<Realm>>,
    pub(crate) db: Sqlite,
    /// Certificates that were found good before.
    pub(crate) certificates: Certificates,
    /// Signs certificates of hosts, where this server may.
    pub(crate) enrolment: Option<SigningKey>,
    /// What was counted since the start.
    pub(crate) metrics: Metrics,
    /// The server's folder.
    pub(crate) data: PathBuf,
    /// A folder that is served as a binary cache below `/cache/`.
    pub(crate) cache: Option<PathBuf>,
    /// Seconds after which a host that has not reported is `stale`.
    pub(crate) stale_after: u32,
    /// The highest version of a timestamp of which it was said that a host has it and we do not.
    pub(crate) warned_of: AtomicU64,
    /// The number of the latest change that was seen.
    pub(crate) newest: watch::Sender<u64>,
    /// How long what hosts said is kept.
    pub(crate) retention: Retention,
    /// Who may read.
    pub(crate) access: Access,
    /// Ends long polls when the server stops.
    pub(crate) stopping: CancellationToken,
    /// See [`PUBLICATION_ROOM`].
    pub(crate) publications: Semaphore,
    /// How long a body may take to come, at least.
    pub(crate) body_time: Duration,
    /// The clock, so that a test can set it.
    pub(crate) clock: fn() -> Timestamp,
}

impl App {
    /// Returns a realm that is served.
    pub(crate) fn realm(&self, name: &str) -> Result<&Arc<Realm>, ApiError> {
        self.realms.get(name).ok_or_else(|| ApiError::not_found("there is no such realm"))
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Returns the time in whole seconds.
    pub(crate) fn time(&self) -> Time {
        Time::of(self.now())
    }

    /// Returns the public half of this server's enrolment key.
    pub(crate) fn enrolment_key(&self) -> Option<PublicKey> {
        self.enrolment.as_ref().map(SigningKey::public)
    }
}
