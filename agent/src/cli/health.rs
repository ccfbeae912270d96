//! `agent health`: tries the checks of what runs, now.

use clap::Args;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use shared::human;
use shared::id::ProfileName;
use shared::problem::{Kind, Problem};

use crate::cli::{Context, Host};
use crate::converge::Found;
use crate::state::Profile;

/// Try the health checks of what runs, each once, and show what they find.
///
/// Ends with 1 if one of them fails. Changes nothing: the daemon goes by its own tries.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The profiles; all if none are given.
    #[arg(value_name = "PROFILE")]
    profiles: Vec<ProfileName>,
}

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    profiles: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    profile: ProfileName,
    checks: Vec<CheckRow>,
}

#[derive(Serialize)]
struct CheckRow {
    name: String,
    kind: &'static str,
    passed: bool,
    problem: Option<String>,
    /// The last lines that a command wrote.
    log: String,
    milliseconds: u64,
}

/// Tries the checks and prints what they find.
pub(crate) async fn run(args: HealthArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let profiles: Vec<Profile> = match args.profiles.as_slice() {
        [] => host.profiles()?,
        names => names.iter().map(|name| host.profile(name)).collect::<Result<_, _>>()?,
    };
    let mut rows = Vec::new();
    for profile in profiles {
        let found = host.converger.try_once(&profile).await.map_err(|error| error.problem())?;
        let checks = found.into_iter().map(row).collect();
        rows.push(Row { profile: profile.name, checks });
    }
    let checks = || rows.iter().flat_map(|row| &row.checks);
    let (all, failed) = (checks().count(), checks().filter(|check| !check.passed).count());
    if context.output.is_json() {
        context.output.json(&Shown { schema: "health.v1", profiles: rows })?;
    } else {
        context.output.data(text(&rows).trim_end())?;
    }
    if failed == 0 {
        return Ok(());
    }
    let what = format!("{failed} of {} failed", human::count(all, "check"));
    Err(Problem::new(Kind::Negative, "unhealthy", what)
        .leaves("nothing changed")
        .next("agent status"))
}

fn row(found: Found) -> CheckRow {
    let Found { check, tried } = found;
    CheckRow {
        name: check.name.to_string(),
        kind: check.probe.kind(),
        passed: tried.outcome.is_ok(),
        problem: tried.outcome.err(),
        log: tried.log,
        milliseconds: u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX),
    }
}

fn text(rows: &[Row]) -> String {
    let width = rows.iter().flat_map(|row| &row.checks).map(|check| check.name.len()).max();
    let width = width.unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        text.push_str(&format!("{}\n", row.profile.as_str().bold()));
        if row.checks.is_empty() {
            text.push_str("  no checks\n");
        }
        for check in &row.checks {
            let mark =
                if check.passed { "✓".green().to_string() } else { "✗".red().to_string() };
            let end = match &check.problem {
                Some(problem) => problem.clone(),
                None => format!("{} ms", check.milliseconds),
            };
            text.push_str(&format!("  {mark} {:<width$}  {:<8}  {end}\n", check.name, check.kind));
            for line in check.log.lines().filter(|_| !check.passed) {
                text.push_str(&format!("      {}\n", human::plain(line)));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn shows_what_each_check_finds() {
        let check = |name: &str, kind, problem: Option<&str>, log: &str| CheckRow {
            name: name.to_owned(),
            kind,
            passed: problem.is_none(),
            problem: problem.map(ToOwned::to_owned),
            log: log.to_owned(),
            milliseconds: 12,
        };
        let rows = [
            Row {
                profile: "webshop".parse().unwrap(),
                checks: vec![
                    check("front", "http", Some("answered 502"), ""),
                    check("db", "tcp", None, ""),
                    check("self-test", "command", Some("ended with 1"), "no disk\nat /data"),
                ],
            },
            Row { profile: "quiet".parse().unwrap(), checks: Vec::new() },
        ];
        let shown = anstream::adapter::strip_str(&text(&rows)).to_string();
        expect![[r#"
            webshop
              ✗ front      http      answered 502
              ✓ db         tcp       12 ms
              ✗ self-test  command   ended with 1
                  no disk
                  at /data
            quiet
              no checks
        "#]]
        .assert_eq(&shown);
    }
}
