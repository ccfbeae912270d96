//! The local Nix store: opened or made so that real Nix 2.8 and 2.34 find it flawless.
//!
//! How paths enter: [`LocalStore::add_temp_roots`], [`LocalStore::lock_paths`], ask
//! [`LocalStore::valid`] again, [`LocalStore::import`] what is missing (in any order, from any
//! thread), [`LocalStore::register`] everything in one transaction, drop the locks. Until then
//! nothing is valid; what a crash leaves behind is swept by the next import or by Nix's GC.
//!
//! All calls block. A store may be shared between threads, and opened twice.

mod import;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use shared::nix::{PathInfo, Sha256, StorePath};

use crate::lock::{LockError, LockFile};

pub use import::ImportError;

/// Why the local store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// The file system failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The database failed.
    #[error("cannot {action} in Nix's database")]
    Database {
        /// What was attempted.
        action: &'static str,
        /// What failed.
        source: rusqlite::Error,
    },
    /// The database holds something that Nix would not write.
    #[error("Nix's database holds `{value}` as {what} of `{path}`")]
    Corrupt {
        /// The path of the row.
        path: String,
        /// The column.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// A schema that is not known.
    #[error("`{}` holds schema `{found}`; only 10 is known", .path.display())]
    Schema {
        /// The schema file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The store directory is reached through a symlink, which Nix refuses.
    #[error("`{}` is a symlink; a store directory must not be reached through one", .0.display())]
    Symlink(PathBuf),
    /// The store was opened for reading.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// The path is valid with another hash; nothing was changed.
    #[error("`{path}` is valid with hash `{present}`, not `{wanted}`")]
    Conflict {
        /// The path.
        path: StorePath,
        /// The hash in the database.
        present: Sha256,
        /// The hash that was to be registered.
        wanted: Sha256,
    },
    /// A reference would be missing.
    #[error("`{path}` refers to `{reference}`, which is not valid")]
    MissingReference {
        /// The path that refers.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// References go round in a circle.
    #[error("`{0}` refers to itself through other paths")]
    Cycle(StorePath),
    /// A derivation that cannot be read.
    #[error("`{0}` is no derivation that Nix would write")]
    Derivation(StorePath),
    /// A path that was asked for is not valid.
    #[error("`{0}` is not valid")]
    NotValid(StorePath),
    /// A lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// What the database says of a valid path, without its references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidPath {
    /// SHA-256 of its NAR.
    pub nar_hash: Sha256,
    /// Size of its NAR.
    pub nar_size: u64,
}

/// Locks on store paths; dropping them releases all.
#[derive(Debug)]
pub struct PathLocks {
    locks: BTreeMap<StorePath, LockFile>,
}

impl PathLocks {
    /// Returns whether `path` is locked by these.
    #[must_use]
    pub fn holds(&self, path: &StorePath) -> bool {
        self.locks.contains_key(path)
    }
}

/// A local Nix store.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Opens the store below `root`, `/` or any other directory, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be made or opened, or is none that we know.
    pub fn open(root: &Path) -> Result<Self, LocalStoreError> {
        let _ = root;
        todo!()
    }

    /// Opens an existing store for queries alone; needs no right to write to it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open_for_reading(root: &Path) -> Result<Self, LocalStoreError> {
        let _ = root;
        todo!()
    }

    /// Returns the root below which the store lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where `path` really lies.
    #[must_use]
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        let _ = path;
        todo!()
    }

    /// Returns the directory of Nix's state, `nix/var/nix` below the root.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        todo!()
    }

    /// Returns which of `paths` are valid, by one statement.
    ///
    /// # Errors
    /// When the database fails.
    pub fn valid(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, ValidPath>, LocalStoreError> {
        let _ = paths;
        todo!()
    }

    /// Returns what the database says of `path`, if it is valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, LocalStoreError> {
        let _ = path;
        todo!()
    }

    /// Returns `roots` and all that they refer to.
    ///
    /// # Errors
    /// When a root is not valid, or the database fails.
    pub fn closure(
        &self,
        roots: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalStoreError> {
        let _ = roots;
        todo!()
    }

    /// Returns the valid path with this hash part.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, LocalStoreError> {
        let _ = hash_part;
        todo!()
    }

    /// Keeps `paths` from any garbage collector as long as this process lives.
    ///
    /// Waits while a collector runs that does not answer.
    ///
    /// # Errors
    /// When they cannot be written down.
    pub fn add_temp_roots(&self, paths: &BTreeSet<StorePath>) -> Result<(), LocalStoreError> {
        let _ = paths;
        todo!()
    }

    /// Locks `paths` against every other process and thread, waiting up to `patience` in all.
    ///
    /// # Errors
    /// When one stays busy, or the file system fails.
    pub fn lock_paths(
        &self,
        paths: &BTreeSet<StorePath>,
        patience: Duration,
    ) -> Result<PathLocks, LocalStoreError> {
        let _ = (paths, patience);
        todo!()
    }

    /// Unpacks `nar` at the final place of `info.path`, checking size, hash and content address.
    ///
    /// Reads at most `info.nar_size` bytes. The path is not valid until it is registered. The
    /// caller holds its temp root and, in `locks`, its lock.
    ///
    /// # Errors
    /// When the archive is not what `info` says, or cannot be written; nothing is left behind.
    pub fn import(
        &self,
        info: &PathInfo,
        nar: &mut dyn Read,
        locks: &PathLocks,
    ) -> Result<(), ImportError> {
        let _ = (info, nar, locks);
        todo!()
    }

    /// Makes `infos` valid, all or none, once their contents are on disk.
    ///
    /// A path that is valid already with the same hash gains the signatures that it lacks.
    ///
    /// # Errors
    /// When a path is valid with another hash, a reference is missing or circular, or the database
    /// or disk fails; nothing is changed then.
    pub fn register(&self, infos: &[PathInfo]) -> Result<(), LocalStoreError> {
        let _ = infos;
        todo!()
    }

    /// Copies the tree at `source` into the store, as `nix-store --add` does, with `references`.
    ///
    /// # Errors
    /// When it cannot be read or written, or a reference is not valid.
    pub fn add(
        &self,
        source: &Path,
        name: &str,
        references: &BTreeSet<StorePath>,
    ) -> Result<PathInfo, LocalStoreError> {
        let _ = (source, name, references);
        todo!()
    }

    /// Keeps `path` from the garbage collector by the permanent root `gcroots/shoal/<name>`.
    ///
    /// Replaces a root of that name. `name` may have several components.
    ///
    /// # Errors
    /// When the root cannot be written.
    pub fn add_root(&self, name: &str, path: &StorePath) -> Result<(), LocalStoreError> {
        let _ = (name, path);
        todo!()
    }

    /// Removes the permanent root `gcroots/shoal/<name>`, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_root(&self, name: &str) -> Result<(), LocalStoreError> {
        let _ = name;
        todo!()
    }

    /// Registers the symlink `link`, anywhere, as an indirect root.
    ///
    /// # Errors
    /// When the root cannot be written.
    pub fn add_indirect_root(&self, link: &Path) -> Result<(), LocalStoreError> {
        let _ = link;
        todo!()
    }
}
