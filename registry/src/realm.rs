//! One realm that this registry serves: its files, what is current, and who may change that.
//!
//! Everything is written before it counts: blobs, role, snapshot, each on the disk; then renaming
//! `timestamp.json` is the commit. A crash before it leaves files that nothing names, which the
//! next start removes; so whatever is served always verifies.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use shared::{
    id::{GroupName, RealmName, RoleName, TargetPath},
    policy::Policy,
    time::Time,
    trust::{
        Rules, SigningKey,
        writer::{self, Header, Snapshot, Target},
    },
    version::SoftwareVersion,
};
use tokio::sync::watch;

use crate::{
    blobs::{Blobs, FileName},
    files,
    keys::{self, KeyError},
};

pub(crate) mod catalog;
mod create;
mod memory;
mod publications;
mod publish;
mod tag;
mod verify;

pub(crate) use create::{create, open_or_create_keys};
pub(crate) use memory::{Remembered, Stamp};
pub(crate) use publications::publications;
pub(crate) use publish::{Precondition, PublishError, Rest, Submission};
pub(crate) use tag::Tag;

use memory::Memory;

/// How long a timestamp holds.
const TIMESTAMP_LIFE: SignedDuration = SignedDuration::from_hours(72);
/// How old a timestamp becomes before it is signed anew.
const TIMESTAMP_AGE: SignedDuration = SignedDuration::from_hours(1);
/// How long a snapshot holds.
const SNAPSHOT_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// How old a snapshot becomes before it is signed anew.
const SNAPSHOT_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Why a realm cannot be served or signed for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RealmError {
    /// The folder holds no realm.
    #[error("there is no realm `{realm}` in `{data}`")]
    Missing { realm: RealmName, data: PathBuf },
    /// There is one already.
    #[error("there is a realm `{realm}` in `{data}` already")]
    Exists { realm: RealmName, data: PathBuf },
    /// A file that must be there is not, or cannot be read.
    #[error("cannot read `{file}` of realm `{realm}`")]
    Read {
        realm: RealmName,
        file: String,
        #[source]
        source: io::Error,
    },
    /// A file is not what pins it says, or what its rules say.
    #[error("`{file}` of realm `{realm}` is damaged")]
    Damaged {
        realm: RealmName,
        file: String,
        #[source]
        source: Option<writer::WriteError>,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] files::WriteError),
    /// Something to sign would not be read by anybody.
    #[error("cannot sign `{file}` of realm `{realm}`")]
    Sign {
        realm: RealmName,
        file: String,
        #[source]
        source: writer::WriteError,
    },
    /// Root or targets are refused at the start of a realm.
    #[error("the first `{role}` is refused")]
    Refused {
        role: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key of the server cannot be opened.
    #[error("cannot use the server's key for `{role}`")]
    Key {
        role: &'static str,
        #[source]
        source: KeyError,
    },
    /// Root names other keys than the server has.
    #[error(
        "root version {root} of realm `{realm}` names other keys for `{role}` than this server's"
    )]
    OtherKey { realm: RealmName, root: u64, role: &'static str },
}

/// The keys by which the registry says what is current. They can withhold, and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct OnlineKeys {
    pub(crate) snapshot: SigningKey,
    pub(crate) timestamp: SigningKey,
}

impl OnlineKeys {
    /// Opens the server's keys in its data folder.
    pub(crate) fn open(data: &Path) -> Result<Self, RealmError> {
        let open = |role: &'static str| {
            keys::open_online(&online_key_file(data, role))
                .map_err(|source| RealmError::Key { role, source })
        };
        Ok(Self { snapshot: open("snapshot")?, timestamp: open("timestamp")? })
    }
}

/// Returns where the server's key for a purpose lies.
pub(crate) fn online_key_file(data: &Path, role: &str) -> PathBuf {
    data.join("keys").join(format!("{role}.pem"))
}

/// Returns where the files of a realm lie.
pub(crate) fn folder(data: &Path, realm: &RealmName) -> PathBuf {
    data.join("r").join(realm.as_str())
}

/// What is committed, as it is served: readers never wait for a publication.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    /// `timestamp.json`.
    pub(crate) bytes: Bytes,
    /// Its entity tag.
    pub(crate) tag: Tag,
    head: Arc<Head>,
}

impl Current {
    fn of(bytes: Vec<u8>, head: &Head) -> Self {
        Self { tag: Tag::of_bytes(&bytes), bytes: bytes.into(), head: Arc::new(head.clone()) }
    }
}

