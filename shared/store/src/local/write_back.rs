//! Writing to the disk early what has to be there in the end.
//!
//! The kernel keeps what is written in memory for many seconds, so that the sync before paths
//! become valid would find all of it still to do, with nothing else to do meanwhile. Begun while
//! the rest is downloaded and decoded, most of it costs no time.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{LocalStore, LocalStoreError, layout::io_error};

/// Bytes that are worth a sync, which makes the file system commit its journal, too.
///
/// Small, so that little is left to be done in the end, and the disk is never idle before. Where it
/// is slower than we are, the steps grow by themselves: one sync begins when the other has ended.
const STEP: u64 = 16 * 1024 * 1024;

/// Syncs the store's file system now and then, until it is dropped.
///
/// This makes nothing durable that anybody relies on: whoever registers paths syncs again, and is
/// told what failed.
#[derive(Debug)]
pub struct WriteBack(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that were written since the last sync began.
    written: u64,
    ended: bool,
}

impl LocalStore {
    /// Begins to write early what is told to be written.
    ///
    /// # Errors
    /// When the store directory cannot be opened.
    pub fn write_back(&self) -> Result<WriteBack, LocalStoreError> {
        WriteBack::of(self.store_dir())
    }
}

impl WriteBack {
    fn of(folder: &Path) -> Result<Self, LocalStoreError> {
        // A description of its own: an error of writing back is told once to each, and the one
        // that paths are registered with must hear of it.
        let folder = File::open(folder).map_err(io_error("open", folder))?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        drop(tokio::task::spawn_blocking(move || {
            while theirs.wait() {
                if let Err(error) = rustix::fs::syncfs(&folder) {
                    tracing::debug!(%error, "cannot write early");
                    return;
                }
            }
        }));
        Ok(Self(shared))
    }

    /// Says that so many bytes more were written.
    pub fn written(&self, bytes: u64) {
        let mut state = self.0.state();
        state.written += bytes;
        if state.written >= STEP {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for WriteBack {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a sync is worth it; returns whether it is not over.
    fn wait(&self) -> bool {
        let idle = |state: &mut State| state.written < STEP && !state.ended;
        let state = self.changed.wait_while(self.state(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.written = 0;
        !state.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_due_after_so_many_bytes_in_whatever_pieces_and_none_at_the_end() {
        let write_back = WriteBack(Arc::default());
        write_back.written(STEP - 1);
        assert_eq!(write_back.0.state().written, STEP - 1);
        write_back.written(1);
        assert!(write_back.0.wait());
        assert_eq!(write_back.0.state().written, 0);
        let shared = Arc::clone(&write_back.0);
        let waits = std::thread::spawn(move || shared.wait());
        drop(write_back);
        assert!(!waits.join().unwrap(), "it goes on when nobody writes any more");
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        drop(WriteBack::of(folder.path()).unwrap());
        let gone = folder.path().join("gone");
        assert!(WriteBack::of(&gone).is_err());
    }
}
