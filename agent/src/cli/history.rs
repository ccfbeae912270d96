//! `agent history` and `agent logs`: what became of every switch of this host.

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use shared::human;
use shared::id::ProfileName;
use shared::problem::{Kind, Problem};

use crate::cli::{Context, Host};
use crate::history::{self, End, Entry, Outcome};

/// Show what became of each switch, the newest first.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The profiles; all if none are given.
    #[arg(value_name = "PROFILE")]
    profiles: Vec<ProfileName>,
}

/// Show the last lines that a switch wrote.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The attempt, as `agent history` names it, or the beginning of it; the newest if not given.
    #[arg(value_name = "ATTEMPT")]
    attempt: Option<String>,
}

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    attempts: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    profile: ProfileName,
    #[serde(flatten)]
    entry: Entry,
}

/// Prints the history.
pub(crate) fn history(args: &HistoryArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    for name in &args.profiles {
        host.profile(name)?;
    }
    let rows = rows(&host, &args.profiles)?;
    if context.output.is_json() {
        return context.output.json(&Shown { schema: "history.v1", attempts: rows });
    }
    if rows.is_empty() {
        context.output.talk("nothing was switched yet");
        return Ok(());
    }
    context.output.data(text(&rows, Timestamp::now()).trim_end())
}

/// Prints what one attempt wrote.
pub(crate) fn logs(args: &LogsArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let asked = args.attempt.as_deref().unwrap_or_default();
    let mut rows = rows(&host, &[])?;
    rows.retain(|row| row.entry.attempt.starts_with(asked));
    let Some(row) = rows.into_iter().next() else {
        let what = match args.attempt {
            Some(_) => format!("there is no attempt `{asked}`"),
            None => "nothing was switched yet".to_owned(),
        };
        return Err(Problem::new(Kind::Usage, "no_attempt", what)
            .leaves("nothing changed")
            .next("agent history"));
    };
    if context.output.is_json() {
        return context.output.json(&Shown { schema: "history.v1", attempts: vec![row] });
    }
    context.output.talk(&format!("{} {}", row.profile, row.entry.attempt));
    let lines: Vec<String> = row.entry.log.lines().map(human::plain).collect();
    if lines.is_empty() { Ok(()) } else { context.output.data(&lines.join("\n")) }
}

/// Returns the attempts of these profiles, or of all, the newest first.
fn rows(host: &Host, names: &[ProfileName]) -> Result<Vec<Row>, Problem> {
    let mut rows = Vec::new();
    for profile in host.profiles()? {
        if names.is_empty() || names.contains(&profile.name) {
            let entries = history::read(host.converger.state_dir(), &profile.name);
            let entries =
                entries.map_err(|error| Problem::from_error(Kind::Runtime, "history", &error))?;
            let row = |entry| Row { profile: profile.name.clone(), entry };
            rows.extend(entries.into_iter().rev().map(row));
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.entry.at));
    Ok(rows)
}

fn text(rows: &[Row], now: Timestamp) -> String {
    let end = |end: &Option<End>| match end {
        None => "nothing".to_owned(),
        Some(end) => match (end.version, end.generation) {
            (Some(version), _) => format!("#{}", version.version),
            (None, Some(generation)) => format!("generation {generation}"),
            (None, None) => end.path.name().to_owned(),
        },
    };
    let steps: Vec<String> = rows
        .iter()
        .map(|row| format!("{} → {}", end(&row.entry.from), end(&row.entry.to)))
        .collect();
    let wide = |words: &mut dyn Iterator<Item = usize>| words.max().unwrap_or(0);
    let name = wide(&mut rows.iter().map(|row| row.profile.as_str().len()));
    let step = wide(&mut steps.iter().map(|step| step.chars().count()));
    let mut text = String::new();
    for (row, steps) in rows.iter().zip(&steps) {
        let Entry { attempt, at, outcome, reason, phases, .. } = &row.entry;
        let took = phases.first().map_or(String::new(), |first| {
            format!(" in {}", human::span(at.duration_since(first.at)))
        });
        let why = reason.as_ref().map_or(String::new(), |reason| format!("  {}", reason.text));
        let when = human::ago(*at, now);
        text.push_str(&format!(
            "{attempt}  {:<name$}  {steps:<step$}  {:<11}  {when}{took}{why}\n",
            row.profile,
            word(*outcome),
        ));
    }
    text
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Confirmed => "confirmed",
        Outcome::Unhealthy => "unhealthy",
        Outcome::RolledBack => "rolled back",
        Outcome::Stopped => "stopped",
        Outcome::Failed => "failed",
        Outcome::Undone => "undone",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use shared::nix::StorePath;
    use shared::state_word::StateWord;

    use super::*;
    use crate::state::{Code, EpochVersion, Phase, Reason};

    #[test]
    fn tells_each_switch_in_one_line() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let end = |number: u32| {
            let version = shared::version::VersionNumber::new(number).unwrap();
            Some(End {
                version: Some(EpochVersion { epoch: 0, version }),
                generation: Some(number.into()),
                path: StorePath::from_base_name(&format!("{}-web", "0".repeat(32))).unwrap(),
            })
        };
        let row = |profile: &str, at_second, from, to, outcome, reason: Option<&str>| Row {
            profile: profile.parse().unwrap(),
            entry: Entry {
                attempt: "1f00ba4404faced0".to_owned(),
                at: at(at_second),
                from,
                to,
                outcome,
                reason: reason.map(|text| Reason::new(Code::HealthFailed, text)),
                phases: vec![Phase { word: StateWord::Fetching, at: at(at_second - 90) }],
                log: String::new(),
            },
        };
        let bad = "front did not pass within 60 s: answered 502";
        let rows = [
            row("webshop", 7200, end(2), None, Outcome::Stopped, None),
            row("webshop", 3600, end(1), end(2), Outcome::RolledBack, Some(bad)),
            row("db", 1800, None, end(11), Outcome::Confirmed, None),
        ];
        expect![[r#"
            1f00ba4404faced0  webshop  #2 → nothing   stopped      now in 1m 30s
            1f00ba4404faced0  webshop  #1 → #2        rolled back  1h ago in 1m 30s  front did not pass within 60 s: answered 502
            1f00ba4404faced0  db       nothing → #11  confirmed    1h 30m ago in 1m 30s
        "#]]
        .assert_eq(&text(&rows, at(7200)));
    }
}
