//! Collects garbage as Nix does, with or without Nix on the host, and beside it.
//!
//! `gc.lock` is held exclusively for the whole run, so that there is one collector at a time, of
//! whatever make. Who wants a new temporary root meanwhile says so over a socket (`listener`).
//! Roots are found (`roots`, `processes`), the database says what they lead to, and what
//! remains is deleted, referrers first (`sweep`): rows before files. So a collector that is
//! killed, or loses its power, leaves files that are not valid, and the next one sweeps them.
//!
//! Start at [`collect`]; [`survey`] tells what it would do.

mod listener;
mod processes;
mod roots;
mod sweep;

use std::{collections::BTreeSet, ffi::OsString, fs, io, path::PathBuf, time::Duration};

use rustix::fs::FlockOperation;
use shared::nix::StorePath;

use self::{listener::Listener, sweep::Sweep};
use crate::{
    local::{LocalStore, LocalStoreError, layout::io_error},
    lock::{open_lock_file, try_lock, wait_for},
};

pub use crate::local::garbage::KeepOutputs;

/// How long another collector may run.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What to collect.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Stop once so many bytes are freed.
    pub max_freed: Option<u64>,
    /// Whether outputs of live derivations are live.
    pub outputs: KeepOutputs,
}

/// How a collection goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Another collector runs; it is waited for.
    Waiting,
    /// So much is dead.
    Found {
        /// Valid paths that are dead.
        paths: usize,
        /// The sum of their sizes as archives.
        nar_size: u64,
    },
    /// A path or leftover was deleted.
    Deleted {
        /// Its name in the store directory.
        name: &'a str,
        /// Bytes that it freed.
        freed: u64,
    },
    /// Something could not be deleted; it is not valid any more, and the next run tries again.
    Stuck {
        /// What.
        path: PathBuf,
        /// Why.
        error: &'a io::Error,
    },
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Paths that were valid and are deleted.
    pub paths: u64,
    /// Leftovers that were swept: files in the store directory that belong to no valid path.
    pub leftovers: u64,
    /// What could not be deleted.
    pub stuck: u64,
    /// Bytes that were freed.
    pub freed: u64,
    /// Whether it stopped because enough is freed.
    pub enough: bool,
}

/// What a collection would find.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Dead paths and the sizes of their archives, in the order in which they would be deleted.
    pub paths: Vec<(StorePath, u64)>,
    /// Names in the store directory that belong to no valid path.
    pub leftovers: Vec<OsString>,
}

/// Whether something may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Delete,
    LookOnly,
}

/// Tells what is dead now, or would be without the links in `without`; changes nothing, and takes
/// no lock.
///
/// # Errors
/// When a root or the database cannot be read.
pub fn survey(
    store: &LocalStore,
    options: &Options,
    without: &BTreeSet<PathBuf>,
) -> Result<Garbage, LocalStoreError> {
    let temporary = roots::temporary(store.layout(), Mode::LookOnly)?;
    let kept = temporary.iter().map(|path| path.hash_part().to_owned()).collect();
    let mut roots = roots::permanent(store.layout(), Mode::LookOnly, without)?;
    roots.extend(temporary);
    roots.extend(processes::roots(store.layout())?);
    let dead = store.dead(&roots, options.outputs)?;
    let paths = dead.into_iter().map(|dead| (dead.path, dead.nar_size)).collect();
    let leftovers = sweep::leftovers(store, &kept)?;
    Ok(Garbage { paths, leftovers })
}

/// Deletes what is dead. Waits for another collector, up to an hour.
///
/// # Errors
/// When a root, the store directory or the database cannot be read or written. What was deleted
/// until then stays so; the store is flawless at any time.
pub fn collect(
    store: &LocalStore,
    options: &Options,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Collected, LocalStoreError> {
    let layout = store.layout();
    listener::prepare(&layout.gc_socket_dir())?;
    let path = layout.gc_lock();
    let gc_lock = open_lock_file(&path).map_err(io_error("open", &path))?;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    if !try_lock(&gc_lock, exclusive).map_err(io_error("lock", &path))? {
        observer(Event::Waiting);
        wait_for(&gc_lock, &path, exclusive, PATIENCE, Duration::ZERO)?;
    }
    // The database writes before anything is freed.
    if let Err(error) = fs::remove_file(layout.reserved()) {
        tracing::debug!(%error, "there is no reserve to give up");
    }
    let collected = collect_locked(store, options, observer);
    layout.reserve_space();
    collected
}

fn collect_locked(
    store: &LocalStore,
    options: &Options,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<Collected, LocalStoreError> {
    let layout = store.layout();
    // Before any root is read, so that one that comes later is heard of.
    let listener = Listener::start(&layout.gc_socket_dir())?;
    let temporary = roots::temporary(layout, Mode::Delete)?;
    let hash_parts = temporary.iter().map(|path| path.hash_part().to_owned());
    listener.agreed().kept.extend(hash_parts);
    let mut roots = roots::permanent(layout, Mode::Delete, &BTreeSet::new())?;
    roots.extend(temporary);
    roots.extend(processes::roots(layout)?);
    let dead = store.dead(&roots, options.outputs)?;
    let nar_size = dead.iter().fold(0, |sum: u64, dead| sum.saturating_add(dead.nar_size));
    observer(Event::Found { paths: dead.len(), nar_size });
    let mut sweep = Sweep::new(store, &listener, options, observer);
    sweep.leftovers()?;
    sweep.dead(&dead)?;
    sweep.links()?;
    Ok(sweep.collected)
}
