//! What a host keeps of verified metadata, as two kinds of file.
//!
//! One file holds root, timestamp, snapshot and targets, so that one rename commits them together;
//! each target has a file of its own, so that a failure holds back only that one. Everything in
//! them is verified anew when it is used: what they add is memory, not trust.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::nix::Sha256;

const FORMAT: u32 = 1;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// Not what was written.
    #[error("stored trust state is damaged")]
    Damaged(#[source] serde_json::Error),
    /// Written by a program with another format.
    #[error("stored trust state has format {0}, not 1")]
    Format(u32),
}

/// When a host first used a version of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The version.
    pub version: u64,
    /// When.
    pub at: Timestamp,
}

/// The four top-level roles as last verified, and what was learned with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The digest of the pinned root from which `root` was reached.
    pub pinned: Option<Sha256>,
    /// The last root.
    pub root: Option<Vec<u8>>,
    /// `timestamp.json`.
    pub timestamp: Option<Vec<u8>>,
    /// The snapshot that it pins.
    pub snapshot: Option<Vec<u8>>,
    /// The targets that the snapshot pins.
    pub targets: Option<Vec<u8>>,
    /// The latest time that was signed.
    pub floor: Option<Timestamp>,
    /// When each role's version was first seen.
    pub seen: BTreeMap<String, Seen>,
}

/// One target as last verified, with the delegated roles that lead to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredTarget {
    /// Each role's file.
    pub roles: BTreeMap<String, Vec<u8>>,
    /// The target itself.
    pub target: Option<Vec<u8>>,
    /// When each role's version was first seen.
    pub seen: BTreeMap<String, Seen>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<Timestamp>,
    seen: BTreeMap<String, Seen>,
    /// Metadata and manifests are JSON, so text.
    files: BTreeMap<String, String>,
}

impl File {
    fn parse(bytes: &[u8]) -> Result<Self, StoredError> {
        let file: Self = serde_json::from_slice(bytes).map_err(StoredError::Damaged)?;
        if file.format != FORMAT {
            return Err(StoredError::Format(file.format));
        }
        Ok(file)
    }

    fn to_bytes(&self) -> Vec<u8> {
        // Strings, numbers and maps with text keys cannot fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Stored {
    /// Parses what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// When it did not.
    pub fn parse(bytes: &[u8]) -> Result<Self, StoredError> {
        let mut file = File::parse(bytes)?;
        let mut take = |name: &str| file.files.remove(name).map(String::into_bytes);
        Ok(Self {
            root: take("root"),
            timestamp: take("timestamp"),
            snapshot: take("snapshot"),
            targets: take("targets"),
            pinned: file.pinned.as_deref().and_then(Sha256::from_hex),
            floor: file.floor,
            seen: file.seen,
        })
    }

    /// Returns the content of the state file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let files = [
            ("root", &self.root),
            ("timestamp", &self.timestamp),
            ("snapshot", &self.snapshot),
            ("targets", &self.targets),
        ];
        let present = |(name, bytes): (&str, &Option<Vec<u8>>)| {
            bytes.as_deref().map(|bytes| (name.to_owned(), text(bytes)))
        };
        File {
            format: FORMAT,
            pinned: self.pinned.map(|digest| digest.to_hex()),
            floor: self.floor,
            seen: self.seen.clone(),
            files: files.into_iter().filter_map(present).collect(),
        }
        .to_bytes()
    }
}

const TARGET: &str = "/target";

impl StoredTarget {
    /// Parses what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// When it did not.
    pub fn parse(bytes: &[u8]) -> Result<Self, StoredError> {
        let mut file = File::parse(bytes)?;
        let target = file.files.remove(TARGET).map(String::into_bytes);
        let roles = file.files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
        Ok(Self { roles, target, seen: file.seen })
    }

    /// Returns the content of the state file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut files: BTreeMap<String, String> =
            self.roles.iter().map(|(name, bytes)| (name.clone(), text(bytes))).collect();
        // No role can have a slash in its name.
        files.extend(self.target.as_deref().map(|bytes| (TARGET.to_owned(), text(bytes))));
        File { format: FORMAT, pinned: None, floor: None, seen: self.seen.clone(), files }
            .to_bytes()
    }
}

/// Returns when `version` was first seen: before, or now.
pub(super) fn first_seen(
    seen: &BTreeMap<String, Seen>,
    role: &str,
    version: u64,
    now: Timestamp,
) -> Seen {
    match seen.get(role) {
        Some(known) if known.version == version => *known,
        Some(_) | None => Seen { version, at: now },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_files_give_back_what_they_took() {
        let at = "2026-11-22T10:00:00Z".parse().expect("a time");
        let seen = BTreeMap::from([("targets".to_owned(), Seen { version: 3, at })]);
        let stored = Stored {
            pinned: Some(Sha256::of(b"pin")),
            root: Some(r#"{"a":"\"ü"}"#.as_bytes().to_vec()),
            snapshot: Some(b"{}".to_vec()),
            floor: Some(at),
            seen: seen.clone(),
            ..Stored::default()
        };
        assert_eq!(Stored::parse(&stored.to_bytes()).expect("parses"), stored);
        let roles = BTreeMap::from([("webshop".to_owned(), b"{}".to_vec())]);
        let target = StoredTarget { roles, target: Some(b"{}".to_vec()), seen };
        assert_eq!(StoredTarget::parse(&target.to_bytes()).expect("parses"), target);
    }

    #[test]
    fn a_damaged_or_foreign_state_file_is_an_error_not_an_empty_state() {
        assert!(matches!(Stored::parse(b""), Err(StoredError::Damaged(_))));
        let foreign = br#"{"format":2,"seen":{},"files":{}}"#;
        assert!(matches!(Stored::parse(foreign), Err(StoredError::Format(2))));
    }
}
