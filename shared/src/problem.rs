//! What went wrong, in the one form that both programs print, log and send.
//!
//! Every error that a person or a program meets says what, why, what has or has not changed, and
//! what to do next. The kind decides the exit code.

use serde::{Deserialize, Serialize};

use crate::human;

/// How a command ends when it does not end well; the exit codes of both programs.
///
/// As in `diff(1)`: 1 means that the answer is no, 3 and more that there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Kind {
    /// The answer is no: differs, not converged, problems found.
    Negative,
    /// The command line or the configuration is wrong.
    Usage,
    /// The machine failed us: input, output, full disk.
    Runtime,
    /// Bytes were refused: signature, hash, archive, fence.
    Trust,
    /// The world moved, or holds something else under this name.
    Conflict,
    /// A registry or cache could not be reached.
    Unreachable,
    /// A deadline passed.
    Timeout,
    /// A switch failed, and the previous generation runs again.
    RolledBack,
    /// A switch failed, and going back failed as well.
    Failed,
    /// Some hosts, but not all.
    Partial,
    /// Nothing to do, where the caller asked to be told.
    Unchanged,
    /// The user stopped it.
    Interrupted,
}

impl Kind {
    /// Returns the exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Negative => 1,
            Self::Usage => 2,
            Self::Runtime => 3,
            Self::Trust => 4,
            Self::Conflict => 5,
            Self::Unreachable => 6,
            Self::Timeout => 7,
            Self::RolledBack => 8,
            Self::Failed => 9,
            Self::Partial => 10,
            Self::Unchanged => 77,
            Self::Interrupted => 130,
        }
    }
}

/// One problem, told in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The kind; decides the exit code.
    pub kind: Kind,
    /// A stable word for programs, such as `profile_claimed_twice`.
    pub code: String,
    /// What happened, on what, in one lower-case sentence without a full stop.
    pub what: String,
    /// Why: one line for each cause, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What the failure left behind, such as `nothing changed` or `still running version 41`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// What would mend it, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The next command to type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Problem {
    /// Starts a problem that has no cause beside itself.
    pub fn new(kind: Kind, code: &str, what: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            what: what.into(),
            causes: Vec::new(),
            state: None,
            fix: None,
            next: None,
        }
    }

    /// Starts a problem from what the parser of a command line says to a person.
    ///
    /// Its first line is what is wrong, its tips are the fix; the rest is for eyes.
    #[must_use]
    pub fn of_usage(program: &str, text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default();
        let what = first.strip_prefix("error: ").unwrap_or(first);
        let problem = Self::new(Kind::Usage, "usage", what)
            .leaves("nothing changed")
            .next(format!("{program} --help"));
        match text.lines().find_map(|line| line.trim_start().strip_prefix("tip: ")) {
            Some(tip) => problem.fix(tip),
            None => problem,
        }
    }

    /// Starts a problem from an error: its message is what, its sources are the causes.
    pub fn from_error(kind: Kind, code: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut problem = Self::new(kind, code, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            problem.causes.push(cause.to_string());
            source = cause.source();
        }
        problem
    }

    /// Adds the nearest cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Says what the failure left behind.
    #[must_use]
    pub fn leaves(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Says what would mend it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Names the next command.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// Writes the problem for a person: plain text, one fact a line.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("error[{}]: {}", self.code, self.what);
        for cause in &self.causes {
            text.push_str("\n  because ");
            text.push_str(cause);
        }
        for (label, line) in [("state", &self.state), ("fix", &self.fix), ("next", &self.next)] {
            if let Some(line) = line {
                text.push_str(&format!("\n  {label}: {line}"));
            }
        }
        // Much of it may quote what came from elsewhere.
        text.split('\n').map(human::plain).collect::<Vec<_>>().join("\n")
    }
}

/// Tells an error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_problem_says_what_why_and_what_next() {
        let problem = Problem::new(Kind::Trust, "untrusted", "`web` version 44 is refused")
            .because("1 of 2 signatures")
            .leaves("still running version 43")
            .next("registry manifest show eu-prod/web");
        expect![[r#"
            error[untrusted]: `web` version 44 is refused
              because 1 of 2 signatures
              state: still running version 43
              next: registry manifest show eu-prod/web"#]]
        .assert_eq(&problem.render());
        assert_eq!(problem.kind.exit_code(), 4);
    }

    #[test]
    fn a_problem_that_quotes_a_stranger_does_nothing_to_a_terminal() {
        let problem = Problem::new(Kind::Trust, "untrusted", "`\u{1b}]0;x\u{7}` is refused")
            .because("one\ntwo");
        assert_eq!(problem.render(), "error[untrusted]: ` ]0;x ` is refused\n  because one\ntwo");
    }
}
