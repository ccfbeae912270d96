//! Substitution: makes closures valid in the local store, from binary caches.
//!
//! What is to be had is pinned beforehand, path by path, by a [`ClosureIndex`]; caches only
//! deliver. A path enters the store if its NAR has the pinned hash and size, and if it is content
//! addressed or signed by a trusted key. Each path may come from another cache: one that fails or
//! lies is named in the outcome, and the next one is asked. Everything becomes valid in one
//! transaction at the end.
//!
//! A process that dies on the way, at whatever [`Step`], leaves nothing valid that is not whole, and
//! nothing that the next run does not find:
//!
//! | it died | it leaves | the next run |
//! |---|---|---|
//! | after [`Step::Rooted`] | its temporary roots | removes what the roots name, then the roots |
//! | after [`Step::Locked`] | lock files too, free since the kernel closed them | takes or removes them |
//! | before [`Step::Committed`] | trees too, whole or not, none of them valid | removes them, and fetches anew what it wants |
//! | after [`Step::Committed`] | no trees | finds all valid |
//! | after [`Step::Unlocked`] | its temporary roots | removes them |
//!
//! Half a tree and a whole one are not told apart, so what was not valid yet is fetched again. A run
//! that is stopped, or fails, is better off: it makes valid what is whole before it ends.
//!
//! Without an index, [`discover`] makes one from narinfos first, and [`run_unpinned`] does both. Start
//! at [`run`].

mod ahead;
mod discover;
mod error;
mod fetch;
mod offer;
mod plan;
mod queue;
mod share;
mod unpinned;
mod workers;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use shared::{
    closure::{ClosureEntry, ClosureIndex},
    hints::Hints,
    nix::{PathInfo, StorePath, TrustedKeys},
    problem::chain,
};
use tokio_util::sync::CancellationToken;

use crate::{
    archive::remove_tree,
    cache::BinaryCache,
    cpu,
    disk::Guard,
    local::{LocalStore, LocalStoreError, PathLocks, Step},
    lock::LockError,
};

use queue::Queue;

pub use discover::{Discovered, discover};
pub use error::{Cause, Fault, FaultCause, SubstituteError};
pub use plan::{Plan, check_space, plan};
pub use share::{Share, Shares};
pub use unpinned::run_unpinned;

/// How often a run begins if what was valid is gone when it would end.
///
/// That is not ours to prevent: the collector of Nix may delete a path that it was told to keep, if
/// it deletes what refers to it just then, and `nix-store --verify` may forget one.
const ATTEMPTS: u32 = 3;

/// Where paths may come from, and whom to believe.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The caches, the one to ask first at the front.
    pub caches: Vec<BinaryCache>,
    /// The keys that vouch for paths which are not content-addressed.
    pub trusted: TrustedKeys,
    /// What is said of where NARs are; verified or ignored, and may be left out.
    pub hints: Vec<Hints>,
}

/// How much of the machine to use, and how long.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most downloads at the same time, which are only reached if a cache is far away.
    pub connections: usize,
    /// Most decoders at the same time, likewise; each takes a thread.
    pub decoders: usize,
    /// Bytes that all decoders together may take for their windows. A file that asks for more
    /// is decoded alone.
    pub decoder_memory: u64,
    /// Bytes that must stay free on the file system of the store, whoever fills it.
    pub min_free: u64,
    /// How long to wait for others that are substituting or building the same paths.
    pub patience: Duration,
    /// Ends it soon when cancelled, as a failure would: what is whole by then becomes valid.
    pub stop: CancellationToken,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            connections: 16,
            decoders: (2 * cores).clamp(2, 4),
            decoder_memory: 64 * 1024 * 1024,
            min_free: 0,
            patience: Duration::from_secs(3600),
            stop: CancellationToken::new(),
        }
    }
}

/// How much is under way at the same time.
#[derive(Debug)]
struct Pace {
    connections: usize,
    /// How many of them fetch the smallest paths first.
    small: usize,
    /// Threads for all but those.
    decoders: usize,
    /// Bytes that may wait for a decoder.
    waiting: usize,
}

