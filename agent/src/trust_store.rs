//! What this host has verified, on disk: memory, never trust.
//!
//! One file holds root, timestamp, snapshot and targets, and each policy and each profile has its
//! own: a file is replaced as a whole or not at all, so any crash leaves a state that loads.
//! Everything read from here is verified again before it is used.

use std::path::{Path, PathBuf};

use shared::id::{Digest, RealmName, TargetPath};
use shared::shard;
use shared::trust::{Stored, StoredError, StoredTarget};

use crate::config::RootOfTrust;
use crate::crash;
use crate::files::{self, FileError};

/// Root, timestamp, snapshot and targets.
const TOP: &str = "top.json";

/// The root that the configuration pins, if it pins a digest alone.
const PINNED: &str = "pinned-root.json";

/// Held by whoever compares and replaces a file here.
const LOCK: &str = "lock";

/// More than any state within the caps of the rules.
const MAX_FILE: u64 = 64 << 20;

/// Why trust state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustStoreError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file holds something else than we wrote.
    #[error("cannot use `{}`", path.display())]
    Stored { path: PathBuf, source: StoredError },
    /// What was verified began with what is not there any more.
    #[error("another process changed `{}` at the same time", .0.display())]
    Overtaken(PathBuf),
    /// The configured root is missing.
    #[error("there is no root metadata at `{}`", .0.display())]
    NoRoot(PathBuf),
}

/// The folder of one realm below `state_dir`.
#[derive(Debug, Clone)]
pub(crate) struct TrustStore {
    folder: PathBuf,
}

impl TrustStore {
    /// Names the folder; nothing is made before the first write.
    pub(crate) fn new(state_dir: &Path, realm: &RealmName) -> Self {
        Self { folder: state_dir.join("trust").join(realm.as_str()) }
    }

    /// Returns the root metadata that the configuration pins; none if it must still be fetched.
    pub(crate) fn pinned(&self, root: &RootOfTrust) -> Result<Option<Vec<u8>>, TrustStoreError> {
        match root {
            RootOfTrust::File(path) => match files::read(path, MAX_FILE)? {
                Some(bytes) => Ok(Some(bytes)),
                None => Err(TrustStoreError::NoRoot(path.clone())),
            },
            RootOfTrust::Digest(digest) => {
                let bytes = files::read(&self.folder.join(PINNED), MAX_FILE)?;
                Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
            }
        }
    }

    /// Keeps the root metadata that was fetched for a pinned digest.
    pub(crate) fn keep_pinned(&self, root: &[u8]) -> Result<(), TrustStoreError> {
        Ok(files::replace(&self.folder.join(PINNED), root)?)
    }

    /// Reads root, timestamp, snapshot and targets; empty before the first refresh.
    pub(crate) fn top(&self) -> Result<Stored, TrustStoreError> {
        read(&self.folder.join(TOP), Stored::parse)
    }

    /// Commits root, timestamp, snapshot and targets together, which were verified beginning with
    /// `before`.
    ///
    /// Another process may have gone further meanwhile: then nothing is changed, as older floors
    /// would take the place of newer ones, and it is to be verified again.
    pub(crate) fn commit_top(&self, before: &Stored, new: &Stored) -> Result<(), TrustStoreError> {
        self.commit(&self.folder.join(TOP), before, &new.to_bytes(), Stored::parse)
    }

    /// Reads what is known of one policy or manifest.
    pub(crate) fn target(&self, path: &TargetPath) -> Result<StoredTarget, TrustStoreError> {
        read(&self.target_file(path), StoredTarget::parse)
    }

    /// Commits one policy or manifest with the roles that lead to it, which were verified
    /// beginning with `before`; see [`commit_top`](Self::commit_top).
    pub(crate) fn commit_target(
        &self,
        path: &TargetPath,
        before: &StoredTarget,
        new: &StoredTarget,
    ) -> Result<(), TrustStoreError> {
        self.commit(&self.target_file(path), before, &new.to_bytes(), StoredTarget::parse)
    }

    /// Reads this host's shard of a manifest, if one is kept; it may be of another version.
    pub(crate) fn shard(&self, path: &TargetPath) -> Result<Option<Vec<u8>>, TrustStoreError> {
        Ok(files::read(&self.shard_file(path), shard::MAX_LEN as u64)?)
    }

    /// Keeps this host's shard of a manifest, in the place of the one before.
    pub(crate) fn keep_shard(
        &self,
        path: &TargetPath,
        bytes: &[u8],
    ) -> Result<(), TrustStoreError> {
        Ok(files::replace(&self.shard_file(path), bytes)?)
    }

    /// Writes only what changed, so that a poll with nothing new writes nothing.
    fn commit<T: Default + PartialEq>(
        &self,
        path: &Path,
        before: &T,
        new: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<T, StoredError>,
    ) -> Result<(), TrustStoreError> {
        if files::read(path, MAX_FILE)?.as_deref() == Some(new) {
            return Ok(());
        }
        let _lock = files::lock(&self.folder.join(LOCK))?;
        if read(path, parse)? != *before {
            return Err(TrustStoreError::Overtaken(path.to_owned()));
        }
        crash::point("trust.write");
        files::replace(path, new)?;
        crash::point("trust.written");
        Ok(())
    }

