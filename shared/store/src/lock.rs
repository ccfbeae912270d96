//! Lock files as Nix makes them: `flock(2)` on a file that is removed with the lock.
//!
//! Waiting is by polling, so that every wait has an end. A lock file whose size is not 0 is stale:
//! its owner unlinked it and then wrote to it, so whoever locked it late has to open anew.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

/// How often a lock that is held by another is tried.
const INTERVAL: Duration = Duration::from_millis(50);

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
    /// Whoever waited was told to stop.
    #[error("stopped waiting for `{}`", .0.display())]
    Stopped(PathBuf),
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
        Self::acquire_unless(path, patience, &|| false)
    }

    /// Does what [`acquire`](Self::acquire) does, but waits no longer once `stopped` says so.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and when it was stopped.
    pub fn acquire_unless(
        path: &Path,
        patience: Duration,
        stopped: &dyn Fn() -> bool,
    ) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let start = Instant::now();
        loop {
            let file = open_lock_file(path).map_err(io)?;
            let waited = start.elapsed();
            let operation = FlockOperation::NonBlockingLockExclusive;
            wait_unless(&file, path, operation, patience, waited, stopped)?;
            if file.metadata().map_err(io)?.len() == 0 {
                return Ok(Self { path: path.to_owned(), file });
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // First unlink, then mark: whoever opened the file before and waits for it sees the mark.
        // A file that stays behind is taken over by the next one who locks it.
        if std::fs::remove_file(&self.path).is_ok() {
            drop(self.file.write_all(b"d"));
        }
    }
}

/// Opens a file for `flock(2)`, and makes it if it is missing.
pub(crate) fn open_lock_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

/// Tries `operation`, which must not block by itself, until `patience` ends.
pub(crate) fn wait_for(
    file: &File,
    path: &Path,
    operation: FlockOperation,
    patience: Duration,
    waited: Duration,
) -> Result<(), LockError> {
    wait_unless(file, path, operation, patience, waited, &|| false)
}

/// Does what [`wait_for`] does, but no longer once `stopped` says so.
pub(crate) fn wait_unless(
    file: &File,
    path: &Path,
    operation: FlockOperation,
    patience: Duration,
    waited: Duration,
    stopped: &dyn Fn() -> bool,
) -> Result<(), LockError> {
    let start = Instant::now();
    loop {
        if try_lock(file, operation)
            .map_err(|source| LockError::Io { path: path.to_owned(), source })?
        {
            return Ok(());
        }
        let waited = waited + start.elapsed();
        if waited >= patience {
            return Err(LockError::Busy { path: path.to_owned(), waited });
        }
        if stopped() {
            return Err(LockError::Stopped(path.to_owned()));
        }
        thread::sleep(INTERVAL.min(patience.saturating_sub(waited)));
    }
}

/// Tries `operation`, which must not block, once; returns whether it succeeded.
pub(crate) fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = LockFile::acquire(&path, Duration::ZERO).unwrap();
        let busy = LockFile::acquire(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(busy, LockError::Busy { .. }));
        drop(lock);
        assert!(!path.exists());
        LockFile::acquire(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_file_that_was_left_behind_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        std::fs::write(&path, "").unwrap();
        LockFile::acquire(&path, Duration::ZERO).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn whoever_waits_can_be_told_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let held = LockFile::acquire(&path, Duration::ZERO).unwrap();
        let hour = Duration::from_secs(3600);
        let stopped = LockFile::acquire_unless(&path, hour, &|| true).unwrap_err();
        assert!(matches!(stopped, LockError::Stopped(_)), "{stopped}");
        drop(held);
        LockFile::acquire_unless(&path, hour, &|| true).unwrap();
    }

    #[test]
    fn whoever_waited_for_a_released_lock_opens_it_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let lock = LockFile::acquire(&path, Duration::ZERO).unwrap();
        let waiter = thread::spawn({
            let path = path.clone();
            move || LockFile::acquire(&path, Duration::from_secs(60)).unwrap()
        });
        drop(lock);
        let second = waiter.join().unwrap();
        assert!(path.exists(), "the lock that is held must be the file at its path");
        drop(second);
    }
}
