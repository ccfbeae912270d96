//! Fetching one path: from the first cache that delivers.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use shared::{closure::ClosureEntry, nix::PathInfo};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Event, Fault, FaultCause, Limits, Observer, Pace, Sources, SubstituteError,
    ahead::{Load, Panicked, ReadAhead},
    offer::Offer,
    queue::Lane,
    workers::Workers,
};
use crate::{
    cache::{BinaryCache, CacheError, Candidates, NarBody, NarReader, Verdict, WaitingRoom},
    decompress::{DecoderMemory, decoder},
    disk::Guard,
    local::{ImportError, LocalStore, PathLocks},
};

/// How often the same NAR is begun anew when it breaks off on its way.
const STARTS: u32 = 2;

/// What the fetching of all paths has in common.
pub(super) struct Run {
    store: Arc<LocalStore>,
    sources: Sources,
    observer: Observer,
    locks: Arc<PathLocks>,
    guard: Arc<Guard>,
    near: Pace,
    far: Pace,
    is_far: AtomicBool,
    widened: Notify,
    workers: Workers,
    /// For the small lane, so that what is small never waits for what is large.
    workers_for_small: Workers,
    memory: DecoderMemory,
    waiting: WaitingRoom,
    cancelled: CancellationToken,
    faults: Mutex<Vec<Fault>>,
}

/// Whoever drops a run in the middle wants it to end: the threads that write are told, too.
impl Drop for Run {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

/// Why an offer came to nothing.
enum Failure {
    /// The cache is to blame, or has nothing: the next one may do better.
    Cache(FaultCause),
    /// This machine is to blame: no cache would do better.
    Here(SubstituteError),
}

impl From<FaultCause> for Failure {
    fn from(cause: FaultCause) -> Self {
        Self::Cache(cause)
    }
}

impl Run {
    pub(super) fn new(
        store: &Arc<LocalStore>,
        sources: &Sources,
        limits: &Limits,
        observer: &Observer,
        locks: Arc<PathLocks>,
        guard: Guard,
    ) -> Self {
        let (near, far) = (Pace::near(limits), Pace::far(limits));
        let workers = Workers::new(near.decoders);
        let run = Self {
            store: Arc::clone(store),
            sources: sources.clone(),
            observer: Arc::clone(observer),
            locks,
            guard: Arc::new(guard),
            workers_for_small: workers.beside(),
            workers,
            memory: DecoderMemory::new(limits.decoder_memory),
            waiting: WaitingRoom::new(near.waiting),
            near,
            far,
            is_far: AtomicBool::new(false),
            widened: Notify::new(),
            cancelled: limits.stop.child_token(),
            faults: Mutex::default(),
        };
        sources.caches.iter().for_each(|cache| run.look_at(cache));
        run
    }

    /// Takes the pace of a far cache if this is one, from now on.
    fn look_at(&self, cache: &BinaryCache) {
        if cache.is_far() && !self.is_far.swap(true, Ordering::Relaxed) {
            let Self { near, far, .. } = self;
            self.workers.add(far.decoders.saturating_sub(near.decoders));
            self.workers_for_small.add(1);
            self.waiting.widen(far.waiting.saturating_sub(near.waiting));
            self.widened.notify_one();
        }
    }

    /// Returns how much may be under way now.
    pub(super) fn pace(&self) -> &Pace {
        if self.is_far.load(Ordering::Relaxed) { &self.far } else { &self.near }
    }

    /// Waits until there may be more downloads than before.
    pub(super) async fn widened(&self) {
        self.widened.notified().await;
    }

    /// Makes every fetch that is under way end soon, and with an error.
    pub(super) fn cancel(&self) {
        self.cancelled.cancel();
    }

