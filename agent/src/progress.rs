//! Progress of a substitution: a bar on a terminal, a line every ten seconds elsewhere, events as
//! JSON lines, or lines in the log of the daemon.

mod counters;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use shared::human;
use shared::id::ProfileName;
use store::substitute::{Event, Fault, Observer, Share};
use tokio::task::JoinHandle;

use self::counters::{Counters, Part, Phase};
use crate::output::Output;

/// How often a line says how far it is, where no bar can.
const LINES: Duration = Duration::from_secs(10);
/// How often a bar is drawn anew.
const FRAMES: Duration = Duration::from_millis(200);

/// Watches one substitution, or several at once.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    output: Output,
    counters: Arc<Counters>,
    bar: ProgressBar,
    started: Instant,
}

/// One JSON line, with the name of its form as in all our JSON.
#[derive(Debug, Serialize)]
struct Told<'a> {
    schema: &'static str,
    #[serde(flatten)]
    line: &'a Line<'a>,
}

/// What it tells: sizes in bytes, rates in bytes a second, times in seconds.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    /// What will be fetched; these totals stay. One for each closure that is fetched at once.
    Planned { paths: usize, nar_size: u64, valid: usize },
    /// Every ten seconds. Without a rate nothing is known of it yet; without an end it stands still.
    Progress {
        paths: u64,
        unpacked: u64,
        downloaded: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        rate: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds_left: Option<u64>,
    },
    /// A path is on disk.
    Finished { path: String, cache: &'a str },
    /// A cache failed or lied, and the next one is asked.
    Fault { path: String, cache: &'a str, text: String },
    /// Everything is valid.
    Done { paths: u64, nar_size: u64, downloaded: u64, seconds: u64, caches: &'a [Share] },
}

impl Progress {
    /// Begins to watch.
    pub(crate) fn new(output: &Output) -> Self {
        let bar = output.progress().add(ProgressBar::no_length());
        // The template is a constant; were it wrong, the default bar would do.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let counters = Arc::default();
        Self { output: output.clone(), counters, bar, started: Instant::now() }
    }

    /// Returns what hears of the events of one closure.
    pub(crate) fn observer(&self) -> Observer {
        let (this, part) = (self.clone(), self.counters.part());
        Arc::new(move |event| this.hear(&part, event))
    }

    /// Waits for `work`, and says from time to time how far it is.
    pub(crate) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let every = if self.bar.is_hidden() { LINES } else { FRAMES };
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        loop {
            tokio::select! {
                // Cancel safe: `work` is only polled here, a tick lost is a line lost.
                result = &mut work => return result,
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    /// Says how it went that went well.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
        let done = self.counters.done();
        let seconds = self.started.elapsed().as_secs();
        self.summarise_faults();
        if self.output.is_json() {
            let (paths, nar_size, downloaded) = (done.paths, done.nar_size, done.downloaded);
            let caches = &self.counters.shares();
            self.line(&Line::Done { paths, nar_size, downloaded, seconds, caches });
        } else {
            self.output.talk(&done.text(seconds));
        }
    }

    /// Says how it went if something was to be done, and all of it was; else clears the way.
    pub(crate) fn done_if_any(&self) {
        let done = self.counters.done();
        if done.paths > 0 && done.is_complete() { self.done() } else { self.failed() }
    }

    /// Clears the way for an error.
    pub(crate) fn failed(&self) {
        self.bar.finish_and_clear();
    }

    fn hear(&self, part: &Part, event: Event<'_>) {
        self.counters.hear(part, &event, self.started.elapsed());
        match event {
            Event::Planned(plan) => {
                let (paths, nar_size, valid) = (plan.missing.len(), plan.nar_size, plan.valid);
                self.json(&Line::Planned { paths, nar_size, valid });
            }
            Event::Started { path, cache, .. } => {
                self.output.detail(&format!("{path} from {cache}"));
            }
            Event::Finished { path, cache } => {
                self.json(&Line::Finished { path: path.to_string(), cache });
            }
            Event::Faulty(fault) => self.note(fault),
            Event::Discovered { .. }
            | Event::Downloaded { .. }
            | Event::Unpacked(_)
            | Event::Dropped(_)
            | Event::Spared { .. }
            | Event::Registering
            | Event::Reached(_)
            | Event::Ended => {}
        }
    }

    fn note(&self, fault: &Fault) {
        let (path, text) = (fault.path.to_string(), fault.line());
        self.output.detail(&format!("warning: {path}: {text}"));
        self.json(&Line::Fault { path, cache: &fault.cache, text });
    }

    /// Names each cache that failed once, with the first thing that it did.
    fn summarise_faults(&self) {
        for (times, first) in self.counters.faults() {
            let times = human::count(times, "time");
            self.output.talk(&format!("warning: a cache failed {times}, others stood in: {first}"));
        }
    }

    fn tick(&self) {
        let now = self.started.elapsed();
        if self.output.is_json() {
            let done = self.counters.done();
            let (rate, seconds_left) = self.counters.speed(now);
            self.line(&Line::Progress {
                paths: done.finished,
                unpacked: done.unpacked,
                downloaded: done.downloaded,
                rate,
                seconds_left,
            });
        } else if self.bar.is_hidden() {
            self.output.talk(&self.counters.text(now, None));
        } else {
            let width = console::Term::stderr().size().1;
            self.bar.set_message(self.counters.text(now, Some(width.into())));
        }
    }

    fn json(&self, line: &Line<'_>) {
        if self.output.is_json() {
            self.line(line);
        }
    }

    fn line(&self, line: &Line<'_>) {
        // A reader of events who is gone is told nothing; the work goes on.
        let _nobody_reads = self.output.json(&Told { schema: "progress.v1", line });
    }
}

/// Returns what writes to the log how far the fetch of a profile is: when it begins, every ten
/// seconds, and when it ends. Needs a runtime.
pub(crate) fn logged(profile: &ProfileName) -> Observer {
    let (profile, counters) = (profile.clone(), Arc::new(Counters::default()));
    let (part, started) = (counters.part(), Instant::now());
    let lines: Mutex<Option<JoinHandle<()>>> = Mutex::default();
    Arc::new(move |event| {
        counters.hear(&part, &event, started.elapsed());
        match event {
            Event::Planned(plan) if !plan.missing.is_empty() => {
                tracing::info!(
                    %profile, paths = plan.missing.len(), nar_size = plan.nar_size,
                    "fetching"
                );
                let work = keep_logging(profile.clone(), Arc::clone(&counters), started);
                let before = lines
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .replace(tokio::spawn(work));
                // It begins again, after room was made for it.
                if let Some(before) = before {
                    before.abort();
                }
            }
            Event::Registering => {
                let done = counters.done();
                tracing::info!(
                    %profile, paths = done.finished, nar_size = done.nar_size,
                    downloaded = done.downloaded, "fetched"
                );
            }
            Event::Planned(_)
            | Event::Discovered { .. }
            | Event::Started { .. }
            | Event::Finished { .. }
            | Event::Faulty(_)
            | Event::Downloaded { .. }
            | Event::Unpacked(_)
            | Event::Dropped(_)
            | Event::Spared { .. }
            | Event::Reached(_)
            | Event::Ended => {}
        }
    })
}

/// Writes a line every ten seconds until the fetch ends, also when nothing moves.
async fn keep_logging(profile: ProfileName, counters: Arc<Counters>, started: Instant) {
    let mut ticks = tokio::time::interval(LINES);
    // The first one is now.
    ticks.tick().await;
    while counters.done().phase == Phase::Fetching {
        ticks.tick().await;
        let (now, done) = (started.elapsed(), counters.done());
        let (rate, seconds_left) = counters.speed(now);
        if done.phase == Phase::Fetching {
            tracing::info!(
                %profile, paths = done.finished, of = done.paths, unpacked = done.unpacked,
                nar_size = done.nar_size, downloaded = done.downloaded, rate, seconds_left,
                "fetching: {}", counters.text(now, None)
            );
        }
    }
}

#[cfg(test)]
mod tests;
