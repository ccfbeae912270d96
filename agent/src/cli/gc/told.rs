//! What a person or a program is told of a collection.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use shared::human;
use shared::id::ProfileName;
use shared::nix::{STORE_DIR, StorePath};
use shared::problem::{Kind, Problem};
use store::gc::{Collected, Event, Garbage};

use super::generations::Unneeded;
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
    generations: Vec<GenerationRow>,
    deleted: Vec<String>,
}

#[derive(Debug, Serialize)]
struct GenerationRow {
    profile: ProfileName,
    generation: u64,
    path: StorePath,
}

/// The one JSON object that a collection prints.
#[derive(Serialize)]
struct Object<'a> {
    schema: &'static str,
    dry_run: bool,
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
    pub(super) fn new(output: &Output) -> Self {
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
            generations: Vec::new(),
            deleted: Vec::new(),
        }
    }

    pub(super) fn generation(&mut self, unneeded: &Unneeded) {
        let row = row(unneeded);
        self.output.detail(&format!("deleted generation {} of `{}`", row.generation, row.profile));
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
            self.output.talk(&summary("deleted", self.generations.len(), collected));
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

/// Prints what would be deleted.
pub(super) fn list(
    output: &Output,
    unneeded: &[Unneeded],
    garbage: &Garbage,
) -> Result<(), Problem> {
    let leftovers = garbage.leftovers.iter().map(|name| name.to_string_lossy());
    let names = garbage.paths.iter().map(|(path, _)| path.base_name().into());
    let deleted: Vec<String> =
        leftovers.chain(names).map(|name| format!("{STORE_DIR}/{name}")).collect();
    let collected = Collected {
        paths: garbage.paths.len() as u64,
        leftovers: garbage.leftovers.len() as u64,
        freed: garbage.paths.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size)),
        ..Collected::default()
    };
    if output.is_json() {
        return output.json(&Object {
            schema: "gc.v1",
            dry_run: true,
            generations: &unneeded.iter().map(row).collect::<Vec<_>>(),
            deleted: &deleted,
            paths: collected.paths,
            leftovers: collected.leftovers,
            freed: collected.freed,
            enough: false,
        });
    }
    for unneeded in unneeded {
        output.data(&unneeded.link().display().to_string())?;
    }
    for path in &deleted {
        output.data(path)?;
    }
    output.talk(&summary("would delete", unneeded.len(), &collected));
    Ok(())
}

fn row(unneeded: &Unneeded) -> GenerationRow {
    GenerationRow {
        profile: unneeded.profile.clone(),
        generation: unneeded.generation.number,
        path: unneeded.generation.path.clone(),
    }
}

fn summary(verb: &str, generations: usize, collected: &Collected) -> String {
    let mut parts = Vec::new();
    if generations > 0 {
        parts.push(human::count(generations, "generation"));
    }
    parts.push(count(collected.paths, "path"));
    if collected.leftovers > 0 {
        parts.push(count(collected.leftovers, "leftover"));
    }
    let mut text = format!("{verb} {}, {}", parts.join(", "), human::size(collected.freed));
    if collected.enough {
        text.push_str("; there may be more");
    }
    text
}

fn count(number: u64, noun: &str) -> String {
    human::count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}
