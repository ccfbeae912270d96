//! Making and changing metadata: what [`metadata::read`](super::metadata::read) reads.
//!
//! Each role is a plain struct: [`Root`], [`Targets`], [`Snapshot`], [`Timestamp`]. Change it, turn
//! it into a [`Document`], sign that. Whatever a document refuses, a reader would have refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fence::{self, FenceError, Pattern};
use super::keys::{KeyError, PublicKey};
use super::metadata::{patterns, signed_at};
use super::rules::{Rules, Violation};
use crate::nix::Sha256;
use crate::time::Time;

mod diff;
mod document;

#[cfg(test)]
mod tests;

pub use diff::changes;
pub use document::{Document, Kind};

/// The TUF version that our files name.
const SPEC_VERSION: &str = "1.0.31";

/// Why metadata cannot be written or changed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// What would be written breaks a rule.
    #[error("the new metadata of role `{role}` breaks the rules")]
    Refused {
        /// The role.
        role: String,
        /// The rule.
        #[source]
        source: Violation,
    },
    /// The existing file cannot be read.
    #[error("cannot read the metadata of role `{role}`")]
    Unreadable {
        /// The role.
        role: String,
        /// Why.
        #[source]
        source: Violation,
    },
    /// A delegation that may not be made.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// A key that is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A role that is there already, or is not there.
    #[error("role `{role}` {what}")]
    Role {
        /// The role.
        role: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A signature by a key that made none, or none that verifies.
    #[error("the signature is not by key `{0}`")]
    Signature(PublicKey),
    /// The TUF encoder refused the content.
    #[error("cannot write canonical JSON")]
    Canonical(#[source] sigstore_tuf::Error),
}

/// Who signs for a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    /// Any of these keys.
    pub keys: Vec<PublicKey>,
    /// How many of them.
    pub threshold: usize,
}

impl Keyring {
    /// Makes a keyring of one key.
    #[must_use]
    pub fn single(key: PublicKey) -> Self {
        Self { keys: vec![key], threshold: 1 }
    }

    fn to_json(&self) -> Map<String, Value> {
        let ids: Vec<_> = self.keys.iter().map(|key| Value::from(key.key_id().as_str())).collect();
        let members = [("keyids", Value::from(ids)), ("threshold", Value::from(self.threshold))];
        members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }

    fn read(
        keys: &BTreeMap<String, sigstore_tuf::Key>,
        ids: &[String],
        threshold: usize,
    ) -> Result<Self, KeyError> {
        let find = |id| keys.get(id).map_or("", |key: &sigstore_tuf::Key| &key.keyval.public);
        let keys = ids.iter().map(|id| PublicKey::from_hex(find(id))).collect::<Result<_, _>>()?;
        Ok(Self { keys, threshold })
    }
}

/// What every role has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The realm, written as `x-realm`.
    pub realm: String,
    /// The version.
    pub version: u64,
    /// When it expires.
    pub expires: Time,
}

impl Header {
    fn to_json(&self, kind: &str) -> Map<String, Value> {
        let members = [
            ("_type", Value::from(kind)),
            ("spec_version", Value::from(SPEC_VERSION)),
            ("version", Value::from(self.version)),
            ("expires", Value::from(self.expires.to_string())),
            ("x-realm", Value::from(self.realm.as_str())),
        ];
        members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }
}

/// The role `root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Realm, version, expiry.
    pub header: Header,
    /// Who signs for each of the four roles.
    pub root: Keyring,
    /// See `root`.
    pub targets: Keyring,
    /// See `root`.
    pub snapshot: Keyring,
    /// See `root`.
    pub timestamp: Keyring,
}

impl Root {
    /// Turns it into a file without signatures.
    ///
    /// # Errors
    /// When a reader would refuse it.
    pub fn document(&self) -> Result<Document, WriteError> {
        let rings = [
            ("root", &self.root),
            ("snapshot", &self.snapshot),
            ("targets", &self.targets),
            ("timestamp", &self.timestamp),
        ];
        let roles: Map<_, _> =
            rings.iter().map(|(name, ring)| ((*name).to_owned(), ring.to_json().into())).collect();
        let mut signed = self.header.to_json("root");
        signed.insert("consistent_snapshot".to_owned(), Value::Bool(true));
        signed.insert("keys".to_owned(), keys_json(rings.iter().map(|(_, ring)| *ring)));
        signed.insert("roles".to_owned(), roles.into());
        Document::new(Kind::Root, "root", signed, &self.header.realm)
    }

