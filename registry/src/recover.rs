//! A server that was restored from a backup, brought above what hosts have seen since it was made.
//!
//! Hosts take nothing that is older than what they have: a registry whose files are of yesterday
//! only looks like a mirror that lags. What was published since then is still signed by its teams,
//! and whoever has a copy, such as a mirror, can give it back; the registry itself signs anew what
//! is its own to sign, with versions above those that hosts have told of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use shared::{
    id::{Digest, TargetPath},
    manifest::Manifest,
    nix::Sha256,
    trust::{Rules, writer::Targets},
    version::SoftwareVersion,
};

use crate::realm::{Precondition, PublishError, Realm, Submission};

/// The deepest folder that is looked into, and the largest file that is read.
const DEPTH: usize = 6;
const LARGEST: u64 = 32 << 20;

/// One version of a role that was taken from a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) role: String,
    pub(crate) version: u64,
}

/// Takes every version of a role that a copy of the files has and the realm lacks, as if it were
/// published again: with all its checks, in the order of its versions.
///
/// # Errors
/// When one is refused; those before it are taken.
pub(crate) fn take_from(
    realm: &Realm,
    folder: &Path,
    now: Timestamp,
) -> Result<Vec<Taken>, PublishError> {
    let copy = Copy::of(folder);
    let mut roles: BTreeSet<(u8, &str)> = BTreeSet::new();
    for (role, _) in copy.roles.keys() {
        // Who may publish is decided by root, then by targets.
        let rank = match role.as_str() {
            "root" => 0,
            "targets" => 1,
            // These are the registry's own to sign.
            "snapshot" | "timestamp" => continue,
            _ => 2,
        };
        roles.insert((rank, role));
    }
    let mut taken = Vec::new();
    for (_, role) in roles {
        loop {
            let current = realm.version(role);
            let Some(path) = copy.roles.get(&(role.to_owned(), current + 1)) else { break };
            let Ok(bytes) = fs::read(path) else { break };
            let expected = match current {
                0 => Precondition::Absent,
                version => Precondition::Version(version),
            };
            let submission = copy.submission(realm, role, bytes);
            let receipt = realm.publish(role, expected, &submission, now)?;
            taken.push(Taken { role: role.to_owned(), version: receipt.version });
        }
    }
    Ok(taken)
}

/// The files of a copy, by what tells what they are: a mirror, or anything laid out like one.
struct Copy {
    roles: BTreeMap<(String, u64), PathBuf>,
    /// Everything else that is named by its digest.
    blobs: BTreeMap<Digest, PathBuf>,
}

impl Copy {
    fn of(folder: &Path) -> Self {
        let mut copy = Self { roles: BTreeMap::new(), blobs: BTreeMap::new() };
        copy.look_into(folder, 0);
        copy
    }

    fn look_into(&mut self, folder: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEPTH {
                self.look_into(&path, depth + 1);
            } else if kind.is_file() && entry.metadata().is_ok_and(|it| it.len() <= LARGEST) {
                self.note(name, &path);
            }
        }
    }

    fn note(&mut self, name: &str, path: &Path) {
        let first = name.split('.').next().unwrap_or_default();
        if let Some(role) = name.strip_suffix(".json").and_then(|it| it.split_once('.'))
            && let Ok(version) = role.0.parse()
        {
            self.roles.insert((role.1.to_owned(), version), path.to_owned());
        } else if let Ok(digest) = first.parse()
            && !name.ends_with(".hints")
        {
            self.blobs.insert(digest, path.to_owned());
        }
    }

    /// Puts a role together with what it references, as far as the copy has it.
    fn submission(&self, realm: &Realm, role: &str, bytes: Vec<u8>) -> Submission {
        let mut submission = Submission::default();
        let rules = Rules::shoal(realm.name().as_str());
        let targets = Targets::read(&bytes, role, &rules).map(|read| read.targets);
        for (path, target) in targets.unwrap_or_default() {
            let Some(content) = self.blob(target.sha256) else { continue };
            let is_manifest = TargetPath::parse(&path).is_ok_and(|path| path.profile().is_some());
            if is_manifest
                && let Ok(manifest) = Manifest::parse(&content, SoftwareVersion::current())
            {
                for entry in manifest.entries {
                    let digest = Sha256::from(entry.closure);
                    submission.blobs.extend(self.blob(digest).map(|bytes| (digest, bytes)));
                }
            }
            submission.blobs.insert(target.sha256, content);
        }
        submission.role = bytes;
        submission
    }

    fn blob(&self, digest: Sha256) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blobs.get(&Digest::from(digest))?).ok()?;
        (Sha256::of(&bytes) == digest).then_some(bytes)
    }
}
