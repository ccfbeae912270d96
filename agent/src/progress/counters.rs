//! What was heard of substitutions so far, and how it is told. The clock is an argument.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;
use shared::human;
use shared::progress::{Amount, Meter, Progress};
use store::substitute::{Event, Share, Shares};

/// Everything that is fetched at once.
#[derive(Debug, Default)]
pub(super) struct Counters {
    parts: Mutex<Vec<Arc<Part>>>,
    shares: Shares,
    meter: Mutex<Meter>,
    /// How many faults each cache had, and the first of them.
    faults: Mutex<BTreeMap<String, (usize, String)>>,
}

/// One closure on its way; counts on any thread.
#[derive(Debug, Default)]
pub(super) struct Part {
    downloaded: AtomicU64,
    unpacked: AtomicU64,
    rest: Mutex<Rest>,
}

/// What changes a few times for each path.
#[derive(Debug, Clone, Copy, Default)]
struct Rest {
    phase: Phase,
    discovered: u64,
    paths: u64,
    nar_size: u64,
    finished: u64,
    /// Bytes that others brought meanwhile.
    spared: u64,
}

/// How far it is, roughly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Phase {
    /// It is over, or was never begun.
    #[default]
    Over,
    /// All is on disk, and becomes valid.
    Registering,
    /// What is to be done is not known.
    Planning,
    /// It is under way.
    Fetching,
}

/// Numbers of now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// Paths that there are to fetch.
    pub(super) paths: u64,
    /// Those that are on disk.
    pub(super) finished: u64,
    /// Bytes of NARs that there are to unpack.
    pub(super) nar_size: u64,
    /// Those that were unpacked, never more than there are.
    pub(super) unpacked: u64,
    /// Bytes that came from caches.
    pub(super) downloaded: u64,
    /// Paths whose narinfos were read, while it is not known what there is to fetch.
    discovered: u64,
    /// How far the last one is.
    pub(super) phase: Phase,
}

impl Done {
    /// Returns whether all paths are on disk.
    pub(super) const fn is_complete(&self) -> bool {
        self.finished >= self.paths
    }

    /// Says in one line how it went that went well.
    pub(super) fn text(&self, seconds: u64) -> String {
        if self.paths == 0 {
            return "everything is there already".to_owned();
        }
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        format!(
            "copied {}, {} ({} downloaded) in {}",
            paths(self.paths),
            human::size(self.nar_size),
            human::size(self.downloaded),
            human::span(SignedDuration::from_secs(seconds)),
        )
    }
}

impl Counters {
    /// Adds one more closure that is fetched at the same time.
    pub(super) fn part(&self) -> Arc<Part> {
        let part = Arc::default();
        lock(&self.parts).push(Arc::clone(&part));
        part
    }

    /// Takes note of an event of one of the parts.
    pub(super) fn hear(&self, part: &Part, event: &Event<'_>, now: Duration) {
        part.hear(event);
        self.shares.hear(event);
        match event {
            // Time that went before says nothing of the rate: it counts from here.
            Event::Planned(_) => {
                *lock(&self.meter) = Meter::default();
                self.rate(now);
            }
            Event::Faulty(fault) => {
                let mut faults = lock(&self.faults);
                let of_cache = faults.entry(fault.cache.clone());
                of_cache.or_insert_with(|| (0, fault.line())).0 += 1;
            }
            Event::Discovered { .. }
            | Event::Spared { .. }
            | Event::Started { .. }
            | Event::Downloaded { .. }
            | Event::Unpacked(_)
            | Event::Dropped(_)
            | Event::Finished { .. }
            | Event::Registering
            | Event::Reached(_)
            | Event::Ended => {}
        }
    }

    /// Returns how many faults each cache had that failed, and the first of them.
    pub(super) fn faults(&self) -> Vec<(usize, String)> {
        lock(&self.faults).values().cloned().collect()
    }

    /// Returns what came from each cache.
    pub(super) fn shares(&self) -> Vec<Share> {
        self.shares.get()
    }

    /// Returns the numbers of now.
    pub(super) fn done(&self) -> Done {
        lock(&self.parts).iter().map(|part| part.done()).fold(Done::default(), |all, part| Done {
            paths: all.paths + part.paths,
            finished: all.finished + part.finished,
            nar_size: all.nar_size.saturating_add(part.nar_size),
            unpacked: all.unpacked.saturating_add(part.unpacked),
            downloaded: all.downloaded.saturating_add(part.downloaded),
            discovered: all.discovered + part.discovered,
            phase: all.phase.max(part.phase),
        })
    }

