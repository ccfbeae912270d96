//! Progress of a substitution: a bar on a terminal, a line every ten seconds elsewhere, or events
//! as JSON lines.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use shared::human;
use store::substitute::{Event, Fault, Observer, Share, Shares};

use crate::output::Output;

/// How often a line says how far it is, where no bar can.
const LINES: Duration = Duration::from_secs(10);

/// What is shown once it is known how much there is to do.
const BAR: &str =
    "{bar:24} {binary_bytes}/{binary_total_bytes}  {msg}  {binary_bytes_per_sec}  {eta} left";

/// Watches one substitution.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    output: Output,
    counters: Arc<Counters>,
    bar: ProgressBar,
    started: Instant,
}

#[derive(Debug, Default)]
struct Counters {
    discovered: AtomicU64,
    paths: AtomicU64,
    nar_size: AtomicU64,
    finished: AtomicU64,
    unpacked: AtomicU64,
    downloaded: AtomicU64,
    faults: Mutex<Vec<(String, String)>>,
    shares: Shares,
}

impl Counters {
    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn set(counter: &AtomicU64, value: u64) {
        counter.store(value, Ordering::Relaxed);
    }
}

/// One JSON line, with the name of its form as in all our JSON.
#[derive(Debug, Serialize)]
struct Told<'a> {
    schema: &'static str,
    #[serde(flatten)]
    line: &'a Line<'a>,
}

