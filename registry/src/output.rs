//! The one place that prints: data on stdout, talk on stderr.

use std::{
    borrow::Cow,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
};

use anstream::{AutoStream, ColorChoice, adapter::strip_str};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize as _;
use serde::Serialize;
use serde_json::{Value, json};
use shared::{
    human,
    problem::{Kind, Problem},
};
use tracing_subscriber::{EnvFilter, filter::Directive};
use zeroize::Zeroizing;

use crate::cli::{Color, Global};

/// How this run of the program talks.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
    ask: bool,
    progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

impl Output {
    /// Reads the options that say how to talk, and sets the colours for the whole process.
    pub(crate) fn new(global: &Global) -> Self {
        // `Auto` heeds NO_COLOR before CLICOLOR_FORCE, and asks each stream for itself.
        match global.color {
            Color::Auto => ColorChoice::Auto,
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        }
        .write_global();
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self {
            format: if global.json { Format::Json } else { Format::Text },
            quiet: global.quiet,
            ask: terminal && !global.no_input,
            progress: io::stderr().is_terminal() && !global.no_progress && !global.quiet,
        }
    }

    /// Prints JSON alone, for a command line that says `--json` and is wrong elsewhere.
    pub(crate) const fn for_programs() -> Self {
        Self { format: Format::Json, quiet: true, ask: false, progress: false }
    }

    /// Starts to count something slow, where a person watches a terminal; of `total`, if known.
    pub(crate) fn counter(&self, what: &'static str, total: usize) -> Counter {
        if !self.progress {
            return Counter { bar: ProgressBar::hidden() };
        }
        let bar = if total > 0 { ProgressBar::new(total as u64) } else { ProgressBar::no_length() };
        let template =
            if total > 0 { "{msg:<9} {pos}/{len} paths" } else { "{msg:<9} {pos} paths" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        Counter { bar }
    }

    /// Prints the answer: `text` for a person, or `json` in one line.
    pub(crate) fn data(&self, text: &str, json: &Value) -> Result<(), Problem> {
        match self.format {
            Format::Text => {
                let text = fit(text, io::stdout().is_terminal());
                write_all(anstream::stdout(), text.as_bytes())
            }
            Format::Json => write_all(
                anstream::stdout(),
                format!("{}\n", human::plain_json(&json.to_string())).as_bytes(),
            ),
        }
    }

    /// Prints one of many answers, and says whether anybody still reads them.
    pub(crate) fn follow(&self, text: &str, json: &Value) -> Result<bool, Problem> {
        let written = match self.format {
            Format::Text => {
                let text = fit(text, io::stdout().is_terminal());
                let mut stdout = anstream::stdout();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            }
            Format::Json => {
                let mut stdout = io::stdout().lock();
                let line = format!("{}\n", human::plain_json(&json.to_string()));
                stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            other => other.map(|()| true).map_err(|error| unwritten(&error)),
        }
    }

    /// Says whether an answer can be painted over the one before.
    pub(crate) fn paints(&self) -> bool {
        let smart = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        self.format == Format::Text && smart && io::stdout().is_terminal()
    }

    /// Paints the whole terminal; what does not fit is left out, and told.
    pub(crate) fn paint(&self, text: &str) -> Result<(), Problem> {
        let (rows, columns) = console::Term::stdout().size();
        let (rows, columns) = (usize::from(rows.max(2)) - 1, usize::from(columns));
        let text = fit(text, true);
        let coloured = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
        let lines: Vec<&str> = text.lines().collect();
        let most = if lines.len() > rows { rows.saturating_sub(1) } else { lines.len() };
        // To the corner; each line to its end, and what was below it is gone.
        let mut screen = "\u{1b}[H".to_owned();
        for line in lines.iter().take(most) {
            let line = console::truncate_str(line, columns, "");
            let line = if coloured { line } else { strip_str(&line).to_string().into() };
            screen.push_str(&format!("{line}\u{1b}[0m\u{1b}[K\r\n"));
        }
        if lines.len() > most {
            screen.push_str(&format!("and {} more lines\u{1b}[K\r\n", lines.len() - most));
        }
        screen.push_str("\u{1b}[J");
        write_all(io::stdout().lock(), screen.as_bytes())
    }

    /// Prints bytes that are the answer as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Problem> {
        write_all(io::stdout().lock(), bytes)
    }

    /// Says a line to the person who watches; not part of the answer.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            talk(&format!("{line}\n"));
        }
    }

    /// Tells a problem, whatever the options say.
    pub(crate) fn problem(&self, problem: &Problem) {
        if problem.kind == Kind::Interrupted {
            // Whoever stopped it knows.
            return;
        }
        let rendered = problem.render();
        match self.format {
            Format::Text => {
                let (first, rest) = rendered.split_once(": ").unwrap_or((&rendered, ""));
                talk(&format!("{}: {rest}\n", first.red().bold()));
            }
            Format::Json => {
                let json = json!({
                    "schema": "problem.v1",
                    "exit_code": problem.kind.exit_code(),
                    "rendered": rendered,
                });
                let json = joined(problem, json);
                talk(&format!("{json}\n"));
            }
        }
    }

    /// Asks a question whose answer is no unless it is clearly yes.
    ///
    /// # Errors
    /// When nobody can be asked; `instead` is the option that would have answered.
    pub(crate) fn confirm(&self, question: &str, instead: &str) -> Result<bool, Problem> {
        if !self.ask {
            return Err(nobody_to_ask(question, instead));
        }
        talk(&format!("{question} [y/N] "));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(|error| {
            Problem::from_error(Kind::Runtime, "input", &error).leaves("nothing changed")
        })?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks for a secret, which is not shown while it is typed.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub(crate) fn secret(&self, question: &str) -> Result<Zeroizing<String>, Problem> {
        if !self.ask {
            return Err(nobody_to_ask(question, "--passphrase-file FILE"));
        }
        rpassword::prompt_password(format!("{question}: ")).map(Zeroizing::new).map_err(|error| {
            Problem::from_error(Kind::Runtime, "input", &error).leaves("nothing changed")
        })
    }
}