    /// Returns the rate of late and the seconds that are left, as far as they are known.
    pub(super) fn speed(&self, now: Duration) -> (Option<u64>, Option<u64>) {
        let progress = progress(&self.done(), self.rate(now), "");
        (progress.rate, progress.seconds_left())
    }

    /// Returns one line: of a log, or of a terminal of this width.
    pub(super) fn text(&self, now: Duration, width: Option<usize>) -> String {
        let done = self.done();
        match done.phase {
            Phase::Planning | Phase::Over if done.discovered == 0 => {
                "asking what there is to do".to_owned()
            }
            Phase::Planning | Phase::Over => format!("{} known so far", paths(done.discovered)),
            Phase::Registering => "all is here; it is written to disk and becomes valid".to_owned(),
            Phase::Fetching => {
                let caches = caches(self.shares.get());
                let progress = progress(&done, self.rate(now), &caches);
                width.map_or_else(|| progress.line(), |width| progress.bar(width))
            }
        }
    }

    fn rate(&self, now: Duration) -> Option<u64> {
        let mut meter = lock(&self.meter);
        meter.note(now, self.done().unpacked);
        meter.rate()
    }
}

impl Part {
    fn hear(&self, event: &Event<'_>) {
        match event {
            // Often, and from many threads.
            Event::Downloaded { bytes, .. } => {
                self.downloaded.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::Unpacked(bytes) => {
                self.unpacked.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::Dropped(bytes) => {
                let less = |now: u64| Some(now.saturating_sub(*bytes));
                // The closure always has a value.
                let _always =
                    self.unpacked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
            Event::Discovered { paths } => {
                let mut rest = lock(&self.rest);
                (rest.discovered, rest.phase) = (*paths as u64, Phase::Planning);
            }
            // Also once more, after room was made for it: what came before is gone then.
            Event::Planned(plan) => {
                self.unpacked.store(0, Ordering::Relaxed);
                *lock(&self.rest) = Rest {
                    phase: Phase::Fetching,
                    paths: plan.missing.len() as u64,
                    nar_size: plan.nar_size,
                    ..Rest::default()
                };
            }
            Event::Spared { paths, nar_size } => {
                let mut rest = lock(&self.rest);
                rest.finished += *paths as u64;
                rest.spared += *nar_size;
            }
            Event::Finished { .. } => lock(&self.rest).finished += 1,
            Event::Registering => lock(&self.rest).phase = Phase::Registering,
            Event::Ended => lock(&self.rest).phase = Phase::Over,
            Event::Started { .. } | Event::Faulty(_) | Event::Reached(_) => {}
        }
    }

    fn done(&self) -> Done {
        let rest = *lock(&self.rest);
        let unpacked = self.unpacked.load(Ordering::Relaxed).saturating_add(rest.spared);
        Done {
            paths: rest.paths,
            finished: rest.finished,
            nar_size: rest.nar_size,
            unpacked: unpacked.min(rest.nar_size),
            downloaded: self.downloaded.load(Ordering::Relaxed),
            discovered: rest.discovered,
            phase: rest.phase,
        }
    }
}

fn progress<'a>(done: &Done, rate: Option<u64>, cache: &'a str) -> Progress<'a> {
    Progress {
        done: Amount { paths: done.finished, bytes: done.unpacked },
        total: Amount { paths: done.paths, bytes: done.nar_size },
        rate,
        cache,
    }
}

fn paths(number: u64) -> String {
    human::count(usize::try_from(number).unwrap_or(usize::MAX), "path")
}

/// Names where it comes from: the one that delivers most first, with how many of several.
fn caches(mut shares: Vec<Share>) -> String {
    shares.sort_by(|a, b| b.paths.cmp(&a.paths).then_with(|| a.cache.cmp(&b.cache)));
    let alone = shares.len() == 1;
    let name = |Share { cache, paths, .. }: Share| {
        if alone { cache } else { format!("{cache} ({paths})") }
    };
    let names: Vec<String> = shares.into_iter().map(name).collect();
    if names.is_empty() {
        return String::new();
    }
    human::plain(&format!("from {}", names.join(", ")))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
