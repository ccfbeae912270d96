//! Which cache to ask next, and what to remember of how it went.

use std::time::{Duration, Instant};

use super::{
    BinaryCache, Location, Network,
    health::{self, Why},
    network::Record,
};
use crate::net::limits;

/// How a request ended, as far as it tells something of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It delivered something that is all right.
    Delivered,
    /// It answered, for example that it does not have something.
    Answered,
    /// It did not answer, or asked to be left alone for a while.
    Unreachable(Option<Duration>),
    /// What it delivered had to be refused.
    Lied,
}

/// The caches that were not asked for something yet.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    left: Vec<&'a BinaryCache>,
}

impl<'a> Candidates<'a> {
    /// Begins with all of them.
    pub(crate) fn new(caches: &'a [BinaryCache]) -> Self {
        Self { left: caches.iter().collect() }
    }

    /// Takes the one to ask now; those that are left out come last, but they come.
    pub(crate) fn next(&mut self) -> Option<Asked<'a>> {
        let now = Instant::now();
        let standing = |cache: &&BinaryCache| {
            cache.record.lock().standing(cache.info.priority.unwrap_or(0), now)
        };
        let standings: Vec<_> = self.left.iter().map(standing).collect();
        let cache = self.left.remove(health::choose(&standings)?);
        cache.record.lock().asked(now);
        let mut asked = cache.clone();
        if !self.left.is_empty() {
            asked.hurry();
        }
        Some(Asked { cache: asked, original: cache, at: now })
    }
}

/// A cache that is being asked.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The cache; in a hurry if others could be asked instead.
    pub(crate) cache: BinaryCache,
    /// The same as it was given.
    pub(crate) original: &'a BinaryCache,
    at: Instant,
}

impl Asked<'_> {
    /// Remembers how it went.
    pub(crate) fn went(&self, verdict: Verdict) {
        note(&self.cache.record, &self.cache.name, self.at, verdict);
    }
}

impl Network {
    /// Remembers of a cache that could not be opened that it is of no use for now.
    pub(super) fn note_unopened(&self, location: &Location, asked: Instant) {
        let name = location.to_string().into();
        let record = self.record(&name);
        // Opening it took all the tries that there are.
        for _ in 1..limits::PATIENCE {
            let _not_yet = record.lock().failed(asked, Instant::now(), None, 0.0);
        }
        note(&record, &name, asked, Verdict::Unreachable(None));
    }
}

fn note(record: &Record, cache: &str, asked: Instant, verdict: Verdict) {
    let (now, jitter) = (Instant::now(), rand::random_range(0.0..=1.0));
    let (wait, why) = match verdict {
        Verdict::Delivered => return record.lock().delivered(asked),
        Verdict::Answered => return record.lock().answered(asked),
        Verdict::Unreachable(pause) => {
            (record.lock().failed(asked, now, pause, jitter), Why::Unreachable)
        }
        Verdict::Lied => (record.lock().lied(asked, now, jitter), Why::Lied),
    };
    let Some(wait) = wait else { return };
    let seconds = wait.as_secs();
    match why {
        Why::Unreachable => {
            tracing::info!(cache, seconds, "a cache cannot be reached: others are asked first");
        }
        Why::Lied => {
            tracing::warn!(cache, seconds, "a cache lied: others are asked first");
        }
    }
}