    /// Returns which caches failed or lied.
    pub(super) fn take_faults(&self) -> Vec<Fault> {
        std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fetches one path from the first cache that delivers it.
    pub(super) async fn fetch(
        &self,
        entry: ClosureEntry<'_>,
        lane: Lane,
    ) -> Result<PathInfo, SubstituteError> {
        let mut faults = Vec::new();
        let mut candidates = Candidates::new(&self.sources.caches);
        while let Some(asked) = candidates.next() {
            let cause = match self.fetch_from(&asked.cache, &entry, lane).await {
                Ok(info) => {
                    asked.went(Verdict::Delivered);
                    let cache = asked.cache.name();
                    (self.observer)(Event::Finished { path: entry.path(), cache });
                    self.remember(faults);
                    return Ok(info);
                }
                Err(Failure::Here(error)) => return Err(error),
                Err(Failure::Cache(cause)) => cause,
            };
            if self.cancelled.is_cancelled() {
                return Err(SubstituteError::GivenUp);
            }
            asked.went(cause.verdict());
            let cache = asked.cache.name().to_owned();
            let fault = Fault { cache, path: entry.path().clone(), cause };
            if fault.cause.is_blame() {
                (self.observer)(Event::Faulty(&fault));
            }
            faults.push(fault);
        }
        Err(SubstituteError::Path { path: entry.path().clone(), faults })
    }

    fn remember(&self, faults: Vec<Fault>) {
        let mut all = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(faults.into_iter().filter(|fault| fault.cause.is_blame()));
    }

    /// Tries what hints say of a cache, then what the cache itself says.
    async fn fetch_from(
        &self,
        cache: &BinaryCache,
        entry: &ClosureEntry<'_>,
        lane: Lane,
    ) -> Result<PathInfo, Failure> {
        let (hints, trusted) = (&self.sources.hints, &self.sources.trusted);
        let hinted = Offer::from_hints(entry, hints, cache.name(), trusted);
        let mut tried = None;
        if let Some(offer) = hinted {
            let file = (offer.url.clone(), offer.compression);
            match self.take(cache, offer, lane).await {
                Err(Failure::Cache(cause)) if !self.cancelled.is_cancelled() => {
                    tracing::debug!(path = %entry.path(), %cause, "a hint led nowhere");
                    tried = Some((file, cause));
                }
                result => return result,
            }
        }
        let narinfo = self.cancelled.run_until_cancelled(cache.narinfo(entry.path())).await;
        let narinfo = narinfo.ok_or(SubstituteError::GivenUp)?.map_err(FaultCause::Cache)?;
        let offer = Offer::from_narinfo(entry, narinfo.ok_or(FaultCause::Absent)?, trusted)?;
        match tried {
            // The cache itself says the same: asking it again would end in the same way.
            Some(((url, compression), cause))
                if url == offer.url && compression == offer.compression =>
            {
                Err(cause.into())
            }
            _ => self.take(cache, offer, lane).await,
        }
    }

    /// Downloads and imports what is offered.
    async fn take(
        &self,
        cache: &BinaryCache,
        offer: Offer,
        lane: Lane,
    ) -> Result<PathInfo, Failure> {
        let Offer { info, url, compression } = offer;
        let mut start = 1;
        loop {
            let body = tokio::select! {
                body = cache.nar(&url) => body.map_err(FaultCause::Cache)?,
                () = self.cancelled.cancelled() => return Err(SubstituteError::GivenUp.into()),
            };
            let body = body.ok_or_else(|| FaultCause::NarAbsent { url: url.clone() })?;
            self.look_at(cache);
            let (path, nar_size) = (&info.path, info.nar_size);
            (self.observer)(Event::Started { path, cache: cache.name(), nar_size });
            let unpacked = Arc::new(AtomicU64::new(0));
            let import = Import {
                info: info.clone(),
                cache: cache.clone(),
                compression,
                memory: self.memory.clone(),
                unpacked: Arc::clone(&unpacked),
                observer: Arc::clone(&self.observer),
                load: self.workers.load().clone(),
                cancelled: self.cancelled.child_token(),
            };
            let error = match self.import(import, body, lane).await? {
                Ok(()) => return Ok(info),
                Err(error) => error,
            };
            (self.observer)(Event::Dropped(unpacked.load(Ordering::Relaxed)));
            match blame(error) {
                Failure::Cache(cause @ FaultCause::Interrupted(_))
                    if start < STARTS
                        && !matches!(cause.cache_error(), Some(CacheError::TooSlow { .. }))
                        && !self.cancelled.is_cancelled() =>
                {
                    start += 1;
                }
                failure @ (Failure::Cache(_) | Failure::Here(_)) => return Err(failure),
            }
        }
    }

    /// Runs the network's side here and the rest on a thread that may block.
    async fn import(
        &self,
        import: Import,
        body: NarBody,
        lane: Lane,
    ) -> Result<Result<(), ImportError>, SubstituteError> {
        let (reader, pump) = body.split(&self.waiting);
        let (store, locks) = (Arc::clone(&self.store), Arc::clone(&self.locks));
        let guard = Arc::clone(&self.guard);
        let cancelled = import.cancelled.clone();
        let workers = match lane {
            Lane::Large => &self.workers,
            Lane::Small => &self.workers_for_small,
        };
        let work = workers.run(move || import.run(&store, &locks, &guard, reader));
        let pump = async {
            tokio::select! {
                () = pump.run() => {}
                // Without its pump the reader fails, and the import cleans up behind itself.
                () = cancelled.cancelled() => {}
            }
        };
        let (result, ()) = tokio::join!(work, pump);
        result.ok_or(SubstituteError::Panicked)
    }
}

impl From<SubstituteError> for Failure {
    fn from(error: SubstituteError) -> Self {
        Self::Here(error)
    }
}

/// Decides whose fault a failed import is.
fn blame(error: ImportError) -> Failure {
    match error {
        ImportError::Source { ref source, .. }
            if source.get_ref().is_some_and(|inner| inner.is::<Panicked>()) =>
        {
            Failure::Here(SubstituteError::Panicked)
        }
        ImportError::Source { ref source, .. }
            if source.get_ref().is_some_and(|inner| inner.is::<CacheError>()) =>
        {
            Failure::Cache(FaultCause::Interrupted(Box::new(error)))
        }
        ImportError::Source { .. }
        | ImportError::Malformed { .. }
        | ImportError::Size { .. }
        | ImportError::Hash { .. }
        | ImportError::ContentAddress { .. }
        | ImportError::NotOneFile { .. } => Failure::Cache(FaultCause::Refused(Box::new(error))),
        ImportError::Unpack { ref path, .. } | ImportError::AlreadyValid { ref path } => {
            let path = path.clone();
            Failure::Here(SubstituteError::Import { path, source: Box::new(error) })
        }
        ImportError::Store(error) => Failure::Here(error.into()),
    }
}

/// The blocking side of fetching one path.
struct Import {
    info: PathInfo,
    cache: BinaryCache,
    compression: shared::nix::narinfo::Compression,
    memory: DecoderMemory,
    unpacked: Arc<AtomicU64>,
    observer: Observer,
    load: Load,
    /// Ends this import alone.
    cancelled: CancellationToken,
}

impl Import {
    fn run(
        self,
        store: &LocalStore,
        locks: &PathLocks,
        guard: &Guard,
        reader: NarReader,
    ) -> Result<(), ImportError> {
        let (observer, cache) = (Arc::clone(&self.observer), self.cache.clone());
        let count = move |bytes| observer(Event::Downloaded { cache: cache.name(), bytes });
        let downloaded = Counted { inner: reader, count };
        let downloaded = AtMost::sane(downloaded, self.info.nar_size);
        let source = |source| ImportError::Source { path: self.info.path.clone(), source };
        let nar = decoder(self.compression, downloaded, &self.memory).map_err(source)?;
        let (left, cancelled) = (self.info.nar_size, self.cancelled.clone());
        let nar = Exactly { inner: nar, left, cancelled: cancelled.clone() };
        let (unpacked, observer) = (self.unpacked, self.observer);
        let count = move |bytes| {
            unpacked.fetch_add(bytes, Ordering::Relaxed);
            observer(Event::Unpacked(bytes));
        };
        let nar = Counted { inner: nar, count };
        let mut nar = ReadAhead::new(nar, left, self.load, cancelled);
        store.import_guarded(&self.info, &mut nar, locks, guard)
    }
}

/// Fails behind more bytes than any compression makes of a NAR.
///
/// Formats have frames and padding that decode to nothing: without this they would go on for ever.
struct AtMost<R> {
    inner: R,
    left: u64,
}

impl<R> AtMost<R> {
    /// Bounds the file of a NAR of this size, generously.
    const fn sane(inner: R, nar_size: u64) -> Self {
        Self { inner, left: nar_size.saturating_add(nar_size / 4).saturating_add(1024 * 1024) }
    }
}

impl<R: BufRead> Read for AtMost<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for AtMost<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = self.inner.fill_buf()?;
        if most == 0 && !bytes.is_empty() {
            let what = "its file is far larger than its NAR";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(bytes.get(..most).unwrap_or(bytes))
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.left = self.left.saturating_sub(amount as u64);
    }
}

/// Counts what passes.
struct Counted<R, F> {
    inner: R,
    count: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        (self.count)(read as u64);
        Ok(read)
    }
}

impl<R: BufRead, F: FnMut(u64)> BufRead for Counted<R, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        (self.count)(amount as u64);
    }
}

/// Ends after `left` bytes, and fails if the input goes on or breaks behind them.
///
/// This bounds what a bomb can become, and lets a decoder check what it has at its end.
struct Exactly<R> {
    inner: R,
    left: u64,
    cancelled: CancellationToken,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        if self.cancelled.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up"));
        }
        let read = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left -= read as u64;
        if self.left == 0 && self.inner.read(&mut [0])? != 0 {
            let what = "it goes on behind the size of its NAR";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_ours_that_panics_is_not_held_against_the_cache() {
        let path = shared::nix::StorePath::from_base_name(&format!("{}-p", "0".repeat(32)));
        let blamed = |source| blame(ImportError::Source { path: path.clone().unwrap(), source });
        let ours = blamed(io::Error::other(Panicked));
        assert!(matches!(ours, Failure::Here(SubstituteError::Panicked)));
        let theirs = blamed(io::ErrorKind::InvalidData.into());
        assert!(matches!(theirs, Failure::Cache(FaultCause::Refused(_))));
    }
}