    /// Reads a root to change it; its signatures are not looked at.
    ///
    /// # Errors
    /// When it breaks the rules.
    pub fn read(bytes: &[u8], rules: &Rules) -> Result<Self, WriteError> {
        let root: sigstore_tuf::Root = read(bytes, "root", rules)?;
        let ring = |role: &str| -> Result<Keyring, WriteError> {
            let missing = WriteError::Role { role: role.to_owned(), what: "is missing in root" };
            let keys = root.role(role).ok_or(missing)?;
            Ok(Keyring::read(&root.keys, &keys.keyids, keys.threshold)?)
        };
        let (rings, timestamp) =
            ([ring("root")?, ring("targets")?, ring("snapshot")?], ring("timestamp")?);
        let [own, targets, snapshot] = rings;
        let header = header(&root.extra, root.version, root.expires);
        Ok(Self { header, root: own, targets, snapshot, timestamp })
    }
}

/// A target: length and hash of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// How many bytes.
    pub length: u64,
    /// Their SHA-256.
    pub sha256: Sha256,
}

impl Target {
    /// Describes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len().try_into().unwrap_or(u64::MAX), sha256: Sha256::of(bytes) }
    }
}

/// A delegation from one targets role to another; always terminating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// The role delegated to.
    pub role: String,
    /// Who signs for it.
    pub ring: Keyring,
    /// What it may hold.
    pub patterns: Vec<Pattern>,
}

/// The role `targets`, or any role that it delegates to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// Realm, version, expiry.
    pub header: Header,
    /// The role's name.
    pub role: String,
    /// What it lists, by path.
    pub targets: BTreeMap<String, Target>,
    /// To whom it delegates, in order.
    pub delegations: Vec<Delegation>,
}

impl Targets {
    /// Makes a role that lists and delegates nothing.
    #[must_use]
    pub fn empty(role: &str, header: Header) -> Self {
        let role = role.to_owned();
        Self { header, role, targets: BTreeMap::new(), delegations: Vec::new() }
    }

    /// Adds a delegation.
    ///
    /// # Errors
    /// When the role is delegated to already, its name or patterns are not allowed, or they
    /// overlap with another's.
    pub fn delegate(&mut self, delegation: Delegation) -> Result<(), WriteError> {
        if self.delegations.iter().any(|known| known.role == delegation.role) {
            return Err(WriteError::Role {
                role: delegation.role,
                what: "is delegated to already",
            });
        }
        fence::check_delegation(&self.role, &delegation.role, &delegation.patterns)?;
        let all = self.delegations.iter().chain([&delegation]);
        fence::check_overlaps(all.map(|one| (one.role.as_str(), one.patterns.as_slice())))?;
        self.delegations.push(delegation);
        Ok(())
    }

    /// Removes a delegation, and returns it.
    ///
    /// # Errors
    /// When there is none to this role.
    pub fn undelegate(&mut self, role: &str) -> Result<Delegation, WriteError> {
        match self.delegations.iter().position(|delegation| delegation.role == role) {
            Some(index) => Ok(self.delegations.remove(index)),
            None => Err(WriteError::Role { role: role.to_owned(), what: "is not delegated to" }),
        }
    }

    /// Turns it into a file without signatures.
    ///
    /// # Errors
    /// When a reader would refuse it.
    pub fn document(&self) -> Result<Document, WriteError> {
        let describe = |(path, target): (&String, &Target)| {
            let hashes = json!({"sha256": target.sha256.to_hex()});
            (path.clone(), json!({"length": target.length, "hashes": hashes}))
        };
        let targets: Map<_, _> = self.targets.iter().map(describe).collect();
        let mut signed = self.header.to_json("targets");
        signed.insert("targets".to_owned(), targets.into());
        if !self.delegations.is_empty() {
            let roles: Vec<_> = self.delegations.iter().map(Delegation::to_json).collect();
            let keys = keys_json(self.delegations.iter().map(|delegation| &delegation.ring));
            signed.insert("delegations".to_owned(), json!({"keys": keys, "roles": roles}));
        }
        Document::new(Kind::Targets, &self.role, signed, &self.header.realm)
    }

    /// Reads a targets role to change it; its signatures are not looked at.
    ///
    /// # Errors
    /// When it breaks the rules.
    pub fn read(bytes: &[u8], role: &str, rules: &Rules) -> Result<Self, WriteError> {
        let read: sigstore_tuf::Targets = read(bytes, role, rules)?;
        let header = header(&read.extra, read.version, read.expires);
        let mut targets = Self::empty(role, header);
        for (path, file) in &read.targets {
            // The rules saw to it that the hash is there.
            let hash = file.hashes.get("sha256").and_then(|hex| Sha256::from_hex(hex));
            if let Some(sha256) = hash {
                targets.targets.insert(path.clone(), Target { length: file.length, sha256 });
            }
        }
        if let Some(delegations) = &read.delegations {
            let unreadable = |source| WriteError::Unreadable { role: role.to_owned(), source };
            let patterns = patterns(delegations).map_err(unreadable)?;
            for (delegation, patterns) in delegations.roles.iter().zip(patterns) {
                let (ids, threshold) = (&delegation.keyids, delegation.threshold);
                let ring = Keyring::read(&delegations.keys, ids, threshold)?;
                let role = delegation.name.clone();
                targets.delegations.push(Delegation { role, ring, patterns });
            }
        }
        Ok(targets)
    }
}

