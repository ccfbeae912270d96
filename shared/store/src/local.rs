//! The local Nix store: opened or made so that real Nix 2.8 and 2.34 find it flawless.
//!
//! How paths enter: [`LocalStore::add_temp_roots`], [`LocalStore::lock_paths`], ask
//! [`LocalStore::valid`] again, [`LocalStore::import`] what is missing (in any order, from any
//! thread), [`LocalStore::register`] everything in one transaction, drop the locks. Until then
//! nothing is valid; what a crash leaves behind is swept by the next import, by
//! [`LocalStore::remove_leftovers`], or by a collector.
//!
//! All calls block. A store may be shared between threads, and opened twice.

mod add;
mod database;
mod derivation;
mod error;
pub(crate) mod garbage;
mod import;
pub(crate) mod layout;
mod leftovers;
mod problem;
mod register;
mod remount;
mod roots;
pub(crate) mod temp_roots;
mod verify;
mod write_back;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shared::nix::{PathInfo, Sha256, StorePath};

use crate::lock::LockFile;

use self::{
    database::Database,
    layout::{Layout, io_error},
    temp_roots::TempRoots,
};

pub use error::LocalStoreError;
pub use import::ImportError;
pub use remount::{Remount, make_writable};
pub use verify::{CheckContents, Checked, Damage};
pub use write_back::WriteBack;

/// Descriptors that are kept for everything but path locks.
const SPARE_DESCRIPTORS: u64 = 256;

/// How long to leave a database alone that was too busy.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// What the database says of a valid path, without its references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidPath {
    /// SHA-256 of its NAR.
    pub nar_hash: Sha256,
    /// Size of its NAR.
    pub nar_size: u64,
}

/// A point on the way of paths into the store behind which a crash leaves something else than
/// before it. Whoever hears of one hears of it at once, on the thread that got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The paths are temporary roots of this process.
    Rooted,
    /// What is missing is locked.
    Locked,
    /// All files are on disk, whatever happens to the machine.
    Synced,
    /// All rows are in a transaction that nobody else sees.
    Inserted,
    /// The paths are valid.
    Committed,
    /// The locks are released.
    Unlocked,
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

    /// Returns the directory of all store paths, `nix/store` below the root.
    #[must_use]
    pub fn store_dir(&self) -> &Path {
        &self.layout.store_dir
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
        self.ask(|database| database.valid(paths))
    }

    /// Returns what the database says of `path`, if it is valid.
    ///
    /// # Errors
    /// When the database fails.
    pub fn path_info(&self, path: &StorePath) -> Result<Option<PathInfo>, LocalStoreError> {
        Ok(self.ask(|database| database.infos(&[path.clone()].into()))?.remove(path))
    }

    /// Returns `roots` and all that they refer to.
    ///
    /// # Errors
    /// When a root is not valid, or the database fails.
    pub fn closure(
        &self,
        roots: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, PathInfo>, LocalStoreError> {
        let closure = self.ask(|database| database.closure(roots))?;
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
        self.ask(|database| database.by_hash_part(hash_part))
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
        self.lock_paths_unless(paths, patience, &|| false)
    }

    /// Does what [`lock_paths`](Self::lock_paths) does, but waits no longer once `stopped` says so.
    ///
    /// # Errors
    /// As [`lock_paths`](Self::lock_paths), and when it was stopped.
    pub fn lock_paths_unless(
        &self,
        paths: &BTreeSet<StorePath>,
        patience: Duration,
        stopped: &dyn Fn() -> bool,
    ) -> Result<PathLocks, LocalStoreError> {
        self.writer()?;
        raise_descriptor_limit(paths.len() as u64);
        let start = Instant::now();
        let mut locks = BTreeMap::new();
        // Everybody locks in this order, Nix too, so nobody waits in a circle.
        for path in paths {
            let left = patience.saturating_sub(start.elapsed());
            let lock = LockFile::acquire_unless(&self.layout.lock_file(path), left, stopped)?;
            locks.insert(path.clone(), lock);
        }
        Ok(PathLocks { locks })
    }

    /// Returns where everything lies.
    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Asks the database something, again if it was too busy, as Nix does.
    ///
    /// SQLite itself waits for locks. It gives up after some 10 s where it only expects to wait
    /// for an instant: while another process, stopped perhaps, begins a new log.
    fn ask<T>(
        &self,
        mut question: impl FnMut(&mut Database) -> Result<T, LocalStoreError>,
    ) -> Result<T, LocalStoreError> {
        let start = Instant::now();
        loop {
            match question(&mut self.database()) {
                Err(error) if error.is_busy() && start.elapsed() < database::PATIENCE => {
                    tracing::debug!(%error, "the database is busy");
                    std::thread::sleep(BUSY_INTERVAL);
                }
                answer => return answer,
            }
        }
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
