//! `agent store verify`.

use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use shared::{
    problem::{Kind, Problem},
    progress::{Amount, Meter, Progress},
};
use store::local::{CheckContents, Checked, Damage};

use super::RootArgs;
use crate::output::Output;

/// How often a line says how far it is, where no bar can.
const LINES: Duration = Duration::from_secs(10);
/// How often a bar is drawn anew.
const FRAMES: Duration = Duration::from_millis(200);

/// Check that every valid path is there and whole, as `nix-store --verify` does; change nothing.
///
/// Names every bad path on stdout and ends with 1 if there is one.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Also read everything and compare it with its hash.
    #[arg(long)]
    check_contents: bool,
    #[command(flatten)]
    root: RootArgs,
}

pub(super) fn run(args: &VerifyArgs, output: &Output) -> Result<(), Problem> {
    let store = args.root.open_for_reading()?;
    let check = if args.check_contents { CheckContents::Yes } else { CheckContents::No };
    let mut bad: u64 = 0;
    let mut printed = Ok(());
    let mut told = Told::new(output);
    let mut report = |damage| {
        bad += 1;
        // The first failure to print is told; checking on is harmless.
        if printed.is_ok() {
            printed = print(&damage, output);
        }
    };
    let checked = store.verify_heard(check, &mut report, &mut |checked| told.hear(checked));
    told.bar.finish_and_clear();
    let checked = checked.map_err(|error| error.problem())?;
    printed?;
    output.detail(&format!("{checked} paths checked, {bad} bad"));
    if bad == 0 {
        return Ok(());
    }
    let root = args.root.root.display();
    let what = format!("{bad} of {checked} paths of the store below `{root}` are bad");
    Err(Problem::new(Kind::Negative, "bad_paths", what)
        .leaves("nothing changed")
        .fix("`nix-store --verify --check-contents --repair` fetches them again"))
}

fn print(damage: &Damage, output: &Output) -> Result<(), Problem> {
    let mut text = damage.to_string();
    let mut error: &dyn std::error::Error = damage;
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source;
    }
    if !output.is_json() {
        return output.data(&text);
    }
    let path = damage.path().map(ToString::to_string);
    output.json(&BadPath { schema: "store-verify.v1", path, problem: &text })
}

/// Says from time to time how far it is.
struct Told<'a> {
    output: &'a Output,
    bar: ProgressBar,
    begin: Instant,
    meter: Meter,
    last: Duration,
}

/// The line of a program: bytes, bytes a second, seconds.
#[derive(Serialize)]
struct Line {
    schema: &'static str,
    event: &'static str,
    paths: usize,
    all_paths: usize,
    bytes: u64,
    all_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

impl<'a> Told<'a> {
    fn new(output: &'a Output) -> Self {
        let bar = output.progress().add(ProgressBar::no_length());
        // The template is a constant; were it wrong, the default bar would do.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let mut meter = Meter::default();
        meter.note(Duration::ZERO, 0);
        Self { output, bar, begin: Instant::now(), meter, last: Duration::ZERO }
    }

    fn hear(&mut self, checked: Checked) {
        let now = self.begin.elapsed();
        self.meter.note(now, checked.bytes);
        let is_last = checked.paths == checked.all_paths;
        let every = if self.bar.is_hidden() { LINES } else { FRAMES };
        // A program hears at least once how much it was.
        let is_due = now.saturating_sub(self.last) >= every || (is_last && self.output.is_json());
        if !is_due {
            return;
        }
        self.last = now;
        let Checked { paths, all_paths, bytes, all_bytes } = checked;
        let amount = |paths: usize, bytes| Amount { paths: paths as u64, bytes };
        let (done, total) = (amount(paths, bytes), amount(all_paths, all_bytes));
        let progress = Progress { done, total, rate: self.meter.rate(), cache: "" };
        let (rate, seconds_left) = (progress.rate, progress.seconds_left());
        if self.output.is_json() {
            let (schema, event) = ("progress.v1", "checked");
            let line =
                Line { schema, event, paths, all_paths, bytes, all_bytes, rate, seconds_left };
            // A reader who is gone is told nothing; the check goes on.
            let _nobody_reads = self.output.json(&line);
        } else if self.bar.is_hidden() {
            self.output.talk(&progress.line());
        } else {
            let width = console::Term::stderr().size().1;
            self.bar.set_message(progress.bar(width.into()));
        }
    }
}

#[derive(Serialize)]
struct BadPath<'a> {
    schema: &'static str,
    path: Option<String>,
    problem: &'a str,
}
