//! The one lock under which a host is changed: by the daemon, a command, or a recovery.
//!
//! The kernel releases it with the process that holds it, however that ends. So whoever has it
//! knows that a switch which the journal calls unfinished is nobody's any more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::files;

/// Name of the lock in the state folder.
const NAME: &str = "switch.lock";

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot lock `{}`", path.display())]
pub(crate) struct HostLockError {
    path: PathBuf,
    source: io::Error,
}

/// The lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct HostLock {
    _file: File,
}

impl HostLock {
    /// Waits for the lock.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, HostLockError> {
        let path = state_dir.join(NAME);
        let failed = |source| HostLockError { path: path.clone(), source };
        files::make_private_folder(state_dir).map_err(|error| failed(error.source))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_one_has_it_and_the_next_one_waits() {
        let folder = tempfile::tempdir().unwrap();
        let lock = HostLock::take(folder.path()).unwrap();
        let (sender, receiver) = mpsc::channel();
        let path = folder.path().to_owned();
        let waiting = std::thread::spawn(move || {
            let _lock = HostLock::take(&path).unwrap();
            sender.send(()).unwrap();
        });
        assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(lock);
        receiver.recv().unwrap();
        waiting.join().unwrap();
    }
}
