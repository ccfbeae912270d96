//! What a host trusts after a refresh, and at which time.

use jiff::{SignedDuration, Timestamp};
use sigstore_tuf::TrustedMetadataSet;

use super::error::Error;
use super::lookup::Lookup;
use super::rules::{ExpiryRule, Rules};
use super::stored::{Seen, Stored, StoredTarget};
use crate::nix::Sha256;

/// How far signed time may outrank a synchronised clock.
const MAX_LEAD: SignedDuration = SignedDuration::from_hours(24);

/// Whether something vouches for the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synchronised {
    /// NTP says that it is right.
    Yes,
    /// Nobody knows.
    No,
}

/// The host's clock as it was when work began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// What it shows.
    pub now: Timestamp,
    /// Whether it can be believed.
    pub synchronised: Synchronised,
}

impl Clock {
    /// Makes a clock that can be believed.
    #[must_use]
    pub const fn synchronised(now: Timestamp) -> Self {
        Self { now, synchronised: Synchronised::Yes }
    }

    /// Returns the time to judge expiry by: the clock's, or a later one that was signed.
    #[must_use]
    pub fn effective(&self, floor: Option<Timestamp>) -> Timestamp {
        floor.map_or(self.now, |floor| self.now.max(self.bounded(floor)))
    }

    /// Returns `signed`, but never more than 24 hours ahead of a synchronised clock.
    pub(super) fn bounded(&self, signed: Timestamp) -> Timestamp {
        match self.synchronised {
            Synchronised::No => signed,
            Synchronised::Yes => {
                signed.min(self.now.checked_add(MAX_LEAD).unwrap_or(Timestamp::MAX))
            }
        }
    }
}

/// Root, timestamp, snapshot and targets, verified and fresh.
#[derive(Debug, Clone)]
pub struct Trusted {
    pub(super) rules: Rules,
    pub(super) set: TrustedMetadataSet,
    pub(super) stored: Stored,
    pub(super) now: Timestamp,
}

impl Trusted {
    /// Returns the state to save before anything acts on this.
    #[must_use]
    pub const fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Returns the time by which expiry was judged.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns the version of one of the four top-level roles.
    #[must_use]
    pub fn version(&self, role: &str) -> Option<u64> {
        match role {
            "root" => Some(self.set.root().version),
            "timestamp" => self.set.timestamp().map(|timestamp| timestamp.version),
            "snapshot" => self.set.snapshot().map(|snapshot| snapshot.version),
            "targets" => self.set.targets_role("targets").map(|targets| targets.version),
            _ => None,
        }
    }

    /// Returns the version that the snapshot pins for any targets role.
    #[must_use]
    pub fn pinned_version(&self, role: &str) -> Option<u64> {
        let pins = &self.set.snapshot()?.meta;
        pins.get(&format!("{role}.json")).map(|pin| pin.version)
    }

    /// Returns when one of the four top-level roles expires, by its own word.
    #[must_use]
    pub fn expires(&self, role: &str) -> Option<Timestamp> {
        match role {
            "root" => Some(self.set.root().expires),
            "timestamp" => self.set.timestamp().map(|timestamp| timestamp.expires),
            "snapshot" => self.set.snapshot().map(|snapshot| snapshot.expires),
            "targets" => self.set.targets_role("targets").map(|targets| targets.expires),
            _ => None,
        }
    }

    /// Returns when the timestamp was signed: the age of this is what a host shows.
    #[must_use]
    pub fn signed_at(&self) -> Option<Timestamp> {
        self.set.timestamp().and_then(super::metadata::signed_at)
    }

    /// Returns the SHA-256 of the snapshot, for reports: two hosts can compare what they saw.
    #[must_use]
    pub fn snapshot_digest(&self) -> Option<Sha256> {
        self.stored.snapshot.as_deref().map(Sha256::of)
    }

    /// Begins the search for one target; `known` is what was stored when it was last found.
    ///
    /// # Errors
    /// When no delegation leads to the path.
    pub fn lookup(&self, path: &str, known: StoredTarget) -> Result<Lookup<'_>, Error> {
        Lookup::new(self, path, known)
    }
}

/// Checks that a version is neither past its own expiry nor past the host's cap on its age.
pub(super) fn check_fresh(
    role: &str,
    expires: Timestamp,
    seen: Option<&Seen>,
    rules: &Rules,
    now: Timestamp,
) -> Result<(), Error> {
    let online = matches!(role, "timestamp" | "snapshot");
    if rules.expiry == ExpiryRule::OnlineRoles && !online {
        return Ok(());
    }
    let cap = rules.max_age.as_ref().and_then(|ages| ages.of(role)).zip(seen);
    let capped = cap.and_then(|(age, seen)| seen.at.checked_add(age).ok());
    let expires = capped.map_or(expires, |capped| capped.min(expires));
    if expires <= now {
        return Err(Error::Expired { role: role.to_owned(), expires });
    }
    Ok(())
}