/// A realm that is served.
#[derive(Debug)]
pub(crate) struct Realm {
    name: RealmName,
    rules: Rules,
    blobs: Blobs,
    keys: OnlineKeys,
    /// Held by the one who changes the realm.
    head: Mutex<Head>,
    current: watch::Sender<Current>,
    /// Files that were asked for lately.
    memory: Memory,
    /// What is in force, once somebody has asked.
    catalog: Mutex<Option<Arc<catalog::Catalog>>>,
}

/// What is committed.
#[derive(Debug, Clone)]
struct Head {
    /// The version of the newest root.
    root: u64,
    timestamp: writer::Timestamp,
    snapshot: Snapshot,
}

impl Head {
    fn version(&self, role: &str) -> u64 {
        match role {
            "root" => self.root,
            "timestamp" => self.timestamp.header.version,
            "snapshot" => self.snapshot.header.version,
            _ => self.snapshot.roles.get(role).copied().unwrap_or(0),
        }
    }
}

impl Realm {
    /// Opens a realm, and removes what an interrupted publication left in it.
    pub(crate) fn open(data: &Path, name: RealmName, keys: OnlineKeys) -> Result<Self, RealmError> {
        let blobs = Blobs::new(folder(data, &name));
        if !blobs.has(&FileName::Timestamp) {
            return Err(RealmError::Missing { realm: name, data: data.to_owned() });
        }
        let rules = Rules::shoal(name.as_str());
        let (head, current) = load(&name, &blobs, &rules)?;
        check_keys(&name, &blobs, &rules, &head, &keys)?;
        let sweep = |source| RealmError::Read { realm: name.clone(), file: ".".to_owned(), source };
        blobs.sweep().and_then(|()| remove_uncommitted(&blobs, &head)).map_err(sweep)?;
        let current = watch::Sender::new(current);
        let (head, memory, catalog) = (Mutex::new(head), Memory::default(), Mutex::new(None));
        Ok(Self { name, rules, blobs, keys, head, current, memory, catalog })
    }

    /// Returns the name.
    pub(crate) fn name(&self) -> &RealmName {
        &self.name
    }

    /// Returns the files.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Returns a file that was read before and is the same on the disk.
    pub(crate) fn remembered(&self, path: &str) -> Option<Arc<Remembered>> {
        self.memory.get(path)
    }

    /// Reads a file that may be served.
    pub(crate) fn read(&self, name: &FileName) -> io::Result<Option<Arc<Remembered>>> {
        if !self.serves(name) {
            return Ok(None);
        }
        self.memory.read(&self.blobs, name)
    }

    /// Returns what is committed.
    pub(crate) fn current(&self) -> Current {
        self.current.borrow().clone()
    }