impl Pace {
    /// Near caches keep all decoders busy with few connections, and more would only hold memory.
    fn near(limits: &Limits) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // A decoder waits for its connection now and then; one more computes meanwhile.
        let decoders = limits.decoders.min(cores + 1);
        let connections = limits.connections.min(2 * decoders);
        Self { connections, small: 0, decoders, waiting: 1024 * 1024 }
    }

    /// Far ones take many connections that gather speed at the same time and rarely stand still.
    const fn far(limits: &Limits) -> Self {
        let Limits { connections, decoders, .. } = *limits;
        Self { connections, small: connections * 3 / 8, decoders, waiting: 12 * 1024 * 1024 }
    }
}

/// Something that happened on the way.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The narinfos of so many paths were read, with no end known yet.
    Discovered {
        /// Paths so far.
        paths: usize,
    },
    /// It is settled what will be fetched; these totals do not change.
    Planned(&'a Plan),
    /// While we waited for locks, somebody else made so much of what was planned valid.
    Spared {
        /// Paths.
        paths: usize,
        /// Bytes of their NARs.
        nar_size: u64,
    },
    /// A path begins to arrive.
    Started {
        /// The path.
        path: &'a StorePath,
        /// Where from.
        cache: &'a str,
        /// Size of its NAR in bytes.
        nar_size: u64,
    },
    /// Bytes came from a cache.
    Downloaded {
        /// The cache.
        cache: &'a str,
        /// How many.
        bytes: u64,
    },
    /// Bytes of NARs were unpacked.
    Unpacked(u64),
    /// Bytes of NARs that were unpacked count no more: that path starts again.
    Dropped(u64),
    /// A path is on disk, though not yet valid.
    Finished {
        /// The path.
        path: &'a StorePath,
        /// Where from.
        cache: &'a str,
    },
    /// A cache failed or lied; the next one is asked.
    Faulty(&'a Fault),
    /// All is on disk and becomes valid now.
    Registering,
    /// A crash from here on would leave something else than before.
    Reached(Step),
    /// It is over, well or not, or nobody waits for it any more; always the last one.
    Ended,
}

/// Says that a run is over, however it ends.
struct Ending<'a>(&'a Observer);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        (self.0)(Event::Ended);
    }
}

/// Hears of events, on any thread.
pub type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// How a substitution went that went well.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Paths that were fetched.
    pub paths: usize,
    /// Bytes of their NARs.
    pub nar_size: u64,
    /// Caches that failed or lied on the way.
    pub faults: Vec<Fault>,
}

/// Returns whether `closures` are valid already, so that no cache has to be asked.
///
/// It is [`run`] then, which had nothing to do.
///
/// # Errors
/// As [`run`] before it fetches anything.
pub async fn is_there(
    store: &Arc<LocalStore>,
    closures: &[ClosureIndex],
    observer: &Observer,
) -> Result<bool, SubstituteError> {
    let planned = begin(store, closures).await?;
    let is_there = planned.missing.is_empty();
    if is_there {
        observer(Event::Planned(&planned));
    }
    Ok(is_there)
}

