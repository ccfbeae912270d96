//! What a program's doctor found: in the way or not, and what to do about it.

use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::human;

/// How bad a finding is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It will be in the way.
    Warning,
    /// It is in the way.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// The next command.
    pub next: Option<String>,
}

impl Finding {
    /// Makes a finding without a next command. The text may quote a stranger.
    #[must_use]
    pub fn new(level: Level, subject: impl Into<String>, text: impl Into<String>) -> Self {
        let text = human::redact(&human::plain(&text.into()));
        Self { level, subject: human::plain(&subject.into()), text, next: None }
    }

    /// Names the next command.
    #[must_use]
    pub fn next(self, command: impl Into<String>) -> Self {
        Self { next: Some(human::plain(&command.into())), ..self }
    }
}

/// Returns how many findings are of this level.
#[must_use]
pub fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

/// Writes the findings, one below the other, and how many of them are bad.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { level, subject, text: found, next } in findings {
        let mark = match level {
            Level::Ok => "✓".green().to_string(),
            Level::Warning => "!".yellow().to_string(),
            Level::Error => "✗".red().to_string(),
        };
        text.push_str(&format!("{mark} {subject:<width$}  {found}\n"));
        if let (Level::Warning | Level::Error, Some(next)) = (level, next) {
            text.push_str(&format!("  {:<width$}  next: {next}\n", ""));
        }
    }
    let (errors, warnings) = (count(findings, Level::Error), count(findings, Level::Warning));
    let told =
        format!("{}, {}\n", human::count(errors, "error"), human::count(warnings, "warning"));
    text.push_str(&told);
    text
}
