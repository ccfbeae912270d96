//! The report: what a host says of itself, signed with the host's key. It grants nothing.
//!
//! Unknown keys are let through: the registry that reads a report may be older than the agent
//! that wrote it, and the signed bytes are kept as they came.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{
        Digest, GroupName, HostId, HostName, LabelName, LabelValue, ProfileName, RealmName, System,
    },
    json::{self, JsonError},
    nix::StorePath,
    state_word::StateWord,
    time::Time,
    version::{SoftwareVersion, VersionNumber},
};

/// The payload type of a report's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.shoal.report+json";

/// Longest report that is taken, envelope and certificate included, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// The highest counter: what every reader of JSON and every database can hold exactly.
pub const MAX_COUNTER: u64 = 1 << 53;

/// The codes of the refusals that hold for the same report whenever it is sent again; others may
/// be mended, by enrolling anew for instance.
pub const HOPELESS: [&str; 2] = ["other_host", "foreign_group"];

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The realm.
    pub realm: RealmName,
    /// Who it is, as in its certificate.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// Linux's id of this boot.
    pub boot_id: String,
    /// Rises with each report.
    pub counter: u64,
    /// What the registry last challenged it with.
    #[serde(deserialize_with = "json::nullable")]
    pub nonce: Option<String>,
    /// When it was written, by the host's clock.
    pub time: Time,
    /// The version of the agent.
    pub agent: SoftwareVersion,
    /// The host's Nix system.
    pub system: System,
    /// The host's labels.
    pub labels: BTreeMap<LabelName, LabelValue>,
    /// What the host knows of its clock.
    pub clock: Clock,
    /// Free space in bytes.
    pub free: Free,
    /// The systems of the machine, if it runs NixOS; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systems: Option<Systems>,
    /// The signed state that it acts on.
    pub trust: TrustState,
    /// Each profile that it follows.
    pub profiles: Vec<ProfileReport>,
}

/// What a host knows of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Clock {
    /// The kernel says that it is synchronised.
    Synchronized,
    /// The kernel says that it is not.
    Unsynchronized,
    /// It contradicts signed times.
    Suspect,
    /// Nobody could say.
    Unknown,
}

/// Free space in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Free {
    /// Where the store is.
    #[serde(deserialize_with = "json::nullable")]
    pub store: Option<u64>,
    /// Where the boot entries are.
    #[serde(deserialize_with = "json::nullable")]
    pub boot: Option<u64>,
}

/// The systems of a machine that runs NixOS, which may be three.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Systems {
    /// What is activated.
    #[serde(deserialize_with = "json::nullable")]
    pub running: Option<StorePath>,
    /// What was booted.
    #[serde(deserialize_with = "json::nullable")]
    pub booted: Option<StorePath>,
    /// What is booted next, as far as the boot loader tells: once, or by default.
    #[serde(deserialize_with = "json::nullable")]
    pub next_boot: Option<StorePath>,
}

/// The signed state that a host acts on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrustState {
    /// Version of the root.
    pub root: u32,
    /// Version of the timestamp, if there ever was one.
    #[serde(deserialize_with = "json::nullable")]
    pub timestamp: Option<u32>,
    /// Digest of the snapshot.
    #[serde(deserialize_with = "json::nullable")]
    pub snapshot: Option<Digest>,
    /// When the timestamp was signed.
    #[serde(deserialize_with = "json::nullable")]
    pub signed_at: Option<Time>,
}