/// Makes `closures` valid in `store`.
///
/// The paths are kept from any garbage collector as long as this process lives. Whoever drops the
/// future, rather than cancelling [`Limits::stop`], leaves trees that are not valid to the next run.
///
/// # Errors
/// When a path cannot be had, the store fails, or it is stopped. Nothing is valid then that is not
/// whole with all it refers to; paths that had arrived in that sense stay, so that the next try is
/// shorter.
pub async fn run(
    store: &Arc<LocalStore>,
    closures: &[ClosureIndex],
    sources: &Sources,
    limits: &Limits,
    observer: &Observer,
) -> Result<Outcome, SubstituteError> {
    let _ending = Ending(observer);
    let mut attempt = 1;
    loop {
        match run_once(store, closures, sources, limits, observer).await {
            Err(error) if error.is_bereft() && attempt < ATTEMPTS => {
                tracing::info!(error = %chain(&error), "somebody deleted it meanwhile: once more");
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

async fn run_once(
    store: &Arc<LocalStore>,
    closures: &[ClosureIndex],
    sources: &Sources,
    limits: &Limits,
    observer: &Observer,
) -> Result<Outcome, SubstituteError> {
    let planned = begin(store, closures).await?;
    observer(Event::Reached(Step::Rooted));
    observer(Event::Planned(&planned));
    if planned.missing.is_empty() {
        return Ok(Outcome::default());
    }
    let locks = lock(store, &planned, limits).await?;
    observer(Event::Reached(Step::Locked));
    let (planned, guard) = plan_again(store, closures, limits, &planned, observer).await?;
    if let Some(gone) = planned.missing.iter().find(|path| !locks.holds(path)) {
        return Err(LocalStoreError::NotLocked(gone.clone()).into());
    }
    let queue: Vec<ClosureEntry<'_>> = planned
        .missing
        .iter()
        .filter_map(|path| closures.iter().find_map(|closure| closure.get(path)))
        .collect();
    cpu::warn_of_slow_hashing();
    let hears = writing_back(store, observer)?;
    let run = fetch::Run::new(store, sources, limits, &hears, Arc::clone(&locks), guard);
    drop(hears);
    let (arrived, failure) = fetch_all(&run, &queue).await;
    // What fails then fails because of it.
    let stopped = limits.stop.is_cancelled();
    let failure = failure.map(|error| if stopped { SubstituteError::Stopped } else { error });
    let outcome = Outcome {
        paths: arrived.len(),
        nar_size: arrived.iter().map(|info| info.nar_size).sum(),
        faults: run.take_faults(),
    };
    // It holds the locks as well, and nobody uses it any more.
    drop(run);
    let store = Arc::clone(store);
    let observer = Arc::clone(observer);
    blocking(move || {
        let finished = match failure {
            None => {
                observer(Event::Registering);
                register(&store, &arrived, &observer)
            }
            Some(error) => Err(error),
        };
        if let Err(error) = &finished {
            keep_what_is_whole(&store, &planned, arrived, error, &observer);
        }
        // Until here no other process may touch these paths.
        drop(locks);
        observer(Event::Reached(Step::Unlocked));
        finished
    })
    .await?;
    Ok(outcome)
}

/// Has the disk begin to write what is unpacked, as long as what is returned is held.
fn writing_back(store: &Arc<LocalStore>, observer: &Observer) -> Result<Observer, SubstituteError> {
    let (write_back, observer) = (store.write_back()?, Arc::clone(observer));
    Ok(Arc::new(move |event| {
        if let Event::Unpacked(bytes) = event {
            write_back.written(bytes);
        }
        observer(event);
    }))
}

/// Sweeps what a dead process left, makes everything a temporary root, and finds what is missing.
async fn begin(
    store: &Arc<LocalStore>,
    closures: &[ClosureIndex],
) -> Result<Plan, SubstituteError> {
    let (store, closures) = (Arc::clone(store), closures.to_vec());
    blocking(move || {
        // Before this process has temporary roots: a dead one may have had its number.
        if let Err(error) = store.remove_leftovers() {
            tracing::warn!(error = %chain(&error), "what a dead process left stays for now");
        }
        let all = closures.iter().flat_map(ClosureIndex::entries);
        store.add_temp_roots(&all.map(|entry| entry.path().clone()).collect())?;
        plan(&store, &closures)
    })
    .await
}

/// Plans again behind the locks: while we waited, somebody else may have made some of it valid.
async fn plan_again(
    store: &Arc<LocalStore>,
    closures: &[ClosureIndex],
    limits: &Limits,
    before: &Plan,
    observer: &Observer,
) -> Result<(Plan, Guard), SubstituteError> {
    let (store, closures, min_free) = (Arc::clone(store), closures.to_vec(), limits.min_free);
    let (planned, guard) = blocking(move || {
        let planned = plan(&store, &closures)?;
        let guard = plan::guard(&store, &planned, min_free)?;
        Ok((planned, guard))
    })
    .await?;
    let paths = before.missing.len().saturating_sub(planned.missing.len());
    if paths > 0 {
        let nar_size = before.nar_size.saturating_sub(planned.nar_size);
        observer(Event::Spared { paths, nar_size });
    }
    Ok((planned, guard))
}

/// Fetches until the queue is empty or something fails; then lets what is under way come to its
/// end, so that nobody writes any more when this returns.
async fn fetch_all(
    run: &fetch::Run,
    missing: &[ClosureEntry<'_>],
) -> (Vec<PathInfo>, Option<SubstituteError>) {
    let (mut queue, mut running) = (Queue::new(missing), FuturesUnordered::new());
    let (mut arrived, mut failure) = (Vec::new(), None);
    loop {
        while failure.is_none() && running.len() < run.pace().connections.max(1) {
            let Some((lane, entry)) = queue.take(run.pace()) else { break };
            running.push(async move { (lane, run.fetch(*entry, lane).await) });
        }
        let next = tokio::select! {
            next = running.next() => next,
            () = run.widened() => continue,
        };
        let Some((lane, fetched)) = next else { return (arrived, failure) };
        queue.ended(lane);
        match fetched {
            Ok(info) => arrived.push(info),
            Err(error) => {
                run.cancel();
                // What comes after the first failure follows from it.
                failure.get_or_insert(error);
            }
        }
    }
}

async fn lock(
    store: &Arc<LocalStore>,
    plan: &Plan,
    limits: &Limits,
) -> Result<Arc<PathLocks>, SubstituteError> {
    let paths: BTreeSet<StorePath> = plan.missing.iter().cloned().collect();
    let (store, patience, stop) = (Arc::clone(store), limits.patience, limits.stop.clone());
    blocking(move || {
        allow_open_files(paths.len());
        let locks = store.lock_paths_unless(&paths, patience, &|| stop.is_cancelled());
        if matches!(locks, Err(LocalStoreError::Lock(LockError::Stopped(_)))) {
            return Err(SubstituteError::Stopped);
        }
        Ok(Arc::new(locks?))
    })
    .await
}

/// Asks for as many open files as the hard limit allows: every lock is one.
fn allow_open_files(locks: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let needed = locks as u64 + 1024;
    if limit.current.is_some_and(|current| current < needed) {
        let current = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
        // Refused only where the limit is not ours to change; opening a lock tells then.
        let _refused = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
}

fn register(
    store: &LocalStore,
    arrived: &[PathInfo],
    observer: &Observer,
) -> Result<(), SubstituteError> {
    Ok(store.register_in_steps(arrived, &|step| observer(Event::Reached(step)))?)
}

/// Makes those of the `arrived` valid that have everything they refer to, and removes the others.
///
/// A full disk is not made worse: then all are removed.
fn keep_what_is_whole(
    store: &LocalStore,
    plan: &Plan,
    mut arrived: Vec<PathInfo>,
    error: &SubstituteError,
    observer: &Observer,
) {
    let mut absent: BTreeSet<StorePath> = plan.missing.iter().cloned().collect();
    // Where descriptors or inodes had run out, a broken tree may have stayed until now.
    let came: BTreeSet<&StorePath> = arrived.iter().map(|info| &info.path).collect();
    let broken = absent.iter().filter(|path| !came.contains(path));
    for path in broken.filter(|path| store.real_path(path).symlink_metadata().is_ok()) {
        remove(store, path);
    }
    for info in arrived.iter().filter(|_| error.cause() != Cause::DiskFull) {
        absent.remove(&info.path);
    }
    absent.extend(bereft(store, &arrived));
    loop {
        let is_whole =
            |info: &PathInfo| !absent.contains(&info.path) && info.references.is_disjoint(&absent);
        let (whole, broken): (Vec<_>, Vec<_>) = arrived.into_iter().partition(is_whole);
        arrived = whole;
        if broken.is_empty() {
            break;
        }
        for info in broken {
            remove(store, &info.path);
            absent.insert(info.path);
        }
    }
    if !arrived.is_empty()
        && let Err(error) = register(store, &arrived, observer)
    {
        tracing::warn!(%error, "cannot keep the paths that arrived before the failure");
        for info in &arrived {
            remove(store, &info.path);
        }
    }
}

/// Returns what the `arrived` need that was valid before and is not any more.
fn bereft(store: &LocalStore, arrived: &[PathInfo]) -> BTreeSet<StorePath> {
    let mut needed: BTreeSet<StorePath> =
        arrived.iter().flat_map(|info| &info.references).cloned().collect();
    for info in arrived {
        needed.remove(&info.path);
    }
    // Where the database cannot be asked, nothing can be registered either.
    let valid = store.valid(&needed).unwrap_or_default();
    needed.retain(|path| !valid.contains_key(path));
    needed
}

/// Removes a tree that is not valid; the garbage collector would find it as well.
fn remove(store: &LocalStore, path: &StorePath) {
    // Somebody who takes no locks may have made it valid: then it is theirs.
    if !store.valid(&BTreeSet::from([path.clone()])).is_ok_and(|valid| valid.is_empty()) {
        return;
    }
    if let Err(error) = remove_tree(&store.real_path(path)) {
        tracing::warn!(%path, %error, "cannot remove a path that is not valid");
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SubstituteError> + Send + 'static,
) -> Result<T, SubstituteError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SubstituteError::Worker(error)),
    }
}

#[cfg(test)]
mod tests;
