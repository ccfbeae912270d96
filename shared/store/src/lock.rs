//! Lock files as Nix makes them: `flock(2)` on a file that is removed with the lock.
//!
//! Waiting is by polling, so that every wait has an end. A lock file whose size is not 0 is stale:
//! its owner unlinked it and then wrote to it, so whoever locked it late has to open anew.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else held it all the time.
    #[error("`{}` was held by another process for {} s", .path.display(), .waited.as_secs())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The file system failed.
    #[error("cannot lock `{}`", .path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// A lock that was taken; dropping it removes the file and releases the lock.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    /// Takes the lock at `path`, waiting up to `patience`.
    ///
    /// # Errors
    /// When it stays busy, or the file system fails.
    pub fn acquire(path: &Path, patience: Duration) -> Result<Self, LockError> {
        let _ = (path, patience);
        todo!()
    }
}