/// What a host says of one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProfileReport {
    /// The group that it takes the profile from.
    pub group: GroupName,
    /// The profile.
    pub profile: ProfileName,
    /// Its state.
    pub state: StateWord,
    /// Since when.
    pub since: Time,
    /// Why; only `converged` needs none.
    #[serde(deserialize_with = "json::nullable")]
    pub reason: Option<Reason>,
    /// The next command to type; only `converged` needs none.
    #[serde(deserialize_with = "json::nullable")]
    pub next: Option<String>,
    /// What the accepted manifest wants.
    #[serde(deserialize_with = "json::nullable")]
    pub wanted: Option<Wanted>,
    /// What runs.
    #[serde(deserialize_with = "json::nullable")]
    pub running: Option<Running>,
    /// Since when all checks pass.
    #[serde(deserialize_with = "json::nullable")]
    pub healthy_since: Option<Time>,
    /// The last attempt to change it.
    #[serde(deserialize_with = "json::nullable")]
    pub attempt: Option<Attempt>,
}

/// Why a profile is in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reason {
    /// A stable word, such as `health_failed`.
    pub code: String,
    /// A sentence.
    pub text: String,
}

/// What a manifest wants of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Wanted {
    /// The manifest's epoch.
    pub epoch: u32,
    /// The manifest's version.
    pub version: VersionNumber,
    /// The root, if the manifest has an entry for this host.
    #[serde(deserialize_with = "json::nullable")]
    pub path: Option<StorePath>,
}

/// What runs on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Running {
    /// The epoch of the manifest that brought it, if one did.
    #[serde(deserialize_with = "json::nullable")]
    pub epoch: Option<u32>,
    /// The version of the manifest that brought it, if one did.
    #[serde(deserialize_with = "json::nullable")]
    pub version: Option<VersionNumber>,
    /// The root.
    pub path: StorePath,
    /// The generation of the profile.
    pub generation: u64,
}

/// An attempt to change a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// Names the attempt on this host.
    pub id: String,
    /// Each phase: its word, when it began, how many seconds it took.
    pub phases: Vec<(String, Time, u64)>,
    /// The end of its output.
    pub log: String,
}

/// Why bytes are no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Not of this form.
    #[error("the report is not of its form")]
    Json(#[from] JsonError),
    /// A format that this program does not know.
    #[error("the report has format {0}, this program reads format {FORMAT}")]
    Format(u32),
    /// A counter that has run away.
    #[error("the report has counter {0}, the highest is {MAX_COUNTER}")]
    Counter(u64),
    /// A state that leaves its reader helpless.
    #[error("`{group}/{profile}` is `{state}` without a reason or a next command")]
    Unexplained {
        /// The group.
        group: GroupName,
        /// The profile.
        profile: ProfileName,
        /// The state.
        state: StateWord,
    },
}

impl Report {
    /// Reads a report; its signature is not looked at.
    ///
    /// # Errors
    ///
    /// If it is too long or not of this form, or a state is not explained.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let report: Self = json::read(bytes, MAX_LEN)?;
        report.check()?;
        Ok(report)
    }

    /// Writes the report as compact JSON.
    ///
    /// # Errors
    ///
    /// If it is too long or a state is not explained.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReportError> {
        self.check()?;
        let bytes =
            serde_json::to_vec(self).map_err(|error| JsonError::Invalid(error.to_string()))?;
        if bytes.len() > MAX_LEN {
            return Err(JsonError::TooLong { max: MAX_LEN, actual: bytes.len() }.into());
        }
        Ok(bytes)
    }

    /// Returns the one word for the host: the state of highest precedence.
    #[must_use]
    pub fn state(&self) -> Option<StateWord> {
        StateWord::of_all(self.profiles.iter().map(|profile| profile.state))
    }

    fn check(&self) -> Result<(), ReportError> {
        if self.format != FORMAT {
            return Err(ReportError::Format(self.format));
        }
        if self.counter > MAX_COUNTER {
            return Err(ReportError::Counter(self.counter));
        }
        let helpless = self.profiles.iter().find(|profile| {
            profile.state != StateWord::Converged
                && (profile.reason.is_none() || profile.next.is_none())
        });
        match helpless {
            None => Ok(()),
            Some(ProfileReport { group, profile, state, .. }) => Err(ReportError::Unexplained {
                group: group.clone(),
                profile: profile.clone(),
                state: *state,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
