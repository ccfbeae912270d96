//! The manifest: the desired state of one profile in one group.
//!
//! A manifest is a TUF target, so its exact bytes are signed; nothing ever re-serialises them.
//! `format` and `min_agent` are read first, so that a manifest from the future is refused as such
//! and not as a misspelling. After that every key must be known, and every key must be there.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    feature::Feature,
    health::{Check, Health, Probe},
    id::{
        Digest, GroupName, HostName, LabelName, LabelValue, ProfileName, RealmName, System,
        TargetPath,
    },
    json::{self, JsonError},
    nix::StorePath,
    shard::{Shard, Shards},
    version::{Header, HeaderError, SoftwareVersion, VersionNumber},
    window::{WindowError, Windows},
};

/// Longest manifest that is read, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Longest note, and longest key or value of the provenance, in bytes.
const MAX_TEXT: usize = 1024;

/// The desired state of one profile in one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The realm that it belongs to.
    pub realm: RealmName,
    /// The group.
    pub group: GroupName,
    /// The profile.
    pub profile: ProfileName,
    /// The epoch that the policy must name for this profile.
    pub epoch: u32,
    /// Rises with each manifest of an epoch.
    pub version: VersionNumber,
    /// The oldest agent that can read it.
    pub min_agent: SoftwareVersion,
    /// What the publisher says of it.
    pub note: String,
    /// Where it comes from, such as `git` and a commit.
    pub provenance: BTreeMap<String, String>,
    /// Tried in order; the first match wins.
    pub entries: Vec<Entry>,
    /// Where the entries are instead, when they are too many.
    #[serde(deserialize_with = "json::nullable")]
    pub shards: Option<Shards>,
    /// How the profile is activated.
    pub activation: Activation,
    /// When it counts as healthy.
    pub health: Health,
    /// Reserved for rollouts: only `null` is supported.
    #[serde(deserialize_with = "json::nullable")]
    pub rollout: Option<serde_json::Value>,
    /// Reserved for requirements: only `[]` is supported.
    pub requires: Vec<serde_json::Value>,
    /// When it may be fetched, switched to, rebooted for.
    pub windows: Windows,
    /// Ends the service; then there are no entries.
    #[serde(deserialize_with = "json::nullable")]
    pub retire: Option<Retire>,
}

/// What some hosts of the group are to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Which hosts.
    #[serde(rename = "match")]
    pub selector: Selector,
    /// The root of the closure.
    pub path: StorePath,
    /// The digest of the closure index.
    pub closure: Digest,
    /// Number of paths in the closure.
    pub paths: u64,
    /// Sum of their NAR sizes in bytes.
    pub nar_size: u64,
}

/// Which hosts an entry is for: all that is named must fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The host's Nix system.
    pub system: System,
    /// Names of hosts; none means any.
    pub hosts: Vec<HostName>,
    /// Labels that the host must have with these values.
    pub labels: BTreeMap<LabelName, LabelValue>,
}

/// What a host knows of itself when it looks for its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name.
    pub name: HostName,
    /// Its Nix system.
    pub system: System,
    /// Its labels.
    pub labels: BTreeMap<LabelName, LabelValue>,
}

/// How a profile is activated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// In which way.
    pub kind: ActivationKind,
    /// Seconds after which it has failed.
    pub timeout: u32,
}

/// A way to activate a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ActivationKind {
    /// `switch-to-configuration`.
    Nixos,
    /// The systemd units of the root.
    Systemd,
    /// `bin/activate` of the root.
    Exec,
    /// The profile link alone.
    None,
}

/// How a service ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retire {
    /// Stop it.
    Stop,
    /// Leave it running and look after it no more.
    Keep,
}

/// Why bytes are no manifest that this program can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too long, no JSON, an unknown or missing key, a value of another type.
    #[error("the manifest is not of its form")]
    Json(#[from] JsonError),
    /// Of another format, or for newer agents.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// For another realm, group or profile than where it was found.
    #[error("the manifest says it is `{realm}` `{found}`, but was found as `{expected}`")]
    Misplaced {
        /// The realm it says.
        realm: RealmName,
        /// The target it says.
        found: TargetPath,
        /// The realm and target it was found at.
        expected: String,
    },
    /// A window that could never open.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Values that contradict each other or a limit.
    #[error("the manifest says of `{field}`: {problem}")]
    Invalid {
        /// The key.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl ManifestError {
    /// Tells whether a newer program could read it: reason `unsupported`.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Header(HeaderError::Format { .. } | HeaderError::MinAgent { .. }))
    }
}

