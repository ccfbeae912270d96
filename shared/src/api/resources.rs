//! What is asked of a registry about a fleet. All of it is read only, and all of it is told as of a
//! time: what hosts said, and what the signed files in force say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{HostSummary, Publication};
use crate::{
    diff::Diff,
    id::{
        Digest, GroupName, HostName, LabelName, LabelValue, ProfileName, RawKey, RealmName, System,
    },
    nix::StorePath,
    policy::{Cache, ProfileRule, Take},
    report::{Reason, Running, Wanted},
    state_word::StateWord,
    time::Time,
    version::VersionNumber,
    window::Windows,
};

/// A fleet at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fleet {
    /// The realm.
    pub realm: RealmName,
    /// How many hosts there are.
    pub hosts: u64,
    /// How many are in each state; one that no host is in may be missing.
    pub states: BTreeMap<StateWord, u64>,
    /// The same for each group.
    pub groups: Vec<GroupCounts>,
    /// The hosts that need somebody's eye first, the worst state first; not all of them.
    pub needs_attention: Vec<HostSummary>,
    /// How fresh all of this is.
    pub freshness: Freshness,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// How many hosts of a group are in each state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupCounts {
    /// The group.
    pub group: GroupName,
    /// How many hosts there are.
    pub hosts: u64,
    /// How many are in each state; one that no host is in may be missing.
    pub states: BTreeMap<StateWord, u64>,
}

/// How fresh what the registry serves and knows is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Freshness {
    /// The version of the root.
    pub root: u64,
    /// The version of the snapshot.
    pub snapshot: u64,
    /// The version of the timestamp.
    pub timestamp: u64,
    /// When the timestamp was signed.
    pub signed_at: Time,
    /// When the timestamp expires: hosts stop changing then.
    pub expires: Time,
    /// When the host that has been silent for longest, and is not `stale` yet, was heard.
    pub oldest_report: Option<Time>,
    /// A timestamp beyond the registry's own that a host has told of: its files are of an old backup,
    /// or the host lies.
    pub seen_ahead: Option<u64>,
}

/// A group in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupSummary {
    /// Its name and its hosts.
    #[serde(flatten)]
    pub counts: GroupCounts,
    /// The version of its policy; none before its owners have published one.
    pub policy: Option<VersionNumber>,
    /// The profiles that have a manifest in force.
    pub profiles: Vec<ProfileName>,
}

/// All that is known of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupDetail {
    /// In short.
    #[serde(flatten)]
    pub summary: GroupSummary,
    /// What its owners decided.
    pub rules: Option<GroupRules>,
    /// The manifest in force of each profile, also of those that no policy names.
    pub manifests: Vec<ManifestSummary>,
    /// Who may sign for it.
    pub may_sign: Vec<Fence>,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// What a group's policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupRules {
    /// The policy, as a publication.
    pub policy: ManifestSummary,
    /// Which profiles its hosts take, and how.
    pub profiles: BTreeMap<ProfileName, ProfileRule>,
    /// From where.
    pub caches: Vec<Cache>,
    /// Whose signatures let a path into the store, as Nix writes public keys.
    pub builders: Vec<String>,
    /// Keys whose certificates make a host's reports count.
    pub enrolment: Vec<RawKey>,
    /// When its hosts may fetch, switch, reboot; intersects with what manifest and host say.
    pub windows: Windows,
}

/// Who may sign what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fence {
    /// The role.
    pub role: String,
    /// The paths that it may hold, as `group/profile` patterns.
    pub patterns: Vec<String>,
    /// How many of its keys must sign.
    pub threshold: usize,
}

/// A manifest or policy that was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ManifestSummary {
    /// What was published.
    #[serde(flatten)]
    pub publication: Publication,
    /// Whether it is in force: the latest that its role lists.
    pub in_force: bool,
    /// Whether the policy lets hosts take the profile; none where it does not name it.
    pub take: Option<Take>,
    /// Where the raw files are.
    pub files: Files,
}

/// Where the files are that prove a publication; paths on this server, and on every mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Files {
    /// The manifest or policy, byte for byte as it was signed for.
    pub target: String,
    /// The role that lists it, with its signatures.
    pub role: String,
}

/// One version of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ManifestDetail {
    /// In short.
    #[serde(flatten)]
    pub summary: ManifestSummary,
    /// Its content, if this registry can read it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub manifest: Option<serde_json::Value>,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// What differs between two versions of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ManifestDiff {
    /// The group.
    pub group: GroupName,
    /// The profile.
    pub profile: ProfileName,
    /// The version before; none before the first one.
    pub from: Option<ManifestVersion>,
    /// The version after.
    pub to: ManifestVersion,
    /// The host that this is for; none where it is for all.
    pub host: Option<HostName>,
    /// What changes, one for each kind of host.
    pub changes: Vec<EntryDiff>,
    /// How many kinds of hosts keep their root.
    pub same: u64,
    /// How many more changes there are than are told; `host` asks for one of them.
    pub more: u64,
    /// When this was so, by the registry's clock.
    pub as_of: Time,
}

/// Names one version of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ManifestVersion {
    /// The epoch.
    pub epoch: u32,
    /// The version.
    pub version: VersionNumber,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

