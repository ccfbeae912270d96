//! The health checks of a manifest, by what is asked for on the command line. Pure.

use std::path::PathBuf;

use shared::{
    health::{Check, Health, Probe},
    id::CheckName,
    problem::{Kind, Problem},
};

/// Seconds by which checks must have passed, unless the publisher says otherwise.
const DEADLINE: u32 = 120;
/// Seconds between two tries, and that one try may take.
const INTERVAL: u32 = 5;
/// Failures in a row that are too many.
const RETRIES: u32 = 3;

/// What is asked for; without any of it, the checks stay as they were.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Health")]
pub(crate) struct HealthArgs {
    /// A health check, instead of those of the version before: NAME=http://…, NAME=https://…,
    /// NAME=tcp:HOST:PORT, NAME=exec:PROGRAM ARGUMENT…, NAME=unit:UNIT or NAME=registry
    #[arg(long, value_name = "NAME=WHAT", value_parser = check)]
    check: Vec<Check>,
    /// Seconds after the switch by which every check must have passed once
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u32>,
    /// Seconds after that, during which none may fail for good
    #[arg(long, value_name = "SECONDS")]
    soak: Option<u32>,
    /// No health check any more
    #[arg(long, conflicts_with_all = ["check", "deadline", "soak", "health"])]
    no_checks: bool,
    /// All of it as JSON, `{"deadline":…,"soak":…,"checks":[…]}` as in a manifest
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "deadline", "soak"])]
    health: Option<PathBuf>,
}

/// A change of a manifest's health.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HealthEdit {
    whole: Option<Health>,
    checks: Option<Vec<Check>>,
    deadline: Option<u32>,
    soak: Option<u32>,
}

impl HealthArgs {
    /// Reads the file, if one is named.
    pub(crate) fn read(self) -> Result<HealthEdit, Problem> {
        let told = |path: &PathBuf, error: &(dyn std::error::Error + 'static)| {
            Problem::from_error(Kind::Usage, "health", error)
                .because(format!("while reading `{}`", path.display()))
                .leaves("nothing changed")
                .next("registry manifest show GROUP/PROFILE --json")
        };
        let whole = match (&self.health, self.no_checks) {
            (None, false) => None,
            (None, true) => Some(Health::default()),
            (Some(path), _) => {
                let bytes = std::fs::read(path).map_err(|error| told(path, &error))?;
                let max = shared::manifest::MAX_LEN;
                Some(shared::json::read(&bytes, max).map_err(|error| told(path, &error))?)
            }
        };
        let checks = (!self.check.is_empty()).then_some(self.check);
        Ok(HealthEdit { whole, checks, deadline: self.deadline, soak: self.soak })
    }
}

impl HealthEdit {
    /// Returns the health of the next version.
    pub(crate) fn apply(self, current: Option<&Health>) -> Health {
        let Self { whole, checks, deadline, soak } = self;
        let mut health = whole.or_else(|| current.cloned()).unwrap_or_default();
        if let Some(checks) = checks {
            health.checks = checks;
        }
        if let Some(soak) = soak {
            health.soak = soak;
        }
        if let Some(deadline) = deadline {
            health.deadline = deadline;
        } else if health.deadline == 0 && !health.checks.is_empty() {
            health.deadline = DEADLINE;
        }
        health
    }
}

/// Tells in one line what is checked.
pub(crate) fn describe(health: &Health) -> String {
    let check = |check: &Check| format!("{} ({})", check.name, check.probe.kind());
    let checks: Vec<String> = health.checks.iter().map(check).collect();
    match checks.as_slice() {
        [] if health.soak == 0 => "none".to_owned(),
        [] => format!("none, soak {} s", health.soak),
        _ => format!("{} within {} s, soak {} s", checks.join(", "), health.deadline, health.soak),
    }
}

fn check(text: &str) -> Result<Check, String> {
    let (name, what) = text.split_once('=').ok_or("expected NAME=WHAT")?;
    let name = CheckName::parse(name).map_err(|error| error.to_string())?;
    let probe = match what.split_once(':') {
        Some(("http" | "https", _)) => {
            Probe::Http { url: what.to_owned(), status: 200, contains: None }
        }
        Some(("tcp", address)) => Probe::Tcp { address: address.to_owned() },
        Some(("exec", command)) => {
            Probe::Command { argv: command.split_whitespace().map(ToOwned::to_owned).collect() }
        }
        Some(("unit", unit)) => Probe::Unit { unit: unit.to_owned() },
        None if what == "registry" => Probe::Registry,
        Some(_) | None => {
            return Err(format!(
                "`{what}` is neither a URL, tcp:HOST:PORT, exec:PROGRAM, unit:UNIT nor registry"
            ));
        }
    };
    let check = Check { name, probe, interval: INTERVAL, timeout: INTERVAL, retries: RETRIES };
    let alone = Health { deadline: DEADLINE, soak: 0, checks: vec![check.clone()] };
    alone.problem().map_or(Ok(check), |problem| Err(problem.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(checks: &[&str], deadline: Option<u32>) -> HealthEdit {
        let check = checks.iter().map(|text| check(text).unwrap()).collect();
        HealthArgs { check, deadline, ..HealthArgs::default() }.read().unwrap()
    }

    #[test]
    fn flags_replace_what_they_name_and_keep_the_rest() {
        let first = edit(
            &["web=http://127.0.0.1:80/", "db=tcp:[::1]:5432", "self=exec:bin/check --all"],
            None,
        );
        let first = first.apply(None);
        assert_eq!(describe(&first), "web (http), db (tcp), self (command) within 120 s, soak 0 s");
        assert_eq!(edit(&[], None).apply(Some(&first)), first);
        let second = edit(&["up=registry", "it=unit:web.service"], Some(30)).apply(Some(&first));
        assert_eq!(describe(&second), "up (registry), it (unit) within 30 s, soak 0 s");
        let none = HealthArgs { no_checks: true, ..HealthArgs::default() }.read().unwrap();
        assert_eq!(describe(&none.apply(Some(&second))), "none");
    }

    #[test]
    fn what_is_no_check_is_told() {
        for text in ["web", "web=8080", "web=ftp://x", "Web=tcp:x:1", "web=tcp:x", "web=exec:"] {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_says_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health.json");
        let args = HealthArgs { health: Some(file.clone()), ..HealthArgs::default() };
        std::fs::write(&file, r#"{"deadline":0,"soak":9,"checks":[]}"#).unwrap();
        assert_eq!(describe(&args.clone().read().unwrap().apply(None)), "none, soak 9 s");
        std::fs::write(&file, r#"{"deadline":0,"soak":9,"checks":[],"more":1}"#).unwrap();
        assert_eq!(args.read().unwrap_err().code, "health");
    }
}