impl Manifest {
    /// Reads a manifest as an agent of this version.
    ///
    /// # Errors
    ///
    /// If it is too long, from the future, not of this form, or contradicts itself.
    pub fn parse(bytes: &[u8], ours: SoftwareVersion) -> Result<Self, ManifestError> {
        Header::read(bytes, MAX_LEN)?.check("manifest", FORMAT, ours)?;
        let manifest: Self = json::read(bytes, MAX_LEN)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks that the manifest says of itself what its place says.
    ///
    /// # Errors
    ///
    /// If it names another realm, group or profile: a replay from elsewhere.
    pub fn check_place(&self, realm: &RealmName, target: &TargetPath) -> Result<(), ManifestError> {
        if self.realm == *realm && self.target() == *target {
            return Ok(());
        }
        Err(ManifestError::Misplaced {
            realm: self.realm.clone(),
            found: self.target(),
            expected: format!("{realm} {target}"),
        })
    }

    /// Returns the target path that this manifest belongs at.
    #[must_use]
    pub fn target(&self) -> TargetPath {
        TargetPath::Manifest(self.group.clone(), self.profile.clone())
    }

    /// Takes in the entries of this host's shard, so that [`select`](Self::select) finds its own.
    pub fn take_shard(&mut self, shard: Shard) {
        self.entries = shard.entries;
    }

    /// Returns the first entry that is for this host, if one is.
    ///
    /// Where there are shards, the one of this host must have been taken in before.
    #[must_use]
    pub fn select(&self, host: &HostFacts) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.selector.matches(host))
    }

    /// Returns everything that a program must be able to do to follow this manifest, sorted.
    #[must_use]
    pub fn features(&self) -> Vec<Feature> {
        let mut features = vec![match self.activation.kind {
            ActivationKind::Nixos => Feature::ActivationNixos,
            ActivationKind::Systemd => Feature::ActivationSystemd,
            ActivationKind::Exec => Feature::ActivationExec,
            ActivationKind::None => Feature::ActivationNone,
        }];
        let asked = [
            (self.shards.is_some(), Feature::Shards),
            (!self.health.is_empty(), Feature::Health),
            (self.health.checks.iter().any(is_of_a_unit), Feature::HealthUnit),
            (self.rollout.is_some(), Feature::Rollout),
            (!self.requires.is_empty(), Feature::Requires),
            (!self.windows.is_empty(), Feature::Windows),
            (self.retire.is_some(), Feature::Retire),
        ];
        features.extend(asked.into_iter().filter(|(asked, _)| *asked).map(|(_, feature)| feature));
        features.sort_unstable();
        features
    }

    /// Returns what the manifest asks for beyond the supported features: reason `unsupported`.
    #[must_use]
    pub fn unsupported(&self, supported: &[Feature]) -> Vec<Feature> {
        let mut features = self.features();
        features.retain(|feature| !supported.contains(feature));
        features
    }

    /// Writes the manifest as compact JSON.
    ///
    /// # Errors
    ///
    /// If it contradicts itself or becomes too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes =
            serde_json::to_vec(self).map_err(|error| JsonError::Invalid(error.to_string()))?;
        if bytes.len() > MAX_LEN {
            return Err(JsonError::TooLong { max: MAX_LEN, actual: bytes.len() }.into());
        }
        Ok(bytes)
    }

    /// Checks what the types alone do not.
    fn check(&self) -> Result<(), ManifestError> {
        let provenance = self.provenance.iter().flat_map(|(key, value)| [key, value]);
        let texts_fit = std::iter::once(&self.note).chain(provenance).all(|text| is_line(text));
        let shards_fit = self.shards.as_ref().is_none_or(Shards::is_complete);
        let elsewhere = self.shards.is_some() || self.retire.is_some();
        let entries_fit = self.entries.iter().all(|entry| entry.problem().is_none());
        let rules = [
            (self.format == FORMAT, "format", "not 1"),
            (texts_fit, "note", "note or provenance has a control character or 1 024 bytes"),
            (shards_fit, "shards", "not 2^bits digests"),
            (self.shards.is_none() || self.retire.is_none(), "retire", "shards beside it"),
            (self.entries.is_empty() == elsewhere, "entries", ENTRIES_RULE),
            (entries_fit, "entries", EMPTY),
            (self.activation.timeout > 0, "activation", "no time"),
            (self.health.problem().is_none(), "health", self.health.problem().unwrap_or_default()),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, problem)) => Err(ManifestError::Invalid { field, problem }),
            None => Ok(self.windows.check()?),
        }
    }
}

const EMPTY: &str = "an empty closure";

const ENTRIES_RULE: &str = "needed, unless there are shards or it retires, and then not allowed";

impl Entry {
    /// Returns what is wrong with it, if anything is.
    pub(crate) const fn problem(&self) -> Option<&'static str> {
        if self.paths > 0 && self.nar_size > 0 { None } else { Some(EMPTY) }
    }
}

impl Selector {
    /// Tells whether a host is meant.
    #[must_use]
    pub fn matches(&self, host: &HostFacts) -> bool {
        let labelled = |(name, value)| host.labels.get(name) == Some(value);
        self.system == host.system
            && (self.hosts.is_empty() || self.hosts.contains(&host.name))
            && self.labels.iter().all(labelled)
    }
}

impl ActivationKind {
    /// Returns the word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nixos => "nixos",
            Self::Systemd => "systemd",
            Self::Exec => "exec",
            Self::None => "none",
        }
    }
}

impl fmt::Display for ActivationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl std::str::FromStr for ActivationKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Nixos, Self::Systemd, Self::Exec, Self::None]
            .into_iter()
            .find(|kind| kind.word() == word)
            .ok_or_else(|| "expected `nixos`, `systemd`, `exec` or `none`".to_owned())
    }
}

fn is_of_a_unit(check: &Check) -> bool {
    matches!(check.probe, Probe::Unit { .. })
}

/// Tells whether a text is short and has no control characters.
pub(crate) fn is_line(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

#[cfg(test)]
pub(crate) mod tests;
