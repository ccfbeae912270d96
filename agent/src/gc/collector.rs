//! The daemon's own collection: after a switch, or when a generation has become old enough, and not
//! more often than the configuration says.
//!
//! When it last collected is on disk, so that a daemon that restarts often does not collect as
//! often.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::human;
use shared::problem::{Kind, Problem};
use shared::time::Time;
use store::gc::{self, Collected, Event};
use store::local::LocalStore;
use tokio_util::sync::CancellationToken;

use super::{delete, judge, options, rule};
use crate::config::Gc;
use crate::converge::Converger;
use crate::state::{Profile, State};
use crate::{crash, files};

/// How often the daemon looks whether a collection is due, at most.
const LOOK: Duration = Duration::from_secs(60);

/// Name of the file in the state folder.
const NAME: &str = "gc.json";

/// More than this is not ours.
const MAX_LEN: u64 = 4096;

/// The version of the format.
const FORMAT: u32 = 1;

/// Collects for as long as the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct Collector {
    converger: Converger,
    gc: Gc,
}

/// What is known of the last collection.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    format: u32,
    at: Time,
}

/// What decides whether a collection is due.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// When the last one began.
    last: Option<Timestamp>,
    /// When a profile last came to rest.
    rested: Option<Timestamp>,
    /// Whether every profile rests, or only fetches.
    at_rest: bool,
    /// Whether a generation may go by now.
    old: bool,
}

impl Collector {
    /// Prepares; looks at nothing yet.
    pub(crate) const fn new(converger: Converger, gc: Gc) -> Self {
        Self { converger, gc }
    }

    /// Collects when it is due, until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let Some(every) = self.gc.every else { return };
        loop {
            let pause = LOOK.min(every).mul_f64(rand::random_range(0.5..1.0));
            tokio::select! {
                // Cancel safe: both only wait.
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            match owner(self.converger.root()) {
                Owner::Us => {}
                // Nothing was ever fetched.
                Owner::Nobody => continue,
                Owner::SomebodyElse => {
                    let root = self.converger.root().display();
                    tracing::warn!("`gc.every` is in vain: the store below `{root}` is not ours");
                    return;
                }
            }
            // So that no fleet collects in step.
            let every = every.mul_f64(rand::random_range(1.0..1.2));
            let (collector, stop) = (self.clone(), cancel.clone());
            let work = tokio::task::spawn_blocking(move || collector.look(every, &stop));
            match work.await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => tracing::warn!("cannot collect garbage: {}", line(&problem)),
                Err(error) => tracing::error!(%error, "a collection died"),
            }
        }
    }

    fn look(&self, every: Duration, stop: &CancellationToken) -> Result<(), Problem> {
        let now = Timestamp::now();
        if !is_due(self.facts(now)?, every, now) {
            return Ok(());
        }
        let collected = collect(&self.converger, &self.gc, None, stop);
        if stop.is_cancelled() {
            return Ok(());
        }
        // Also if it failed: it will fail again, and is told once in a while.
        remember(self.converger.state_dir(), now)?;
        collected.map(drop)
    }

    fn facts(&self, now: Timestamp) -> Result<Facts, Problem> {
        let profiles = self.converger.profiles().map_err(|error| error.problem())?;
        let keep = rule(&self.gc, now);
        let old = match &keep {
            Some(_) => judge(&self.converger, keep.as_ref(), now)?
                .iter()
                .any(|judged| !judged.verdict.keeps()),
            None => false,
        };
        let last = last(self.converger.state_dir());
        let rested = profiles.iter().filter(|known| rests(known)).map(|known| known.since).max();
        let at_rest = profiles.iter().all(|known| rests(known) || fetches(known));
        Ok(Facts { last, rested, at_rest, old })
    }
}

/// Deletes the generations that may go, then what is dead; tells the log.
///
/// Blocks, also while another collector is at work.
pub(super) fn collect(
    converger: &Converger,
    gc: &Gc,
    max_freed: Option<u64>,
    stop: &CancellationToken,
) -> Result<Collected, Problem> {
    let now = Timestamp::now();
    let mut generations = 0_usize;
    if let Some(keep) = rule(gc, now) {
        delete(converger, &keep, now, &mut |judged| {
            generations += usize::from(!judged.verdict.keeps());
        })?;
    }
    let options = gc::Options { max_freed, stop: stop.clone(), ..options(converger)? };
    let store = LocalStore::open(converger.root()).map_err(|error| error.problem())?;
    let collected = gc::collect(&store, &options, &mut |event| {
        crash::collecting(&event);
        if let Event::Stuck { path, error } = event {
            tracing::warn!(path = %path.display(), %error, "cannot delete garbage");
        }
    });
    let collected = collected.map_err(|error| error.problem())?;
    tracing::info!(
        generations,
        paths = collected.paths,
        leftovers = collected.leftovers,
        freed_bytes = collected.freed,
        "collected garbage: {}",
        summary(generations, &collected, "deleted")
    );
    Ok(collected)
}

