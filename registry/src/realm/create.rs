//! The first files of a realm.

use std::{collections::BTreeMap, path::Path};

use jiff::Timestamp;
use shared::{
    id::RealmName,
    nix::Sha256,
    trust::{
        Rules, SigningKey, admit,
        writer::{Header, Root, Snapshot, Target, Timestamp as SignedTimestamp},
    },
};

use super::{
    OnlineKeys, RealmError, SNAPSHOT_LIFE, TIMESTAMP_LIFE, folder, foreign_key, online_key_file,
};
use crate::{
    blobs::{Blobs, FileName},
    files,
    keys::{self, KeyError},
};

/// The keys that a server has of its own.
const PURPOSES: [&str; 3] = ["snapshot", "timestamp", "enrolment"];

/// Makes the server's own keys where they are not there yet, and returns those that root names.
///
/// The key for enrolment is made too; a policy names its public half.
pub(crate) fn open_or_create_keys(data: &Path) -> Result<OnlineKeys, RealmError> {
    files::private_folder(&data.join("keys"))?;
    for role in PURPOSES {
        let path = online_key_file(data, role);
        if !path.exists() {
            let made = keys::generate().and_then(|key| keys::create_online(&path, &key));
            made.map_err(|source: KeyError| RealmError::Key { role, source })?;
        }
    }
    OnlineKeys::open(data)
}

/// Makes a realm of a signed root and a signed `targets`, both of version 1.
///
/// # Errors
/// When there is such a realm already, an agent would refuse one of the files, or root names other
/// keys for snapshot and timestamp than the server's.
pub(crate) fn create(
    data: &Path,
    realm: &RealmName,
    root: &[u8],
    targets: &[u8],
    now: Timestamp,
) -> Result<(), RealmError> {
    let blobs = Blobs::new(folder(data, realm));
    if blobs.has(&FileName::Timestamp) {
        return Err(RealmError::Exists { realm: realm.clone(), data: data.to_owned() });
    }
    let keys = OnlineKeys::open(data)?;
    let rules = Rules::shoal(realm.as_str());
    check(root, targets, &keys, &rules, realm, now)?;
    let header = |life| Header {
        realm: realm.to_string(),
        version: 1,
        expires: now.checked_add(life).unwrap_or(Timestamp::MAX).into(),
    };
    let roles = BTreeMap::from([("targets".to_owned(), 1)]);
    let snapshot = Snapshot { header: header(SNAPSHOT_LIFE), roles };
    let snapshot = sign(realm, "snapshot", snapshot.document(), &keys.snapshot)?;
    let pin = Target::of(&snapshot);
    let header = header(TIMESTAMP_LIFE);
    let timestamp = SignedTimestamp { header, signed_at: now.into(), snapshot: 1, pin };
    let timestamp = sign(realm, "timestamp", timestamp.document(), &keys.timestamp)?;
    for (role, bytes) in [("root", root), ("targets", targets), ("snapshot", &snapshot)] {
        blobs.write(&FileName::metadata(1, role), bytes)?;
    }
    blobs.write(&FileName::Timestamp, &timestamp)?;
    Ok(())
}

fn check(
    root: &[u8],
    targets: &[u8],
    keys: &OnlineKeys,
    rules: &Rules,
    realm: &RealmName,
    now: Timestamp,
) -> Result<(), RealmError> {
    let refused = |role: &'static str| {
        move |source: Box<dyn std::error::Error + Send + Sync>| RealmError::Refused { role, source }
    };
    let clock = shared::trust::Clock::synchronised(now);
    let stored = shared::trust::Stored::default();
    shared::trust::Refresh::new(rules.clone(), root, stored, clock)
        .map_err(|error| refused("root")(error.into()))?;
    let read = Root::read(root, rules).map_err(|error| refused("root")(error.into()))?;
    if let Some(role) = foreign_key(&read, keys) {
        return Err(RealmError::OtherKey { realm: realm.clone(), root: 1, role });
    }
    let first = First { root };
    admit::admit(&first, "targets", targets, &BTreeMap::new(), rules, now)
        .map_err(|error| refused("targets")(error.into()))?;
    Ok(())
}

fn sign(
    realm: &RealmName,
    role: &str,
    document: Result<shared::trust::writer::Document, shared::trust::writer::WriteError>,
    key: &SigningKey,
) -> Result<Vec<u8>, RealmError> {
    let mut document = document.map_err(|source| RealmError::Sign {
        realm: realm.clone(),
        file: role.to_owned(),
        source,
    })?;
    document.sign(key);
    Ok(document.to_bytes())
}

/// A realm that has nothing but a root.
struct First<'a> {
    root: &'a [u8],
}

impl admit::Realm for First<'_> {
    fn role(&self, role: &str) -> Option<Vec<u8>> {
        (role == "root").then(|| self.root.to_vec())
    }

    fn version(&self, _: &str) -> u64 {
        0
    }

    fn target(&self, _: &str, _: &Sha256) -> Option<u64> {
        None
    }
}