/// What it tells.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Planned { paths: usize, nar_size: u64, valid: usize },
    Progress { paths: u64, unpacked: u64, downloaded: u64 },
    Finished { path: String, cache: &'a str },
    Fault { path: String, cache: &'a str, text: String },
    Done { paths: u64, nar_size: u64, downloaded: u64, seconds: u64, caches: &'a [Share] },
}

impl Progress {
    /// Begins to watch.
    pub(crate) fn new(output: &Output) -> Self {
        let bar = output.progress().add(ProgressBar::no_length());
        set_style(&bar, "{spinner} {msg}");
        let counters = Arc::default();
        Self { output: output.clone(), counters, bar, started: Instant::now() }
    }

    /// Returns what hears of the events.
    pub(crate) fn observer(&self) -> Observer {
        let this = self.clone();
        Arc::new(move |event| this.hear(event))
    }

    /// Waits for `work`, and says from time to time how far it is.
    pub(crate) async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + LINES, LINES);
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
        let counters = &*self.counters;
        let (paths, nar_size) = (Counters::get(&counters.paths), Counters::get(&counters.nar_size));
        let downloaded = Counters::get(&counters.downloaded);
        let seconds = self.started.elapsed().as_secs();
        self.summarise_faults();
        if self.output.is_json() {
            let caches = &counters.shares.get();
            self.line(&Line::Done { paths, nar_size, downloaded, seconds, caches });
        } else if paths == 0 {
            self.output.talk("everything is there already");
        } else {
            self.output.talk(&format!(
                "copied {}, {} ({} downloaded) in {seconds}s",
                human::count(usize::try_from(paths).unwrap_or(usize::MAX), "path"),
                human::size(nar_size),
                human::size(downloaded),
            ));
        }
    }

    /// Clears the way for an error.
    pub(crate) fn failed(&self) {
        self.bar.finish_and_clear();
    }

    fn hear(&self, event: Event<'_>) {
        let counters = &*self.counters;
        counters.shares.hear(&event);
        match event {
            Event::Discovered { paths } => {
                Counters::set(&counters.discovered, paths as u64);
                self.bar.set_message(format!("{} known", human::count(paths, "path")));
            }
            Event::Planned(plan) => {
                Counters::set(&counters.paths, plan.missing.len() as u64);
                Counters::set(&counters.nar_size, plan.nar_size);
                self.bar.set_length(plan.nar_size);
                set_style(&self.bar, BAR);
                self.show_paths();
                let paths = plan.missing.len();
                self.json(&Line::Planned { paths, nar_size: plan.nar_size, valid: plan.valid });
            }
            Event::Started { path, cache, .. } => {
                self.output.detail(&format!("{path} from {cache}"));
            }
            Event::Downloaded { bytes, .. } => {
                counters.downloaded.fetch_add(bytes, Ordering::Relaxed);
            }
            Event::Unpacked(bytes) => {
                let before = counters.unpacked.fetch_add(bytes, Ordering::Relaxed);
                self.bar.set_position(before + bytes);
            }
            Event::Dropped(bytes) => {
                let before = counters.unpacked.fetch_sub(bytes, Ordering::Relaxed);
                self.bar.set_position(before.saturating_sub(bytes));
            }
            Event::Finished { path, cache } => {
                counters.finished.fetch_add(1, Ordering::Relaxed);
                self.show_paths();
                self.json(&Line::Finished { path: path.to_string(), cache });
            }
            Event::Faulty(fault) => self.note(fault),
            Event::Registering => self.bar.set_message("registering"),
            Event::Reached(_) => {}
        }
    }

    fn note(&self, fault: &Fault) {
        let (path, text) = (fault.path.to_string(), fault.line());
        self.output.detail(&format!("warning: {path}: {text}"));
        self.json(&Line::Fault { path, cache: &fault.cache, text: text.clone() });
        let mut faults = self.counters.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push((fault.cache.clone(), text));
    }

    /// Names each cache that failed once, with the first thing that it did.
    fn summarise_faults(&self) {
        let faults = self.counters.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let mut caches: Vec<&str> = faults.iter().map(|(cache, _)| cache.as_str()).collect();
        caches.sort_unstable();
        caches.dedup();
        for cache in caches {
            let of_cache: Vec<_> = faults.iter().filter(|(name, _)| name == cache).collect();
            let first = of_cache.first().map_or("", |(_, text)| text.as_str());
            let times = human::count(of_cache.len(), "time");
            self.output.talk(&format!("warning: a cache failed {times}, others stood in: {first}"));
        }
    }

    fn show_paths(&self) {
        let finished = Counters::get(&self.counters.finished);
        let paths = Counters::get(&self.counters.paths);
        self.bar.set_message(format!("{finished}/{paths} paths"));
    }

    fn tick(&self) {
        let counters = &*self.counters;
        let unpacked = Counters::get(&counters.unpacked);
        let nar_size = Counters::get(&counters.nar_size);
        let (finished, paths) = (Counters::get(&counters.finished), Counters::get(&counters.paths));
        if self.output.is_json() {
            let downloaded = Counters::get(&counters.downloaded);
            self.line(&Line::Progress { paths: finished, unpacked, downloaded });
        } else if paths == 0 {
            let discovered = Counters::get(&counters.discovered);
            self.talk_unless_bar(&format!("{discovered} paths known so far"));
        } else {
            let rate = unpacked / self.started.elapsed().as_secs().max(1);
            let left = nar_size.saturating_sub(unpacked).checked_div(rate);
            let left = left.and_then(|seconds| i64::try_from(seconds).ok()).map_or_else(
                || "stalled".to_owned(),
                |left| format!("{} left", human::span(jiff::SignedDuration::from_secs(left))),
            );
            self.talk_unless_bar(&format!(
                "{finished}/{paths} paths, {} of {}, {}/s, {left}",
                human::size(unpacked),
                human::size(nar_size),
                human::size(rate),
            ));
        }
    }

    fn talk_unless_bar(&self, text: &str) {
        if self.bar.is_hidden() {
            self.output.talk(text);
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

fn set_style(bar: &ProgressBar, template: &str) {
    // The templates are constants; were one wrong, the default bar would do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_names_its_form() {
        let line = Line::Planned { paths: 2, nar_size: 9, valid: 1 };
        let told = serde_json::to_value(Told { schema: "progress.v1", line: &line }).unwrap();
        let wanted = serde_json::json!({
            "schema": "progress.v1", "event": "planned", "paths": 2, "nar_size": 9, "valid": 1,
        });
        assert_eq!(told, wanted);
    }
}
