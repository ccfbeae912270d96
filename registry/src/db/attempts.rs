//! What became of the attempts of hosts.

use shared::{
    id::{HostId, RealmName},
    report::ProfileReport,
    time::Time,
};

/// Which attempts are asked for.
#[derive(Debug, Clone)]
pub(crate) struct AttemptQuery {
    pub(crate) realm: RealmName,
    pub(crate) host: HostId,
    /// Only this one; several profiles may have one of its name.
    pub(crate) attempt: Option<String>,
    /// Only of this target, `group/profile`.
    pub(crate) target: Option<String>,
    /// The key of the last one told: only older ones.
    pub(crate) before: Option<i64>,
    pub(crate) limit: usize,
}

impl AttemptQuery {
    /// Asks for the latest of a host.
    pub(crate) fn latest(realm: RealmName, host: HostId, limit: usize) -> Self {
        Self { realm, host, attempt: None, target: None, before: None, limit }
    }
}

/// What became of one attempt of a host.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttemptRow {
    /// Its place in lists: the higher, the later.
    pub(crate) key: i64,
    /// The profile, as the host told of it when the attempt had ended.
    pub(crate) profile: ProfileReport,
    /// When it was told.
    pub(crate) told_at: Time,
}
