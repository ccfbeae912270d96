//! What is known of the polls so far, for `agent status` and for the next root's turn.
//!
//! Nothing is decided by it but when to ask: it may be lost or lie without any harm.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::id::{Digest, GroupName};
use shared::trust::Trusted;

use super::{Poll, Trouble};
use crate::files;
use crate::state::Reason;

/// The file below `state_dir`.
const FILE: &str = "polls.json";

/// More than any record takes.
const MAX_FILE: u64 = 1 << 20;

/// The polls so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PollRecord {
    /// When the sources were last asked.
    pub(crate) asked_at: Option<Timestamp>,
    /// When one of them was last good.
    pub(crate) good_at: Option<Timestamp>,
    /// How often in a row none was.
    pub(crate) failures: u32,
    /// Why none was, the last time.
    pub(crate) trouble: Option<Reason>,
    /// When the next root was last asked for.
    pub(crate) root_checked_at: Option<Timestamp>,
    /// What is verified.
    pub(crate) facts: Option<TrustFacts>,
    /// The groups of which nothing can be used, and why.
    pub(crate) groups: BTreeMap<GroupName, Reason>,
}

/// What is verified at the top, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrustFacts {
    /// Version of root.
    pub(crate) root: u64,
    /// Version of timestamp.
    pub(crate) timestamp: u64,
    /// SHA-256 of the snapshot.
    pub(crate) snapshot: Option<Digest>,
    /// When the timestamp was signed: the freshest signed statement.
    pub(crate) signed_at: Option<Timestamp>,
    /// When the first of the online roles expires.
    pub(crate) expires_at: Option<Timestamp>,
}

impl TrustFacts {
    /// Sums up trusted metadata.
    pub(crate) fn of(trusted: &Trusted) -> Self {
        let expiries = ["timestamp", "snapshot", "targets"].map(|role| trusted.expires(role));
        Self {
            root: trusted.version("root").unwrap_or(0),
            timestamp: trusted.version("timestamp").unwrap_or(0),
            snapshot: trusted.snapshot_digest().map(Digest::from),
            signed_at: trusted.signed_at(),
            expires_at: expiries.into_iter().flatten().min(),
        }
    }
}

impl PollRecord {
    /// Reads the record; a damaged one is an empty one.
    pub(crate) fn load(state_dir: &Path) -> Result<Self, Trouble> {
        let bytes = files::read(&state_dir.join(FILE), MAX_FILE)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Returns the record of whoever asked last: on a full disk, none can be written.
    pub(crate) fn or_newer(self, other: &Self) -> Self {
        if other.asked_at > self.asked_at { other.clone() } else { self }
    }

    /// Writes the record.
    pub(super) fn save(&self, state_dir: &Path) -> Result<(), files::FileError> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        files::replace(&state_dir.join(FILE), &bytes)
    }

    /// Notes the outcome of one poll.
    pub(super) fn note(&mut self, poll: &Poll, now: Timestamp) {
        self.asked_at = Some(now);
        match &poll.trouble {
            None => {
                self.good_at = Some(now);
                self.failures = 0;
                self.trouble = None;
            }
            Some(trouble) => {
                self.failures = self.failures.saturating_add(1);
                self.trouble = Some(trouble.reason());
            }
        }
        if let Some(documents) = &poll.documents {
            self.facts = Some(documents.facts);
            let failed = documents.groups.iter().filter_map(|(group, result)| {
                result.as_ref().err().map(|reason| (group.clone(), reason.clone()))
            });
            self.groups = failed.collect();
        }
    }
}
