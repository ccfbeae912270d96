//! The one lock under which a host is changed: by the daemon, a command, or a recovery.
//!
//! The kernel releases it with the process that holds it, however that ends. So whoever has it
//! knows that a switch which the journal calls unfinished is nobody's any more.

use std::fs::File;
use std::path::Path;

use crate::files::{self, FileError};

/// Name of the lock in the state folder.
const NAME: &str = "switch.lock";

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct HostLockError(#[from] FileError);

/// The lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct HostLock {
    _file: File,
}

impl HostLock {
    /// Waits for the lock.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, HostLockError> {
        Ok(Self { _file: files::lock(&state_dir.join(NAME))? })
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