    fn target_file(&self, path: &TargetPath) -> PathBuf {
        self.folder.join("targets").join(format!("{path}.json"))
    }

    fn shard_file(&self, path: &TargetPath) -> PathBuf {
        self.folder.join("targets").join(format!("{path}.shard"))
    }
}

fn read<T: Default>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, StoredError>,
) -> Result<T, TrustStoreError> {
    let Some(bytes) = files::read(path, MAX_FILE)? else { return Ok(T::default()) };
    parse(&bytes).map_err(|source| TrustStoreError::Stored { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, TrustStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = TrustStore::new(folder.path(), &RealmName::parse("main").unwrap());
        (folder, store)
    }

    #[test]
    fn keeps_the_top_and_each_target_apart() {
        let (folder, store) = store();
        assert_eq!(store.top().unwrap(), Stored::default());
        let top = Stored { root: Some(b"{}".to_vec()), ..Stored::default() };
        store.commit_top(&Stored::default(), &top).unwrap();
        let webshop = TargetPath::parse("eu-prod/webshop").unwrap();
        let policy = TargetPath::parse("eu-prod/_policy").unwrap();
        let target = StoredTarget { target: Some(b"{}".to_vec()), ..StoredTarget::default() };
        store.commit_target(&webshop, &StoredTarget::default(), &target).unwrap();
        assert_eq!(store.top().unwrap(), top);
        assert_eq!(store.target(&webshop).unwrap(), target);
        assert_eq!(store.target(&policy).unwrap(), StoredTarget::default());
        assert!(folder.path().join("trust/main/targets/eu-prod/webshop.json").exists());
    }

    #[test]
    fn whoever_is_overtaken_changes_nothing() {
        let (_folder, store) = store();
        let top = |text: &str| Stored { root: Some(text.into()), ..Stored::default() };
        store.commit_top(&Stored::default(), &top("1")).unwrap();
        // Both have read 1; the slower one has older news.
        store.commit_top(&top("1"), &top("3")).unwrap();
        let late = store.commit_top(&top("1"), &top("2")).unwrap_err();
        assert!(matches!(late, TrustStoreError::Overtaken(_)), "{late}");
        assert_eq!(store.top().unwrap(), top("3"));
        // Whoever has found the same has nothing to write.
        store.commit_top(&top("1"), &top("3")).unwrap();

        let path = TargetPath::parse("eu-prod/webshop").unwrap();
        let target =
            |text: &str| StoredTarget { target: Some(text.into()), ..StoredTarget::default() };
        store.commit_target(&path, &StoredTarget::default(), &target("3")).unwrap();
        let late = store.commit_target(&path, &StoredTarget::default(), &target("2")).unwrap_err();
        assert!(matches!(late, TrustStoreError::Overtaken(_)), "{late}");
        assert_eq!(store.target(&path).unwrap(), target("3"));
    }

    #[test]
    fn a_crash_between_two_writes_leaves_the_old_state() {
        let (folder, store) = store();
        let old = Stored { root: Some(b"{}".to_vec()), ..Stored::default() };
        store.commit_top(&Stored::default(), &old).unwrap();
        // What a kill between writing and renaming leaves behind.
        let half = folder.path().join("trust/main/top.json.12345.tmp");
        std::fs::write(half, "{\"format\":1,").unwrap();
        assert_eq!(store.top().unwrap(), old);
        let new = Stored { timestamp: Some(b"{}".to_vec()), ..old.clone() };
        store.commit_top(&old, &new).unwrap();
        assert_eq!(store.top().unwrap(), new);
    }

    #[test]
    fn a_failed_write_is_an_error_and_keeps_the_old_state() {
        let (folder, store) = store();
        let old = Stored { root: Some(b"{}".to_vec()), ..Stored::default() };
        store.commit_top(&Stored::default(), &old).unwrap();
        // A folder where the temporary file must go, so that it cannot be written.
        let name = format!("trust/main/top.json.{}.tmp", std::process::id());
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let new = Stored { timestamp: Some(b"{}".to_vec()), ..old.clone() };
        assert!(store.commit_top(&old, &new).is_err());
        assert_eq!(store.top().unwrap(), old);
    }

    #[test]
    fn a_pinned_digest_is_only_satisfied_by_its_own_bytes() {
        let (_folder, store) = store();
        let pin = RootOfTrust::Digest(Digest::of(b"root"));
        assert_eq!(store.pinned(&pin).unwrap(), None);
        store.keep_pinned(b"other").unwrap();
        assert_eq!(store.pinned(&pin).unwrap(), None);
        store.keep_pinned(b"root").unwrap();
        assert_eq!(store.pinned(&pin).unwrap(), Some(b"root".to_vec()));
    }
}