/// Says what was deleted, or would be, as Nix says it.
pub(crate) fn summary(generations: usize, collected: &Collected, verb: &str) -> String {
    let count =
        |number: u64, noun| human::count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let mut parts = Vec::new();
    if generations > 0 {
        parts.push(human::count(generations, "generation"));
    }
    parts.push(count(collected.paths, "store path"));
    if collected.leftovers > 0 {
        parts.push(count(collected.leftovers, "leftover"));
    }
    format!("{} {verb}, {} freed", parts.join(", "), human::size(collected.freed))
}

/// Decides whether to collect: there may be something, nobody is switching, and it is time.
fn is_due(facts: Facts, every: Duration, now: Timestamp) -> bool {
    let Facts { last, rested, at_rest, old } = facts;
    let Some(last) = last else { return at_rest };
    // A clock that was set back must not put it off for long.
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::MAX);
    let news = old || rested.is_some_and(|at| at >= last) || last > now;
    at_rest && news && passed >= every
}

const fn rests(known: &Profile) -> bool {
    matches!(known.state, State::Steady { .. })
}

const fn fetches(known: &Profile) -> bool {
    matches!(known.state, State::Fetching { .. } | State::Staged { .. } | State::Failed { .. })
}

/// Whose a store is: a user's agent leaves the machine's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Us,
    SomebodyElse,
    /// There is none, or it cannot be looked at.
    Nobody,
}

/// Returns whose the store below a root is.
pub(super) fn owner(root: &Path) -> Owner {
    match root.join("nix/store").metadata() {
        Ok(store) if store.uid() == rustix::process::geteuid().as_raw() => Owner::Us,
        Ok(_) => Owner::SomebodyElse,
        Err(_) => Owner::Nobody,
    }
}

/// Returns when the last collection began, if that can be read.
fn last(state_dir: &Path) -> Option<Timestamp> {
    let bytes = files::read(&state_dir.join(NAME), MAX_LEN).ok()??;
    let last: Last = serde_json::from_slice(&bytes).ok()?;
    (last.format == FORMAT).then(|| last.at.into())
}

fn remember(state_dir: &Path, now: Timestamp) -> Result<(), Problem> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Problem::from_error(Kind::Runtime, "state", error)
    };
    let bytes = serde_json::to_vec(&Last { format: FORMAT, at: now.into() });
    let bytes = bytes.map_err(|error| failed(&error))?;
    files::replace(&state_dir.join(NAME), &bytes).map_err(|error| failed(&error))
}

/// Tells a problem in one line of the log.
pub(crate) fn line(problem: &Problem) -> String {
    let mut line = problem.what.clone();
    for cause in &problem.causes {
        line.push_str(": ");
        line.push_str(cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3600).unwrap()
    }

    #[track_caller]
    fn check(last: Option<i64>, rested: Option<i64>, at_rest: bool, old: bool, due: bool) {
        let facts = Facts { last: last.map(at), rested: rested.map(at), at_rest, old };
        assert_eq!(is_due(facts, Duration::from_secs(24 * 3600), at(100)), due, "{facts:?}");
    }

    #[test]
    fn it_collects_after_a_switch_and_not_more_often_than_it_may() {
        check(None, None, true, false, true);
        check(Some(70), Some(80), true, false, true);
        check(Some(70), Some(60), true, false, false);
        check(Some(77), Some(80), true, false, false);
        check(Some(76), Some(80), true, false, true);
    }

    #[test]
    fn it_collects_when_a_generation_has_become_old() {
        check(Some(70), Some(60), true, true, true);
        check(Some(90), Some(60), true, true, false);
    }

    #[test]
    fn it_waits_for_the_end_of_a_switch() {
        check(None, None, false, true, false);
        check(Some(70), Some(80), false, true, false);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_put_it_off() {
        check(Some(1000), None, true, false, true);
    }

    #[test]
    fn when_it_last_collected_is_read_back_and_garbage_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last(folder.path()), None);
        remember(folder.path(), at(5)).unwrap();
        assert_eq!(last(folder.path()), Some(at(5)));
        std::fs::write(folder.path().join(NAME), "{").unwrap();
        assert_eq!(last(folder.path()), None);
    }
}
