//! Health: what must hold before a switch counts as done.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{id::CheckName, json, manifest::is_line};

/// Most checks of one manifest.
const MAX_CHECKS: usize = 32;

/// Longest health of one manifest as JSON, in bytes: a host also keeps those of what it ran.
const MAX_LEN: usize = 4096;

/// Longest deadline in seconds: a day.
const MAX_DEADLINE: u32 = 24 * 3600;

/// Longest soak in seconds: a week.
const MAX_SOAK: u32 = 7 * MAX_DEADLINE;

/// Longest interval, and longest try, in seconds.
const MAX_INTERVAL: u32 = 3600;

/// Most failures in a row.
const MAX_RETRIES: u32 = 1000;

/// Longest text that an answer must contain, in bytes.
const MAX_CONTAINS: usize = 256;

/// When a profile counts as healthy.
///
/// A check that has not passed yet may fail as often as it likes until the deadline: services need
/// time to start. Once it has passed, `retries` failures in a row are too many, during the soak and
/// ever after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Seconds after the switch by which every check must have passed once.
    pub deadline: u32,
    /// Seconds after that, during which none may fail for good.
    pub soak: u32,
    /// What is checked.
    pub checks: Vec<Check>,
}

/// One health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenCheck", into = "WrittenCheck")]
pub struct Check {
    /// What it is called.
    pub name: CheckName,
    /// What it looks at.
    pub probe: Probe,
    /// Seconds between two tries.
    pub interval: u32,
    /// Seconds after which a try has failed.
    pub timeout: u32,
    /// Failures in a row after which a check that passed before has failed; 0 is as 1.
    pub retries: u32,
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An answer over HTTP. Redirects are not followed.
    Http {
        /// What is asked for.
        url: String,
        /// The status that must come.
        status: u16,
        /// What the first 64 KiB of the body must contain, if anything.
        contains: Option<String>,
    },
    /// A TCP connection.
    Tcp {
        /// Host and port.
        address: String,
    },
    /// A command that must end with 0.
    Command {
        /// The program and its arguments. A program that does not begin with `/` is one of the
        /// root's own, such as `bin/check`.
        argv: Vec<String>,
    },
    /// A registry or mirror that answers, for hosts that must not lose it.
    Registry,
    /// A systemd unit that must be active.
    Unit {
        /// Its name.
        unit: String,
    },
}

impl Health {
    /// Tells whether nothing is checked and nothing is waited for.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.soak == 0
    }

    /// Returns the length as JSON, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        serde_json::to_vec(self).map_or(usize::MAX, |bytes| bytes.len())
    }

    /// Returns the first rule that it breaks.
    #[must_use]
    pub fn problem(&self) -> Option<&'static str> {
        let names: BTreeSet<&CheckName> = self.checks.iter().map(|check| &check.name).collect();
        let rules = [
            (names.len() == self.checks.len(), "two checks of one name"),
            (self.checks.len() <= MAX_CHECKS, "more than 32 checks"),
            (self.checks.is_empty() || self.deadline > 0, "checks without a deadline"),
            (self.deadline <= MAX_DEADLINE, "a deadline of more than a day"),
            (self.soak <= MAX_SOAK, "a soak of more than a week"),
        ];
        let broken = rules.into_iter().find(|(holds, _)| !holds).map(|(_, problem)| problem);
        let of_a_check = || self.checks.iter().find_map(Check::problem);
        let too_long = || (self.len() > MAX_LEN).then_some("more than 4 096 bytes");
        broken.or_else(of_a_check).or_else(too_long)
    }
}

impl Check {
    fn problem(&self) -> Option<&'static str> {
        if !(1..=MAX_INTERVAL).contains(&self.interval)
            || !(1..=MAX_INTERVAL).contains(&self.timeout)
        {
            return Some("an interval or a timeout that is not 1 to 3 600 seconds");
        }
        if self.retries > MAX_RETRIES {
            return Some("more than 1 000 retries");
        }
        self.probe.problem()
    }
}

impl Probe {
    /// Returns the word for its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::Command { .. } => "command",
            Self::Unit { .. } => "unit",
            Self::Registry => "registry",
        }
    }

    fn problem(&self) -> Option<&'static str> {
        let text = |text: &str| !text.is_empty() && is_line(text);
        match self {
            Self::Http { url, status, contains } => {
                let fits = |part: &String| text(part) && part.len() <= MAX_CONTAINS;
                if !is_plain_url(url) {
                    return Some("a URL that is not `http` or `https`, or that holds a password");
                }
                if !(100..600).contains(status) {
                    return Some("a status that is not 100 to 599");
                }
                (!contains.as_ref().is_none_or(fits)).then_some("`contains` is not 1 to 256 bytes")
            }
            Self::Tcp { address } => {
                let port = address.rsplit_once(':').filter(|(host, _)| text(host));
                let port = port.and_then(|(_, port)| port.parse::<u16>().ok());
                port.is_none_or(|port| port == 0).then_some("an address that is not HOST:PORT")
            }
            Self::Command { argv } => {
                let lines = argv.iter().all(|argument| is_line(argument));
                let program = argv.first().is_some_and(|program| {
                    text(program) && !program.split('/').any(|part| part == "..")
                });
                (!(lines && program)).then_some("a command without a program, or with `..` in it")
            }
            Self::Unit { unit } => {
                let name = text(unit) && unit.contains('.') && !unit.contains('/');
                (!name).then_some("a unit that is not a unit's name")
            }
            Self::Registry => None,
        }
    }
}