impl Delegation {
    fn to_json(&self) -> Value {
        let mut role = self.ring.to_json();
        let paths: Vec<_> =
            self.patterns.iter().map(|path| Value::from(path.to_string())).collect();
        role.insert("name".to_owned(), Value::from(self.role.as_str()));
        role.insert("terminating".to_owned(), Value::Bool(true));
        role.insert("paths".to_owned(), Value::from(paths));
        role.into()
    }
}

/// The role `snapshot`: the version of every targets role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Realm, version, expiry.
    pub header: Header,
    /// Versions by role, with `targets`. An entry stays for ever, also of a removed role.
    pub roles: BTreeMap<String, u64>,
}

impl Snapshot {
    /// Turns it into a file without signatures.
    ///
    /// # Errors
    /// When a reader would refuse it.
    pub fn document(&self) -> Result<Document, WriteError> {
        let pin = |(role, version): (&String, &u64)| {
            (format!("{role}.json"), json!({"version": version}))
        };
        let meta: Map<_, _> = self.roles.iter().map(pin).collect();
        let mut signed = self.header.to_json("snapshot");
        signed.insert("meta".to_owned(), meta.into());
        Document::new(Kind::Snapshot, "snapshot", signed, &self.header.realm)
    }

    /// Reads a snapshot to change it; its signatures are not looked at.
    ///
    /// # Errors
    /// When it breaks the rules.
    pub fn read(bytes: &[u8], rules: &Rules) -> Result<Self, WriteError> {
        let read: sigstore_tuf::Snapshot = read(bytes, "snapshot", rules)?;
        let header = header(&read.extra, read.version, read.expires);
        let pin = |(name, pin): (&String, &sigstore_tuf::MetaFile)| {
            (name.strip_suffix(".json").unwrap_or(name).to_owned(), pin.version)
        };
        Ok(Self { header, roles: read.meta.iter().map(pin).collect() })
    }
}

/// The role `timestamp`: which snapshot is the newest, and when that was true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// Realm, version, expiry.
    pub header: Header,
    /// When it was signed.
    pub signed_at: Time,
    /// The snapshot's version.
    pub snapshot: u64,
    /// The snapshot's exact bytes.
    pub pin: Target,
}

impl Timestamp {
    /// Turns it into a file without signatures.
    ///
    /// # Errors
    /// When a reader would refuse it.
    pub fn document(&self) -> Result<Document, WriteError> {
        let pin = json!({
            "version": self.snapshot,
            "length": self.pin.length,
            "hashes": {"sha256": self.pin.sha256.to_hex()},
        });
        let mut signed = self.header.to_json("timestamp");
        signed.insert("x-signed-at".to_owned(), Value::from(self.signed_at.to_string()));
        signed.insert("meta".to_owned(), json!({"snapshot.json": pin}));
        Document::new(Kind::Timestamp, "timestamp", signed, &self.header.realm)
    }

    /// Reads a timestamp to change it; its signatures are not looked at.
    ///
    /// # Errors
    /// When it breaks the rules.
    pub fn read(bytes: &[u8], rules: &Rules) -> Result<Self, WriteError> {
        let read: sigstore_tuf::Timestamp = read(bytes, "timestamp", rules)?;
        let header = header(&read.extra, read.version, read.expires);
        let form = || WriteError::Unreadable {
            role: "timestamp".to_owned(),
            source: Violation::Form("pins no snapshot by length and SHA-256".to_owned()),
        };
        let pin = read.snapshot_meta().ok_or_else(form)?;
        let hash = pin.hashes.as_ref().and_then(|hashes| hashes.get("sha256"));
        let sha256 = hash.and_then(|hex| Sha256::from_hex(hex)).ok_or_else(form)?;
        let length = pin.length.ok_or_else(form)?;
        let signed_at = signed_at(&read).ok_or_else(form)?.into();
        Ok(Self { header, signed_at, snapshot: pin.version, pin: Target { length, sha256 } })
    }
}

fn keys_json<'a>(rings: impl Iterator<Item = &'a Keyring>) -> Value {
    let keys = rings.flat_map(|ring| &ring.keys);
    keys.map(|key| (key.key_id().to_string(), key.to_tuf())).collect::<Map<_, _>>().into()
}

fn read<T: super::metadata::Ruled + Clone>(
    bytes: &[u8],
    role: &str,
    rules: &Rules,
) -> Result<T, WriteError> {
    super::metadata::read::<T>(bytes, role, rules.max_len(role), rules)
        .map(sigstore_tuf::Metadata::into_signed)
        .map_err(|source| WriteError::Unreadable { role: role.to_owned(), source })
}

fn header(extra: &BTreeMap<String, Value>, version: u64, expires: jiff::Timestamp) -> Header {
    let realm = extra.get("x-realm").and_then(Value::as_str).unwrap_or("").to_owned();
    Header { realm, version, expires: expires.into() }
}
