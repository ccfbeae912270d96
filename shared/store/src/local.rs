//! The local Nix store: opened or made so that real Nix 2.8 and 2.34 find it flawless.
//!
//! How paths enter: [`LocalStore::add_temp_roots`], [`LocalStore::lock_paths`], ask
//! [`LocalStore::valid`] again, [`LocalStore::import`] what is missing (in any order, from any
//! thread), [`LocalStore::register`] everything in one transaction, drop the locks. Until then
//! nothing is valid; what a crash leaves behind is swept by the next import or by Nix's GC.
//!
//! All calls block. A store may be shared between threads, and opened twice.

mod add;
mod database;
mod derivation;
mod import;
mod layout;
mod problem;
mod register;
mod remount;
mod roots;
mod temp_roots;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shared::nix::{PathInfo, Sha256, StorePath, content_address::ContentAddressError};

use crate::lock::{LockError, LockFile};

use self::{
    database::Database,
    layout::{Layout, io_error},
    temp_roots::TempRoots,
};

pub use import::ImportError;
pub use remount::{Remount, make_writable};
pub use verify::{CheckContents, Damage};

/// Descriptors that are kept for everything but path locks.
const SPARE_DESCRIPTORS: u64 = 256;

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
    /// The caller does not hold the lock of the path; nothing was touched.
    #[error("`{0}` is not locked")]
    NotLocked(StorePath),
    /// What was to be added changed meanwhile.
    #[error("`{}` changed while it was copied", .0.display())]
    Changed(PathBuf),
    /// What was to be added cannot be in a store.
    #[error("`{}` {what}", .path.display())]
    Unsupported {
        /// The offending file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        what: &'static str,
    },
    /// No store path can have this name and these references.
    #[error(transparent)]
    Address(#[from] ContentAddressError),
    /// A lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl LocalStoreError {
    /// Returns whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        if let Self::Database { source, .. } = self {
            return source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        }
        if let Self::Io { source, .. } | Self::Lock(LockError::Io { source, .. }) = self {
            return is_disk_full(source);
        }
        false
    }
}

/// Returns whether the disk, or the part of it that we may use, is full.
fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
    layout: Layout,
    database: Mutex<Database>,
    writer: Option<Writer>,
}

/// What a store needs beyond queries.
#[derive(Debug)]
struct Writer {
    temp_roots: Arc<TempRoots>,
    /// The store directory, to sync its file system.
    store_dir: File,
}

impl LocalStore {
    /// Opens the store below `root`, `/` or any other directory, and makes it if there is none.
    ///
    /// # Errors
    /// When it cannot be made or opened, or is none that we know.
    pub fn open(root: &Path) -> Result<Self, LocalStoreError> {
        let layout = Layout::new(root)?;
        layout.check()?;
        layout.create()?;
        let database = Mutex::new(Database::open(&layout)?);
        let store = &layout.store_dir;
        let store_dir = File::open(store).map_err(io_error("open", store))?;
        let writer = Some(Writer { temp_roots: TempRoots::of(&layout)?, store_dir });
        Ok(Self { layout, database, writer })
    }

    /// Opens an existing store for queries alone; needs no right to write to it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open_for_reading(root: &Path) -> Result<Self, LocalStoreError> {
        let layout = Layout::new(root)?;
        layout.check()?;
        let database = Mutex::new(Database::open_for_reading(&layout)?);
        Ok(Self { layout, database, writer: None })
    }

    /// Returns the root below which the store lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.layout.root
    }

    /// Returns where `path` really lies.
    #[must_use]
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.layout.real_path(path)
    }

    /// Returns the directory of Nix's state, `nix/var/nix` below the root.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.layout.state_dir
    }

    /// Returns which of `paths` are valid, by one statement.
    ///
    /// # Errors
    /// When the database fails.
    pub fn valid(
        &self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, ValidPath>, LocalStoreError> {
        self.database().valid(paths)
    }

    /// Returns what the database says of `path`, if it is valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, LocalStoreError> {
        Ok(self.database().infos(&[path.clone()].into())?.remove(path))
    }

    /// Returns `roots` and all that they refer to.
    ///
    /// # Errors
    /// When a root is not valid, or the database fails.
    pub fn closure(
        &self,
        roots: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalStoreError> {
        let closure = self.database().closure(roots)?;
        match roots.iter().find(|root| !closure.contains_key(*root)) {
            Some(missing) => Err(LocalStoreError::NotValid(missing.clone())),
            None => Ok(closure),
        }
    }

    /// Returns the valid path with this hash part.
    ///
    /// # Errors
    /// When the database fails.
    pub fn by_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>, LocalStoreError> {
        self.database().by_hash_part(hash_part)
    }

    /// Keeps `paths` from any garbage collector as long as this process has the store open.
    ///
    /// Waits while a collector runs that does not answer. Ask whether a path is valid only
    /// afterwards: before, it may be on its way out.
    ///
    /// # Errors
    /// When they cannot be written down.
    pub fn add_temp_roots(&self, paths: &BTreeSet<StorePath>) -> Result<(), LocalStoreError> {
        self.writer()?.temp_roots.add(paths)
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
        self.writer()?;
        raise_descriptor_limit(paths.len() as u64);
        let start = Instant::now();
        let mut locks = BTreeMap::new();
        // Everybody locks in this order, Nix too, so nobody waits in a circle.
        for path in paths {
            let left = patience.saturating_sub(start.elapsed());
            let lock = LockFile::acquire(&self.layout.lock_file(path), left)?;
            locks.insert(path.clone(), lock);
        }
        Ok(PathLocks { locks })
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        // A panic in the middle of a transaction has rolled it back.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> Result<&Writer, LocalStoreError> {
        self.writer.as_ref().ok_or(LocalStoreError::ReadOnly)
    }
}

/// Allows this process as many descriptors as the locks need, as far as it may.
fn raise_descriptor_limit(locks: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = locks.saturating_add(SPARE_DESCRIPTORS);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, ..limit }) {
            tracing::debug!(wanted, %error, "the limit of open files stays");
        }
    }
}

#[cfg(test)]
mod tests;