/// Tells whether it can be asked for by anybody, and shown to anybody.
fn is_plain_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let printable = url.bytes().all(|byte| byte.is_ascii_graphic());
    !authority.is_empty() && !authority.contains('@') && printable && is_line(url)
}

/// A check as it is written: one flat object.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCheck {
    name: CheckName,
    kind: ProbeKind,
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    contains: Option<String>,
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    argv: Option<Vec<String>>,
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    interval: u32,
    timeout: u32,
    retries: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProbeKind {
    Http,
    Tcp,
    Command,
    Unit,
    Registry,
}

/// A check whose keys are not those of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("check `{0}` lacks a key of its kind, or has one of another")]
pub struct CheckError(CheckName);

impl TryFrom<WrittenCheck> for Check {
    type Error = CheckError;

    fn try_from(written: WrittenCheck) -> Result<Self, CheckError> {
        let WrittenCheck { name, kind, url, status, contains, address, argv, unit, .. } = written;
        let probe = match (kind, url, status, contains, address, argv, unit) {
            (ProbeKind::Http, Some(url), Some(status), contains, None, None, None) => {
                Probe::Http { url, status, contains }
            }
            (ProbeKind::Tcp, None, None, None, Some(address), None, None) => Probe::Tcp { address },
            (ProbeKind::Command, None, None, None, None, Some(argv), None) => {
                Probe::Command { argv }
            }
            (ProbeKind::Unit, None, None, None, None, None, Some(unit)) => Probe::Unit { unit },
            (ProbeKind::Registry, None, None, None, None, None, None) => Probe::Registry,
            _ => return Err(CheckError(name)),
        };
        let WrittenCheck { interval, timeout, retries, .. } = written;
        Ok(Self { name, probe, interval, timeout, retries })
    }
}

impl From<Check> for WrittenCheck {
    fn from(check: Check) -> Self {
        let Check { name, probe, interval, timeout, retries } = check;
        let kind = match probe {
            Probe::Http { .. } => ProbeKind::Http,
            Probe::Tcp { .. } => ProbeKind::Tcp,
            Probe::Command { .. } => ProbeKind::Command,
            Probe::Unit { .. } => ProbeKind::Unit,
            Probe::Registry => ProbeKind::Registry,
        };
        let mut written = Self {
            name,
            kind,
            url: None,
            status: None,
            contains: None,
            address: None,
            argv: None,
            unit: None,
            interval,
            timeout,
            retries,
        };
        match probe {
            Probe::Http { url, status, contains } => {
                (written.url, written.status, written.contains) =
                    (Some(url), Some(status), contains);
            }
            Probe::Tcp { address } => written.address = Some(address),
            Probe::Command { argv } => written.argv = Some(argv),
            Probe::Unit { unit } => written.unit = Some(unit),
            Probe::Registry => {}
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut serde_json::Value)) -> Option<&'static str> {
        let mut value = serde_json::json!({"deadline": 60, "soak": 0, "checks": [
            {"name": "web", "kind": "http", "url": "http://127.0.0.1/", "status": 200,
                "interval": 5, "timeout": 3, "retries": 3},
            {"name": "db", "kind": "tcp", "address": "[::1]:5432",
                "interval": 5, "timeout": 3, "retries": 0},
        ]});
        change(&mut value);
        let health: Health = serde_json::from_value(value).unwrap();
        health.problem()
    }

    #[test]
    fn says_which_rule_is_broken() {
        let check = |pointer: &str, value: serde_json::Value, expected: &str| {
            let change = |health: &mut serde_json::Value| {
                *health.pointer_mut(pointer).unwrap() = value.clone();
            };
            let told = problem(change).unwrap_or_default();
            assert!(told.contains(expected) && !expected.is_empty(), "{pointer} {value}: {told}");
        };
        assert_eq!(problem(|_| {}), None);
        check("/checks/1/name", "web".into(), "two checks");
        check("/deadline", 0.into(), "without a deadline");
        check("/deadline", 86_401.into(), "more than a day");
        check("/soak", 700_000.into(), "more than a week");
        check("/checks/0/interval", 0.into(), "interval");
        check("/checks/0/timeout", 3601.into(), "interval or a timeout");
        check("/checks/0/retries", 1001.into(), "retries");
        for url in ["ftp://x/", "http://", "http://me:secret@x/", "http://x/ y", "http:///x"] {
            check("/checks/0/url", url.into(), "a URL");
        }
        check("/checks/0/status", 600.into(), "status");
        for address in ["", "db", ":80", "db:", "db:0", "db:http", "db:65536"] {
            check("/checks/1/address", address.into(), "HOST:PORT");
        }
        let long = serde_json::json!({"name": "c", "kind": "command", "interval": 1, "timeout": 1,
            "retries": 1, "argv": ["bin/check", "x".repeat(1000), "y".repeat(1000)]});
        let three: Vec<_> = ["a", "b", "c"]
            .map(|name| {
                let mut check = long.clone();
                check["name"] = name.into();
                check
            })
            .into();
        check("/checks", three.into(), "4 096 bytes");
        let mut climbs = long;
        climbs["argv"] = serde_json::json!(["../bin/check"]);
        check("/checks", vec![climbs].into(), "`..`");
    }
}
