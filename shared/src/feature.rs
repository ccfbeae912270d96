//! What a manifest or policy can ask for, as data.
//!
//! A program that cannot do what is asked refuses the whole document with reason `unsupported`;
//! it never ignores a part of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that a manifest or policy can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Activation by `switch-to-configuration`.
    ActivationNixos,
    /// Activation of systemd units.
    ActivationSystemd,
    /// Activation by `bin/activate`.
    ActivationExec,
    /// No activation but the profile link.
    ActivationNone,
    /// Health checks.
    Health,
    /// Health checks of systemd units.
    HealthUnit,
    /// Requirements between profiles.
    Requires,
    /// The end of a service.
    Retire,
    /// Waves.
    Rollout,
    /// Entries in other files.
    Shards,
    /// Windows.
    Windows,
}

impl Feature {
    /// Returns what it is, for a sentence.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::ActivationNixos => "activation `nixos`",
            Self::ActivationSystemd => "activation `systemd`",
            Self::ActivationExec => "activation `exec`",
            Self::ActivationNone => "activation `none`",
            Self::Health => "health checks",
            Self::HealthUnit => "health checks of systemd units",
            Self::Requires => "`requires`",
            Self::Retire => "`retire`",
            Self::Rollout => "rollouts",
            Self::Shards => "shards",
            Self::Windows => "windows",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.describe())
    }
}