    /// Watches `timestamp.json`.
    pub(crate) fn watch(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    /// Returns the version of a role that is committed, 0 for one that never was.
    pub(crate) fn version(&self, role: &str) -> u64 {
        self.committed().version(role)
    }

    /// Tells whether a file may be served: metadata that a publication under way has written is
    /// not yet the one that will have its name for ever.
    fn serves(&self, name: &FileName) -> bool {
        match name {
            FileName::Metadata { version, role } => *version <= self.version(role),
            FileName::Timestamp
            | FileName::Target { .. }
            | FileName::Closure(_)
            | FileName::Hints(_)
            | FileName::Shard(_) => true,
        }
    }

    /// Returns all roles and their versions as the snapshot has them.
    pub(crate) fn roles(&self) -> Vec<(String, u64)> {
        let head = self.committed();
        head.snapshot.roles.iter().map(|(role, version)| (role.clone(), *version)).collect()
    }

    /// Returns when the timestamp was signed, and when it expires.
    pub(crate) fn signed_for(&self) -> (Time, Time) {
        let timestamp = &self.committed().timestamp;
        (timestamp.signed_at, timestamp.header.expires)
    }

    /// Returns when the snapshot expires.
    pub(crate) fn snapshot_expires(&self) -> Time {
        self.committed().snapshot.header.expires
    }

    /// Returns when the timestamp expires.
    pub(crate) fn expires(&self) -> Timestamp {
        self.committed().timestamp.header.expires.into()
    }

    /// Returns the current policy of a group, if its owners published one.
    pub(crate) fn policy(&self, group: &GroupName) -> Option<Policy> {
        let role = RoleName::owners(group);
        let version = self.version(role.as_str());
        let bytes = self.blobs.read(&FileName::metadata(version, role.as_str())).ok()??;
        let targets = writer::Targets::read(&bytes, role.as_str(), &self.rules).ok()?;
        let path = TargetPath::Policy(group.clone());
        let digest = targets.targets.get(&path.to_string())?.sha256.into();
        let bytes = self.blobs.read(&FileName::Target { path, digest }).ok()??;
        Policy::parse(&bytes, SoftwareVersion::current()).ok()
    }

    /// Signs timestamp and snapshot anew if they have become old.
    pub(crate) fn renew(&self, now: Timestamp) -> Result<(), RealmError> {
        let mut head = self.lock();
        let signed = |expires: Timestamp, life: SignedDuration| expires.checked_sub(life).ok();
        let old = |signed: Option<Timestamp>, age| {
            signed.is_none_or(|at| at > now || now.duration_since(at) >= age)
        };
        let snapshot_signed = signed(head.snapshot.header.expires.into(), SNAPSHOT_LIFE);
        if old(snapshot_signed, SNAPSHOT_AGE) {
            let roles = head.snapshot.roles.clone();
            tracing::info!(realm = %self.name, "signing the snapshot anew");
            return self.commit(&mut head, roles, now);
        }
        if old(Some(head.timestamp.signed_at.into()), TIMESTAMP_AGE) {
            tracing::debug!(realm = %self.name, "signing the timestamp anew");
            return self.commit_timestamp(&mut head, now);
        }
        Ok(())
    }

    /// Signs a snapshot and a timestamp whose versions are above `seen`, so that hosts take them
    /// that have seen it.
    pub(crate) fn rise_above(&self, seen: u64, now: Timestamp) -> Result<(), RealmError> {
        let mut head = self.lock();
        let mut raised = head.clone();
        let versions = [&mut raised.timestamp.header.version, &mut raised.snapshot.header.version];
        for version in versions {
            *version = seen.max(*version);
        }
        let roles = raised.snapshot.roles.clone();
        let committed = self.commit(&mut raised, roles, now);
        // What a failed write left is what the next one must follow on.
        *head = (*self.committed()).clone();
        committed
    }

    fn committed(&self) -> Arc<Head> {
        Arc::clone(&self.current.borrow().head)
    }

    fn lock(&self) -> MutexGuard<'_, Head> {
        // A panic elsewhere cannot leave it half changed: it is assigned as a whole.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs and writes a snapshot of these versions, and commits it.
    fn commit(
        &self,
        head: &mut Head,
        roles: BTreeMap<String, u64>,
        now: Timestamp,
    ) -> Result<(), RealmError> {
        let (snapshot, bytes) = self.sign_snapshot(head, roles, now)?;
        self.blobs.write(&FileName::metadata(snapshot.header.version, "snapshot"), &bytes)?;
        let version = snapshot.header.version;
        let (timestamp, pinned) = self.sign_timestamp(head, version, Target::of(&bytes), now)?;
        self.write_timestamp(head, Head { timestamp, snapshot, root: head.root }, pinned)
    }

    /// Signs and writes a timestamp of the same snapshot.
    fn commit_timestamp(&self, head: &mut Head, now: Timestamp) -> Result<(), RealmError> {
        let writer::Timestamp { snapshot, pin, .. } = head.timestamp;
        let (timestamp, bytes) = self.sign_timestamp(head, snapshot, pin, now)?;
        let next = Head { timestamp, ..head.clone() };
        self.write_timestamp(head, next, bytes)
    }

    /// The commit.
    fn write_timestamp(
        &self,
        head: &mut Head,
        next: Head,
        bytes: Vec<u8>,
    ) -> Result<(), RealmError> {
        if let Err(error) = self.blobs.write(&FileName::Timestamp, &bytes) {
            // The rename may have happened although its folder could not be synced; what the disk
            // says now is what the next version must follow on.
            let (found, current) = load(&self.name, &self.blobs, &self.rules)?;
            *head = found;
            self.current.send_replace(current);
            return Err(error.into());
        }
        self.current.send_replace(Current::of(bytes, &next));
        *head = next;
        Ok(())
    }

    fn sign_snapshot(
        &self,
        head: &Head,
        roles: BTreeMap<String, u64>,
        now: Timestamp,
    ) -> Result<(Snapshot, Vec<u8>), RealmError> {
        let header = self.header(head.snapshot.header.version + 1, now, SNAPSHOT_LIFE);
        let snapshot = Snapshot { header, roles };
        let mut document =
            snapshot.document().map_err(|source| self.unsigned("snapshot", source))?;
        document.sign(&self.keys.snapshot);
        Ok((snapshot, document.to_bytes()))
    }

    fn sign_timestamp(
        &self,
        head: &Head,
        snapshot: u64,
        pin: Target,
        now: Timestamp,
    ) -> Result<(writer::Timestamp, Vec<u8>), RealmError> {
        let header = self.header(head.timestamp.header.version + 1, now, TIMESTAMP_LIFE);
        let timestamp = writer::Timestamp { header, signed_at: now.into(), snapshot, pin };
        let mut document =
            timestamp.document().map_err(|source| self.unsigned("timestamp", source))?;
        document.sign(&self.keys.timestamp);
        Ok((timestamp, document.to_bytes()))
    }

    fn header(&self, version: u64, now: Timestamp, life: SignedDuration) -> Header {
        let expires = now.checked_add(life).unwrap_or(Timestamp::MAX);
        Header { realm: self.name.to_string(), version, expires: expires.into() }
    }

    fn unsigned(&self, role: &str, source: writer::WriteError) -> RealmError {
        RealmError::Sign { realm: self.name.clone(), file: role.to_owned(), source }
    }
}

/// Reads what is committed.
fn load(name: &RealmName, blobs: &Blobs, rules: &Rules) -> Result<(Head, Current), RealmError> {
    let bytes = read(name, blobs, &FileName::Timestamp)?;
    let damaged = |file: &FileName, source| RealmError::Damaged {
        realm: name.clone(),
        file: file.path(),
        source,
    };
    let timestamp = writer::Timestamp::read(&bytes, rules)
        .map_err(|source| damaged(&FileName::Timestamp, Some(source)))?;
    let file = FileName::metadata(timestamp.snapshot, "snapshot");
    let pinned = read(name, blobs, &file)?;
    if Target::of(&pinned) != timestamp.pin {
        return Err(damaged(&file, None));
    }
    let snapshot = Snapshot::read(&pinned, rules).map_err(|source| damaged(&file, Some(source)))?;
    let mut root = 1;
    while blobs.has(&FileName::metadata(root + 1, "root")) {
        root += 1;
    }
    let head = Head { root, timestamp, snapshot };
    let current = Current::of(bytes, &head);
    Ok((head, current))
}

fn read(name: &RealmName, blobs: &Blobs, file: &FileName) -> Result<Vec<u8>, RealmError> {
    let failed = |source| RealmError::Read { realm: name.clone(), file: file.path(), source };
    blobs.read(file).map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Checks that what this server signs will be believed.
fn check_keys(
    name: &RealmName,
    blobs: &Blobs,
    rules: &Rules,
    head: &Head,
    keys: &OnlineKeys,
) -> Result<(), RealmError> {
    let file = FileName::metadata(head.root, "root");
    let bytes = read(name, blobs, &file)?;
    let root = writer::Root::read(&bytes, rules).map_err(|source| RealmError::Damaged {
        realm: name.clone(),
        file: file.path(),
        source: Some(source),
    })?;
    match foreign_key(&root, keys) {
        None => Ok(()),
        Some(role) => Err(RealmError::OtherKey { realm: name.clone(), root: head.root, role }),
    }
}

/// Returns the role for which root wants other keys than the server's, if there is one.
fn foreign_key(root: &writer::Root, keys: &OnlineKeys) -> Option<&'static str> {
    let rings = [
        ("snapshot", &root.snapshot, &keys.snapshot),
        ("timestamp", &root.timestamp, &keys.timestamp),
    ];
    let foreign = |(_, ring, key): &(_, &writer::Keyring, &SigningKey)| {
        ring.threshold != 1 || !ring.keys.contains(&key.public())
    };
    rings.into_iter().find(foreign).map(|(role, ..)| role)
}

/// Removes metadata that an interrupted publication wrote and nothing names.
fn remove_uncommitted(blobs: &Blobs, head: &Head) -> io::Result<()> {
    for name in blobs.list_metadata()? {
        let FileName::Metadata { version, role } = &name else { continue };
        if *version > head.version(role) {
            tracing::info!(file = name.path(), "removing what was never committed");
            blobs.remove(&name)?;
        }
    }
    Ok(())
}
