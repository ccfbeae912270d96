//! What goes over HTTP between a registry, its publishers and its hosts, as JSON.
//!
//! Errors are a [`Problem`] with the content type [`PROBLEM`]. Nothing
//! here is trusted: what must be believed is signed, and is an envelope within these messages.
//!
//! Below `/api/v1/realms/{realm}`:
//!
//! | request | answer |
//! |---|---|
//! | `PUT /roles/{role}`, multipart of [`Part`] | 201 [`PublishReceipt`]; 403, 412, 413, 422, 428 |
//! | `POST /enrol` [`EnrolRequest`] | 200 [`EnrolAnswer`]; 401, 403, 422 |
//! | `POST /reports`, an envelope with a member `certificate` | 200 [`ReportAnswer`]; 401 [`Challenge`], 403, 413, 422, 503 |
//! | `GET /hosts?group=&state=&label=&q=&sort=&limit=&cursor=` | [`Page`] of [`HostSummary`] |
//! | `GET /hosts/{name or id}` | [`HostDetail`]; 404 |
//! | `GET /hosts/{name or id}/attempts?target=&limit=&cursor=` | [`Page`] of [`HostAttempt`], the latest first |
//! | `GET /hosts/{name or id}/attempts/{id}` | [`HostAttempt`], with its whole log |
//! | `GET /hosts/{name or id}/generations` | [`Page`] of [`HostGeneration`] |
//! | `GET /counts?group=` | [`HostCounts`] |
//! | `GET /fleet` | [`Fleet`] |
//! | `GET /groups?q=&limit=&cursor=`, `GET /groups/{group}` | [`Page`] of [`GroupSummary`]; [`GroupDetail`] |
//! | `GET /groups/{group}/manifests`, `…/{profile}?limit=&cursor=` | [`Page`] of [`ManifestSummary`]: in force; each version |
//! | `GET /groups/{group}/manifests/{profile}/{version}?epoch=` | [`ManifestDetail`] |
//! | `GET /groups/{group}/diff?profile=&from=&to=&host=` | [`ManifestDiff`] |
//! | `GET /teams`, `GET /teams/{role}`, `GET /keys`, `GET /keys/{id}` | [`Page`] of [`Team`], of [`Key`]; one |
//! | `GET /caches`, `GET /coverage?group=&profile=` | [`Page`] of [`CacheUse`], of [`Coverage`] |
//! | `GET /events?types=&group=&after=` | [`StreamEvent`]s as server-sent events, or as JSON Lines |
//! | `GET /audit?limit=&cursor=` | [`Page`] of [`AuditEntry`], oldest first |
//! | `GET /groups/{group}/history?profile=&limit=&cursor=` | [`Page`] of [`Publication`], the latest first |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, GroupName, HostId, HostName, LabelName, LabelValue, TargetPath},
    problem::Problem,
    report::{ProfileReport, Reason, Report},
    state_word::StateWord,
    time::Time,
    trust::dsse::Envelope,
    version::{SoftwareVersion, VersionNumber},
};

mod resources;

pub use resources::*;

/// The content type of a [`Problem`].
pub const PROBLEM: &str = "application/problem+json";

/// The content type of metrics, as Prometheus asks for them.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The names of the parts of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The signed role; first, and once.
    Role,
    /// A file that the role references by its SHA-256: a manifest, a policy, a closure index.
    Blob,
    /// Hints for a closure index of this publication; their first line says which.
    Hints,
}

impl Part {
    /// Returns the name in the multipart body.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Blob => "blob",
            Self::Hints => "hints",
        }
    }

    /// Returns the part of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Role, Self::Blob, Self::Hints].into_iter().find(|part| part.name() == name)
    }
}

/// A publication that is committed, and served from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublishReceipt {
    /// The role.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// The version of the timestamp that first carries it.
    pub timestamp: u64,
}

/// A host that asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolRequest {
    /// What `registry host enroll-token` printed.
    pub token: String,
    /// A signed [`EnrolmentRequest`](crate::certificate::EnrolmentRequest), in its envelope.
    pub request: Envelope,
}

/// A host's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnrolAnswer {
    /// A signed [`Certificate`](crate::certificate::Certificate), in its envelope.
    pub certificate: Envelope,
}

/// A report that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReportAnswer {
    /// The counter that was stored.
    pub counter: u64,
}

/// The problem `challenge`: the next report must repeat the nonce, and then its counter counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Challenge {
    /// What is wrong with the counter.
    #[serde(flatten)]
    pub problem: Problem,
    /// What to repeat.
    pub nonce: String,
    /// The highest counter that the registry has seen of this host, if it has seen any: the next
    /// one is best above it, so that no report from before is taken for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// How to ask for more; none at the end of the list.
    pub next_cursor: Option<String>,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// How many hosts there are in each state; those revoked or made anew are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostCounts {
    /// All of them.
    pub hosts: u64,
    /// By state; one that no host is in may be missing.
    pub states: BTreeMap<StateWord, u64>,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// A host as the registry knows it from its last report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostSummary {
    /// Who it is.
    pub host: HostId,
    /// Its name.
    pub name: HostName,
    /// The groups that its certificate names.
    pub groups: Vec<GroupName>,
    /// Its labels.
    pub labels: BTreeMap<LabelName, LabelValue>,
    /// Its state: the word of highest precedence, `stale` when it has not reported for long.
    pub state: StateWord,
    /// Why; only `converged` needs none.
    pub reason: Option<Reason>,
    /// Since when.
    pub since: Option<Time>,
    /// The next command to type; only `converged` needs none.
    pub next: Option<String>,
    /// When its last report came, by the registry's clock.
    pub reported_at: Option<Time>,
    /// The version of its agent.
    pub agent: Option<SoftwareVersion>,
    /// Its profiles, as last reported.
    pub profiles: Vec<ProfileReport>,
}

/// All that the registry knows of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostDetail {
    /// In short.
    #[serde(flatten)]
    pub summary: HostSummary,
    /// When it was enrolled.
    pub enrolled_at: Time,
    /// When its certificate ends.
    pub not_after: Time,
    /// Its last report.
    pub report: Option<Report>,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// One version of one manifest or policy, as it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Publication {
    /// The target.
    pub target: TargetPath,
    /// The epoch; 0 for a policy.
    pub epoch: u32,
    /// The version.
    pub version: VersionNumber,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// The role that signed it.
    pub role: String,
    /// The version of the role that brought it.
    pub role_version: u64,
    /// The ids of the keys that signed the role.
    pub signers: Vec<String>,
    /// When it was committed, by the registry's clock.
    pub published_at: Time,
    /// What the publisher said of it.
    pub note: String,
}
