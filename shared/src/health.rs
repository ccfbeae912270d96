//! Health: what must hold before a switch counts as done.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{id::CheckName, json, manifest::is_line};

/// Most checks of one manifest.
const MAX_CHECKS: usize = 64;

/// What [`Health::is_consistent`] asks for.
pub(crate) const RULE: &str = "a check that is named twice, never runs, or checks nothing";

/// When a profile counts as healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Seconds after the switch by which all checks must pass.
    pub deadline: u32,
    /// Seconds that they must go on passing.
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
    /// Failures in a row after which the check has failed.
    pub retries: u32,
}

/// What a check looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// An answer over HTTP.
    Http {
        /// What is asked for.
        url: String,
        /// The status that must come.
        status: u16,
    },
    /// A TCP connection.
    Tcp {
        /// Host and port.
        address: String,
    },
    /// A command that must end with 0.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
    },
    /// A systemd unit that must be active.
    Unit {
        /// Its name.
        unit: String,
    },
}

impl Health {
    pub(crate) fn is_consistent(&self) -> bool {
        let names: BTreeSet<&CheckName> = self.checks.iter().map(|check| &check.name).collect();
        names.len() == self.checks.len()
            && self.checks.len() <= MAX_CHECKS
            && self.checks.iter().all(Check::is_consistent)
    }
}

impl Check {
    fn is_consistent(&self) -> bool {
        let text = |text: &str| !text.is_empty() && is_line(text);
        let probe = match &self.probe {
            Probe::Http { url, status } => {
                let scheme = url.starts_with("http://") || url.starts_with("https://");
                text(url) && scheme && (100..600).contains(status)
            }
            Probe::Tcp { address } => text(address) && address.contains(':'),
            Probe::Command { argv } => {
                argv.first().is_some_and(|program| text(program))
                    && argv.iter().all(|argument| is_line(argument))
            }
            Probe::Unit { unit } => text(unit) && unit.contains('.') && !unit.contains('/'),
        };
        probe && self.interval > 0 && self.timeout > 0
    }
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
}

/// A check whose keys are not those of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("check `{0}` lacks a key of its kind, or has one of another")]
pub struct CheckError(CheckName);

impl TryFrom<WrittenCheck> for Check {
    type Error = CheckError;

    fn try_from(written: WrittenCheck) -> Result<Self, CheckError> {
        let WrittenCheck { name, kind, url, status, address, argv, unit, .. } = written;
        let probe = match (kind, url, status, address, argv, unit) {
            (ProbeKind::Http, Some(url), Some(status), None, None, None) => {
                Probe::Http { url, status }
            }
            (ProbeKind::Tcp, None, None, Some(address), None, None) => Probe::Tcp { address },
            (ProbeKind::Command, None, None, None, Some(argv), None) => Probe::Command { argv },
            (ProbeKind::Unit, None, None, None, None, Some(unit)) => Probe::Unit { unit },
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
        };
        let (url, status, address, argv, unit) = match probe {
            Probe::Http { url, status } => (Some(url), Some(status), None, None, None),
            Probe::Tcp { address } => (None, None, Some(address), None, None),
            Probe::Command { argv } => (None, None, None, Some(argv), None),
            Probe::Unit { unit } => (None, None, None, None, Some(unit)),
        };
        Self { name, kind, url, status, address, argv, unit, interval, timeout, retries }
    }
}
