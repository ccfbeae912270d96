//! The one place that prints: data on stdout, talk on stderr.
//!
//! Commands never print by themselves, so that `--json`, `--quiet`, colours and progress mean the
//! same everywhere.

mod journal;

use std::io::{IsTerminal as _, Write as _};

use anstream::AutoStream;
use anstream::ColorChoice;
use indicatif::{MultiProgress, ProgressDrawTarget};
use owo_colors::OwoColorize as _;
use serde::Serialize;
use shared::problem::{Kind, Problem};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

use crate::cli::{ColorWhen, GlobalArgs};

/// How this run prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    verbose: u8,
    input: bool,
    stdout_color: ColorChoice,
    stderr_color: ColorChoice,
    progress: MultiProgress,
}

impl Output {
    /// Reads the global flags and the terminal.
    pub(crate) fn new(args: &GlobalArgs) -> Self {
        let visible = !args.no_progress && !args.quiet && !args.json;
        // Elsewhere nothing can be drawn over: a line from time to time does.
        let draws = std::io::stderr().is_terminal();
        let target =
            if visible && draws && std::env::var_os("TERM").is_none_or(|term| term != "dumb") {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            };
        Self {
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
            input: !args.no_input && std::io::stdin().is_terminal(),
            stdout_color: color(args.color, &std::io::stdout()),
            stderr_color: color(args.color, &std::io::stderr()),
            progress: MultiProgress::with_draw_target(target),
        }
    }

    /// Prints JSON alone, for a command line that says `--json` and is wrong elsewhere.
    pub(crate) fn for_programs() -> Self {
        Self {
            json: true,
            quiet: true,
            verbose: 0,
            input: false,
            stdout_color: ColorChoice::Never,
            stderr_color: ColorChoice::Never,
            progress: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
        }
    }

    /// Says whether the caller asked for JSON.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Says whether the command may ask something.
    pub(crate) const fn may_ask(&self) -> bool {
        self.input
    }

    /// Returns the place for progress bars; hidden where nobody would see them.
    pub(crate) const fn progress(&self) -> &MultiProgress {
        &self.progress
    }

    /// Prints one piece of data and a line break on stdout; styles are dropped if not wanted.
    pub(crate) fn data(&self, text: &str) -> Result<(), Problem> {
        let mut stdout = AutoStream::new(std::io::stdout().lock(), self.stdout_color);
        written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
    }

    /// Prints raw bytes on stdout.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Problem> {
        let mut stdout = std::io::stdout().lock();
        written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// Returns stdout itself, for data that is too large to gather first.
    pub(crate) fn stdout(&self) -> std::io::StdoutLock<'static> {
        std::io::stdout().lock()
    }

    /// Prints one JSON value as one line on stdout.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), Problem> {
        let mut line = serde_json::to_vec(value)
            .map_err(|error| Problem::from_error(Kind::Runtime, "json", &error))?;
        line.push(b'\n');
        self.bytes(&line)
    }

    /// Tells the person something on stderr, unless quiet.
    pub(crate) fn talk(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// Tells the person a detail on stderr, if asked for by `-v`.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose > 0 {
            self.stderr(text);
        }
    }

    /// Tells a problem on stderr, as text or as JSON.
    ///
    /// "Unchanged" is an exit code that was asked for, and needs no words.
    pub(crate) fn problem(&self, problem: &Problem) {
        if problem.kind == Kind::Unchanged {
            return;
        }
        let rendered = problem.render();
        if self.json {
            let line = ProblemLine { schema: "problem.v1", problem, rendered: &rendered };
            self.stderr(&serde_json::to_string(&line).unwrap_or(rendered.clone()));
        } else {
            let head = format!("error[{}]", problem.code);
            self.stderr(&rendered.replacen(&head, &head.red().bold().to_string(), 1));
        }
    }

    fn stderr(&self, text: &str) {
        // A line through the progress bars would tear them, so they step aside for it.
        self.progress.suspend(|| {
            let mut stderr = AutoStream::new(std::io::stderr().lock(), self.stderr_color);
            // Nobody is left to tell if stderr is closed.
            drop(writeln!(stderr, "{text}"));
        });
    }
}

/// How long a run of the program is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It answers and ends.
    Command,
    /// It stays until it is told to stop.
    Daemon,
}

/// Starts the log on stderr: the commands' own talk is not part of it.
///
/// `SHOAL_LOG` takes the filter syntax of tracing; flags set a level for our own crates. Only a
/// daemon tells of its life unasked.
pub(crate) fn start_tracing(args: &GlobalArgs, life: Life) {
    let level = match (args.quiet, args.verbose) {
        (true, _) => "error",
        (false, 0) if life == Life::Command => "warn",
        (false, 0) => "warn,agent=info,store=info",
        (false, 1) => "info,agent=debug,store=debug",
        (false, _) => "debug,agent=trace,store=trace",
    };
    let filter = EnvFilter::try_from_env("SHOAL_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    if !args.json
        && journal::is_stderr()
        && let Some(journal) = journal::layer()
    {
        return tracing_subscriber::registry().with(filter).with(journal).init();
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(color(args.color, &std::io::stderr()) != ColorChoice::Never);
    if args.json {
        builder.json().init();
    } else {
        builder.fmt_fields(journal::Readable).init();
    }
}

#[derive(Serialize)]
struct ProblemLine<'a> {
    schema: &'static str,
    #[serde(flatten)]
    problem: &'a Problem,
    rendered: &'a str,
}

fn color(when: ColorWhen, stream: &impl anstream::stream::RawStream) -> ColorChoice {
    match when {
        // Hears NO_COLOR, CLICOLOR_FORCE, TERM and whether this is a terminal.
        ColorWhen::Auto => AutoStream::choice(stream),
        ColorWhen::Always => ColorChoice::Always,
        ColorWhen::Never => ColorChoice::Never,
    }
}

/// A reader that has seen enough (`agent status | head`) is no failure.
fn written(result: std::io::Result<()>) -> Result<(), Problem> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Problem::new(Kind::Runtime, "output", "cannot write to stdout")
            .because(error.to_string())),
        Ok(()) => Ok(()),
    }
}