/// What changes for the hosts of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EntryDiff {
    /// Their Nix system.
    pub system: System,
    /// Their names; all of that system and those labels where there are none.
    pub hosts: Vec<HostName>,
    /// Their labels.
    pub labels: BTreeMap<LabelName, LabelValue>,
    /// What they run before; none where the manifest was not for them.
    pub before: Option<Root>,
    /// What they run after; none where the manifest is for them no more, and they keep what they run.
    pub after: Option<Root>,
    /// The packages that change; none where too many closures would have to be read for it.
    pub diff: Option<Diff>,
}

/// What a manifest has hosts run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Root {
    /// The store path.
    pub path: StorePath,
    /// Its closure index.
    pub closure: Digest,
    /// How many paths that has.
    pub paths: u64,
    /// The bytes of their NARs.
    pub nar_size: u64,
}

/// An attempt of a host that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostAttempt {
    /// Names it on this host.
    pub id: String,
    /// The group that the profile is taken from.
    pub group: GroupName,
    /// The profile.
    pub profile: ProfileName,
    /// The state that it left the profile in.
    pub state: StateWord,
    /// Since when.
    pub since: Time,
    /// Why; only `converged` needs none.
    pub reason: Option<Reason>,
    /// The next command to type; only `converged` needs none.
    pub next: Option<String>,
    /// What was wanted.
    pub wanted: Option<Wanted>,
    /// What ran when it had ended.
    pub running: Option<Running>,
    /// Its phases, in order.
    pub phases: Vec<Phase>,
    /// The end of its output, as the host told it: any text at all.
    pub log: String,
    /// Whether more of that output can be had, by asking for this attempt alone.
    pub log_is_cut: bool,
    /// When the registry was told, by its own clock.
    pub told_at: Time,
}

/// A phase of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Phase {
    /// Its word.
    pub phase: String,
    /// When it began, by the host's clock.
    pub began: Time,
    /// How many seconds it took.
    pub seconds: u64,
}

/// A generation of a profile that a host told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostGeneration {
    /// The group that the profile is taken from.
    pub group: GroupName,
    /// The profile.
    pub profile: ProfileName,
    /// The generation, and what brought it.
    #[serde(flatten)]
    pub generation: Running,
    /// When the registry first heard of it, by its own clock.
    pub told_at: Time,
    /// Whether the host runs it, by its last report.
    pub is_running: bool,
}

/// A delegated role: a team, a sub-role of one, or the owners of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Team {
    /// What it may sign.
    #[serde(flatten)]
    pub fence: Fence,
    /// The role that delegates to it: `targets`, or a team.
    pub parent: String,
    /// The ids of its keys.
    pub keys: Vec<String>,
    /// The version of what it signed last; none before it has published anything.
    pub version: Option<u64>,
    /// The ids of the keys that signed that.
    pub signers: Vec<String>,
    /// When that expires: its hosts change nothing of it then.
    pub expires: Option<Time>,
    /// What of it is in force, by path.
    pub targets: BTreeMap<String, Digest>,
}

/// A public key, and what it may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Key {
    /// Its id, as TUF computes it.
    pub id: String,
    /// The raw Ed25519 public key.
    pub public: RawKey,
    /// For which roles it signs.
    pub roles: Vec<KeyRole>,
}

/// A role that a key signs for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyRole {
    /// What it may sign; a top-level role has no patterns.
    #[serde(flatten)]
    pub fence: Fence,
    /// When what the role signed last expires.
    pub expires: Option<Time>,
}

/// A binary cache that a policy names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CacheUse {
    /// Where it is.
    pub url: String,
    /// The groups whose hosts use it, with its priority there: the lower, the sooner it is asked.
    pub groups: BTreeMap<GroupName, u32>,
}

/// Where the paths of a root in force are, by what its publisher found.
///
/// The registry asks no cache itself. A path may have come to a cache, or have gone from it, since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Coverage {
    /// The group.
    pub group: GroupName,
    /// The profile.
    pub profile: ProfileName,
    /// The root.
    pub root: Root,
    /// How many of its paths were found in each cache.
    pub caches: Vec<CacheCoverage>,
    /// How many paths were found in none of them; all, where the publisher told nothing.
    pub missing: u64,
}

/// How much of a closure was found in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CacheCoverage {
    /// The cache.
    pub url: String,
    /// Whether the policy in force names it still.
    pub is_allowed: bool,
    /// How many of the paths it had.
    pub paths: u64,
    /// Bytes of their files, as the cache sends them.
    pub file_size: u64,
}

/// Something that happened: an entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Its number; numbers rise.
    pub number: u64,
    /// When.
    pub at: Time,
    /// What, in a word: `published`, `enrolled`, `revoked`, `token_made`, `read_token_made`,
    /// `read_token_revoked`, `restored`, `recovered`.
    pub what: String,
    /// On what: a role, a host, a token.
    pub subject: String,
    /// In a sentence.
    pub detail: String,
}

/// Something that changed, as it is told to whoever follows along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StreamEvent {
    /// Its number; numbers rise, and not every one is told.
    pub number: u64,
    /// What, in a word: `host.` and its state now, `host.enrolled`, `host.revoked`, `token.made`,
    /// `manifest.published`, `policy.published`, `role.published`, `registry.restored`,
    /// `registry.recovered`; `resync` when some were lost, and `heartbeat` when there are none.
    pub r#type: String,
    /// When.
    pub at: Time,
    /// The host whose state changed, without its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostSummary>,
    /// The manifest or policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// What was noted in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<AuditEntry>,
}