/// Something slow that is counted on the terminal.
#[derive(Debug)]
pub(crate) struct Counter {
    bar: ProgressBar,
}

impl Counter {
    /// Shows how far it is.
    pub(crate) fn at(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Sends the log to stderr; `SHOAL_LOG` filters it as `RUST_LOG` does elsewhere.
pub(crate) fn start_logging(global: &Global, normal: tracing::Level) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => tracing::Level::ERROR,
        (false, 0) => normal,
        (false, 1) => normal.max(tracing::Level::DEBUG),
        (false, _) => tracing::Level::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(Directive::from(level))
        .with_env_var("SHOAL_LOG")
        .from_env_lossy();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(anstream::stderr);
    let log = log.with_target(false);
    if global.json { log.json().init() } else { log.init() }
}

/// Returns an answer as JSON, with these members beside its own.
pub(crate) fn joined(answer: &impl Serialize, more: Value) -> Value {
    let mut json = serde_json::to_value(answer).unwrap_or_default();
    if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
        json.extend(more);
    }
    json
}

fn nobody_to_ask(question: &str, instead: &str) -> Problem {
    Problem::new(Kind::Usage, "no_input", format!("cannot ask `{question}`"))
        .because("this is not a terminal, or --no-input is given")
        .leaves("nothing changed")
        .fix(format!("add {instead}"))
}

fn write_all(mut stream: impl io::Write, bytes: &[u8]) -> Result<(), Problem> {
    let written = stream.write_all(bytes).and_then(|()| stream.flush());
    match written {
        // Whoever read our answer has had enough of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| unwritten(&error)),
    }
}

fn unwritten(error: &io::Error) -> Problem {
    Problem::from_error(Kind::Runtime, "output", error)
}

/// Writes to stderr; when even that fails there is nobody left to tell.
fn talk(text: &str) {
    let text = fit(text, io::stderr().is_terminal());
    let _nobody_listens = anstream::stderr().write_all(text.as_bytes());
}

/// Leaves out the glyphs that a terminal would not show.
fn fit(text: &str, is_terminal: bool) -> Cow<'_, str> {
    if !is_terminal || human::shows_glyphs(|name| std::env::var(name).ok()) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(human::ascii(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_without_a_terminal() {
        let output = Output { format: Format::Text, quiet: false, ask: false, progress: false };
        let problem = output.confirm("Publish?", "--yes").unwrap_err();
        assert_eq!(problem.kind.exit_code(), 2);
        assert_eq!(problem.fix.as_deref(), Some("add --yes"));
    }
}
