//! Temporary roots: what this process tells any garbage collector to keep while it lives.
//!
//! A collector holds `gc.lock` for its whole run and reads the files in `temproots` at its start.
//! So a root is written down, and holds once the lock is seen free, when the next collector will
//! read it, or once the running one has said over its socket that it knows.
//!
//! At the end it is the other way round. Nix's collector reads the permanent roots first and the
//! temporary ones afterwards: a process that makes a permanent root and ends in between is in
//! neither. So we leave only while no collector runs, or after telling the running one.
//!
//! A connection to a collector is kept, as Nix keeps it. The collector of Nix notes a connection
//! only after it has begun to serve it: if it is closed before, the next one that gets the same
//! number ends the whole process (seen with 2.34.8: `std::terminate() called without exception`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;
use shared::nix::StorePath;

use super::{
    LocalStoreError,
    layout::{Layout, io_error},
};
use crate::lock::{LockError, open_lock_file, try_lock, wait_for};

/// How often a collector that does not answer is tried; Nix waits as long.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a running collector may take to answer or end.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a running collector may take to hear our last word.
const FAREWELL: Duration = Duration::from_secs(60);

/// How long a collector may take to note a connection that it serves.
const NOTED: Duration = Duration::from_millis(200);

/// The file is named by the process, so one process must not have two for one store.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<TempRoots>>> = Mutex::new(BTreeMap::new());

/// Held by whoever makes or removes such a file: one that opens the store anew waits for one that
/// is about to leave it, and neither removes the other's file.
pub(super) static FILES: Mutex<()> = Mutex::new(());

/// The temporary roots of this process in one store.
#[derive(Debug)]
pub(super) struct TempRoots {
    file_path: PathBuf,
    gc_lock: PathBuf,
    socket_dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Locked for life, once there is a root.
    file: Option<File>,
    written: BTreeSet<StorePath>,
    /// The connection to a collector that ran when a root was added.
    collector: Option<UnixStream>,
}

impl TempRoots {
    /// Returns the temporary roots of this process in the store at `layout`.
    pub(super) fn of(layout: &Layout) -> Result<Arc<Self>, LocalStoreError> {
        let folder = layout.temp_roots_dir();
        let key = folder.canonicalize().map_err(io_error("resolve", &folder))?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, roots| roots.strong_count() > 0);
        if let Some(roots) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(roots);
        }
        let roots = Arc::new(Self {
            file_path: key.join(std::process::id().to_string()),
            gc_lock: layout.gc_lock(),
            socket_dir: layout.gc_socket_dir(),
            state: Mutex::default(),
        });
        open.insert(key, Arc::downgrade(&roots));
        Ok(roots)
    }

    /// Writes `paths` down, those that are not yet.
    pub(super) fn add(&self, paths: &BTreeSet<StorePath>) -> Result<(), LocalStoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<StorePath> = paths.difference(&state.written).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut file = match state.file.take() {
            Some(file) => file,
            None => self.open_file()?,
        };
        let mut records = Vec::new();
        for path in &missing {
            records.extend_from_slice(path.to_string().as_bytes());
            records.push(0);
        }
        // Written before anything is said, unlike Nix: a collector that starts between an answer of
        // the one before it and the record would hear of the root from neither.
        let written = file.write_all(&records).map_err(io_error("write", &self.file_path));
        state.file = Some(file);
        written?;
        drop(self.tell(&mut state.collector, &missing, PATIENCE)?);
        state.written.extend(missing);
        Ok(())
    }

    /// Makes and locks the file of this process.
    fn open_file(&self) -> Result<File, LocalStoreError> {
        let _files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let path = &self.file_path;
        loop {
            // Nobody alive has our number, so a file of that name is a dead one's.
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", path)(error));
                }
                Ok(()) | Err(_) => {}
            }
            let file = open_lock_file(path).map_err(io_error("make", path))?;
            let operation = FlockOperation::NonBlockingLockExclusive;
            wait_for(&file, path, operation, PATIENCE, Duration::ZERO)?;
            // A collector that found it unlocked has unlinked it and then written to it.
            if file.metadata().map_err(io_error("look at", path))?.len() == 0 {
                return Ok(file);
            }
        }
    }

    /// Returns once every collector either is yet to come, and will read the file, or knows of
    /// `paths`. None comes as long as what is returned is held.
    fn tell(
        &self,
        collector: &mut Option<UnixStream>,
        paths: &[StorePath],
        patience: Duration,
    ) -> Result<Option<File>, LocalStoreError> {
        let start = Instant::now();
        let gc_lock = open_lock_file(&self.gc_lock).map_err(io_error("open", &self.gc_lock))?;
        loop {
            let free = try_lock(&gc_lock, FlockOperation::NonBlockingLockShared)
                .map_err(io_error("lock", &self.gc_lock))?;
            if free {
                return Ok(Some(gc_lock));
            }
            if let Ok(stream) = self.tell_collector(collector.take(), paths, patience) {
                *collector = Some(stream);
                return Ok(None);
            }
            let waited = start.elapsed();
            if waited >= patience {
                return Err(LockError::Busy { path: self.gc_lock.clone(), waited }.into());
            }
            // It has just started, or just ended.
            thread::sleep(INTERVAL);
        }
    }

    /// Tells the running collector of `paths`, over a connection that there may be already; fails
    /// if there is no collector.
    fn tell_collector(
        &self,
        connection: Option<UnixStream>,
        paths: &[StorePath],
        patience: Duration,
    ) -> io::Result<UnixStream> {
        let mut stream = connection.map_or_else(|| connect(&self.socket_dir), Ok)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        for path in paths {
            stream.write_all(format!("{path}\n").as_bytes())?;
            let mut answer = [0];
            stream.read_exact(&mut answer)?;
            if answer != *b"1" {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(stream)
    }

    /// Takes the roots back, once no collector can have missed the permanent ones beside them.
    fn leave(&self, mut collector: Option<UnixStream>, paths: &[StorePath]) {
        let _files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let told = self.tell(&mut collector, paths, FAREWELL);
        drop(fs::remove_file(&self.file_path));
        match told {
            // From now on the next one may start.
            Ok(Some(gc_lock)) => drop(gc_lock),
            Ok(None) => thread::sleep(NOTED),
            Err(error) => {
                tracing::warn!(%error, "a collector did not hear which paths we leave behind");
            }
        }
    }
}

impl Drop for TempRoots {
    fn drop(&mut self) {
        let State { file, written, collector } =
            std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        // Locked until it is gone: nobody may take it for a dead one's.
        if let Some(_file) = file {
            self.leave(collector, &written.into_iter().collect::<Vec<_>>());
        }
    }
}

/// Returns the records in a file of temporary roots; what follows the last NUL is being written, or
/// was when its writer died.
pub(crate) fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == 0).filter_map(|record| record.strip_suffix(b"\0"))
}

/// Connects to a running collector.
fn connect(socket_dir: &Path) -> io::Result<UnixStream> {
    // A socket's path may have 107 bytes, a store's root any number; the descriptor makes it short.
    let folder = File::open(socket_dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/socket", folder.as_raw_fd()))
}
