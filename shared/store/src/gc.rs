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
mod settings;
mod sweep;

use std::{collections::BTreeSet, ffi::OsString, fs, io, path::PathBuf, time::Duration};

use rustix::fs::{FlockOperation, StatVfsMountFlags, statvfs};
use shared::nix::StorePath;
use tokio_util::sync::CancellationToken;

use self::{
    listener::Listener,
    sweep::{More, Sweep},
};
use crate::{
    local::{
        LocalStore, LocalStoreError,
        layout::{Layout, io_error},
    },
    lock::{open_lock_file, try_lock, wait_unless},
};

pub use self::settings::Settings;
pub use crate::local::garbage::{Keep, KeepDerivations, KeepOutputs};

/// How long another collector may run.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What to collect.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stop once so many bytes are freed.
    pub max_freed: Option<u64>,
    /// What is live because of a live derivation or output.
    pub keep: Keep,
    /// What is live besides all that the roots say; need not be valid.
    pub more_roots: BTreeSet<StorePath>,
    /// Stop soon once this is cancelled; what was deleted until then stays so.
    pub stop: CancellationToken,
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
    /// So many paths are not valid any more, on disk; their files go next.
    Invalidated(usize),
    /// A path or leftover was deleted.
    Deleted {
        /// Its name in the store directory.
        name: &'a str,
        /// Bytes that it freed, or that go with their last name in `.links`.
        freed: u64,
    },
    /// The names in `.links` that nothing shares any more go next.
    Unsharing,
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
    /// Whether it stopped because enough is freed, or because it was told to.
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
    roots.extend(options.more_roots.iter().cloned());
    let dead = store.dead(&roots, options.keep)?;
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
    check_writable(layout)?;
    listener::prepare(&layout.gc_socket_dir())?;
    let path = layout.gc_lock();
    let gc_lock = open_lock_file(&path).map_err(io_error("open", &path))?;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    if !try_lock(&gc_lock, exclusive).map_err(io_error("lock", &path))? {
        observer(Event::Waiting);
        let stopped = || options.stop.is_cancelled();
        wait_unless(&gc_lock, &path, exclusive, PATIENCE, Duration::ZERO, &stopped)?;
    }
    // The database writes before anything is freed.
    if let Err(error) = fs::remove_file(layout.reserved()) {
        tracing::debug!(%error, "there is no reserve to give up");
    }
    let collected = collect_locked(store, options, observer);
    layout.reserve_space();
    collected
}

/// Fails on a read-only mount, before paths become invalid whose files could not go.
fn check_writable(layout: &Layout) -> Result<(), LocalStoreError> {
    let path = &layout.store_dir;
    let mount = statvfs(path).map_err(|errno| io_error("look at", path)(errno.into()))?;
    if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(io_error("delete from", path)(io::ErrorKind::ReadOnlyFilesystem.into()));
    }
    Ok(())
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
    roots.extend(options.more_roots.iter().cloned());
    let dead = store.dead(&roots, options.keep)?;
    let nar_size = dead.iter().fold(0, |sum: u64, dead| sum.saturating_add(dead.nar_size));
    observer(Event::Found { paths: dead.len(), nar_size });
    let mut sweep = Sweep::new(store, &listener, options, observer);
    sweep.leftovers()?;
    loop {
        let more = sweep.dead(&dead)?;
        // Only without its names in `.links` is it sure how much is free.
        sweep.links()?;
        if more == More::No {
            return Ok(sweep.collected);
        }
    }
}
