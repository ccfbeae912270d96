//! What a person or a program is told of a collection.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use shared::human;
use shared::id::ProfileName;
use shared::nix::{STORE_DIR, StorePath};
use shared::problem::{Kind, Problem};
use store::gc::{Collected, Event, Garbage};

use crate::gc::{Judged, summary};
use crate::output::Output;

/// How often a line says how far it is, where no bar can.
const LINES: Duration = Duration::from_secs(10);

/// Tells of one collection while it runs.
#[derive(Debug)]
pub(super) struct Told {
    output: Output,
    bar: ProgressBar,
    last_line: Instant,
    dead: usize,
    freed: u64,
    now: Timestamp,
    generations: Vec<GenerationRow>,
    deleted: Vec<String>,
}

/// One generation, and what becomes of it.
#[derive(Debug, Serialize)]
struct GenerationRow {
    profile: ProfileName,
    generation: u64,
    path: StorePath,
    verdict: &'static str,
    reason: Reason,
}

#[derive(Debug, Serialize)]
struct Reason {
    code: &'static str,
    text: String,
}

const DELETE: &str = "delete";
const KEEP: &str = "keep";

/// The one JSON object that a collection prints.
#[derive(Serialize)]
struct Object<'a> {
    schema: &'static str,
    dry_run: bool,
    /// Every generation, if any was to go or was only looked at.
    generations: &'a [GenerationRow],
    /// Store paths and leftovers in the store directory.
    deleted: &'a [String],
    paths: u64,
    leftovers: u64,
    /// Bytes; before the fact, those of the archives.
    freed: u64,
    /// Whether there may be more, because enough is freed.
    enough: bool,
}

impl Told {
    pub(super) fn new(output: &Output, now: Timestamp) -> Self {
        let bar = output.progress().add(ProgressBar::new(0));
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} paths  {msg}  {eta} left");
        // The template above is a constant; were it wrong, the default bar would do.
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self {
            output: output.clone(),
            bar,
            last_line: Instant::now(),
            dead: 0,
            freed: 0,
            now,
            generations: Vec::new(),
            deleted: Vec::new(),
        }
    }

    pub(super) fn generation(&mut self, judged: &Judged) {
        let row = row(judged, self.now);
        self.output.detail(&line(&row));
        self.generations.push(row);
    }

    pub(super) fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Waiting => self.output.talk("waiting for another garbage collector to end"),
            Event::Found { paths, nar_size } => {
                self.dead = paths;
                self.bar.set_length(paths as u64);
                let (paths, size) = (human::count(paths, "dead path"), human::size(nar_size));
                self.output.detail(&format!("found {paths}, {size}"));
            }
            Event::Deleted { name, freed } => self.deleted(name, freed),
            Event::Stuck { path, error } => {
                let path = path.display();
                self.output.talk(&format!("warning: cannot delete `{path}`: {error}"));
            }
            Event::Invalidated(_) | Event::Unsharing => {}
        }
    }

    fn deleted(&mut self, name: &str, freed: u64) {
        self.freed = self.freed.saturating_add(freed);
        self.output.detail(&format!("deleted {STORE_DIR}/{name}, {}", human::size(freed)));
        self.deleted.push(format!("{STORE_DIR}/{name}"));
        self.bar.inc(1);
        let freed = format!("{} freed", human::size(self.freed));
        if self.bar.is_hidden() && !self.output.is_json() && self.last_line.elapsed() >= LINES {
            self.last_line = Instant::now();
            let deleted = self.deleted.len();
            self.output.talk(&format!("{deleted}/{} paths, {freed}", self.dead));
        }
        self.bar.set_message(freed);
    }

    /// Clears the way for an error.
    pub(super) fn failed(&self) {
        self.bar.finish_and_clear();
    }

    /// Says how it went.
    pub(super) fn done(&self, collected: &Collected) -> Result<(), Problem> {
        self.bar.finish_and_clear();
        if self.output.is_json() {
            self.output.json(&Object {
                schema: "gc.v1",
                dry_run: false,
                generations: &self.generations,
                deleted: &self.deleted,
                paths: collected.paths,
                leftovers: collected.leftovers,
                freed: collected.freed,
                enough: collected.enough,
            })?;
        } else {
            let mut text = summary(count_deleted(&self.generations), collected, "deleted");
            if collected.enough {
                text.push_str("; there may be more");
            }
            self.output.talk(&text);
        }
        if collected.stuck == 0 {
            return Ok(());
        }
        let what = format!("{} could not be deleted", count(collected.stuck, "path"));
        Err(Problem::new(Kind::Runtime, "gc_stuck", what)
            .leaves("they are not valid any more")
            .fix("make them deletable (immutable flags, mounts) and run it again"))
    }
}

/// Prints what would be deleted, and why generations would or would not.
pub(super) fn list(
    output: &Output,
    judged: &[Judged],
    now: Timestamp,
    garbage: &Garbage,
) -> Result<(), Problem> {
    let leftovers = garbage.leftovers.iter().map(|name| name.to_string_lossy());
    let names = garbage.paths.iter().map(|(path, _)| path.base_name().into());
    let deleted: Vec<String> =
        leftovers.chain(names).map(|name| format!("{STORE_DIR}/{name}")).collect();
    let generations: Vec<_> = judged.iter().map(|judged| row(judged, now)).collect();
    let (paths, leftovers) = (garbage.paths.len() as u64, garbage.leftovers.len() as u64);
    let freed = garbage.paths.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
    if output.is_json() {
        return output.json(&Object {
            schema: "gc.v1",
            dry_run: true,
            generations: &generations,
            deleted: &deleted,
            paths,
            leftovers,
            freed,
            enough: false,
        });
    }
    for text in generations.iter().map(line).chain(deleted) {
        output.data(&text)?;
    }
    let collected = Collected { paths, leftovers, freed, ..Collected::default() };
    output.talk(&summary(count_deleted(&generations), &collected, "would be deleted"));
    Ok(())
}

fn row(judged: &Judged, now: Timestamp) -> GenerationRow {
    GenerationRow {
        profile: judged.profile.clone(),
        generation: judged.generation.number,
        path: judged.generation.path.clone(),
        verdict: if judged.verdict.keeps() { KEEP } else { DELETE },
        reason: Reason { code: judged.verdict.code(), text: judged.verdict.text(now) },
    }
}

fn line(row: &GenerationRow) -> String {
    let GenerationRow { profile, generation, verdict, reason, .. } = row;
    format!("{profile} generation {generation}: {verdict}, {}", reason.text)
}

fn count_deleted(rows: &[GenerationRow]) -> usize {
    rows.iter().filter(|row| row.verdict == DELETE).count()
}

fn count(number: u64, noun: &str) -> String {
    human::count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}
