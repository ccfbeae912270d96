//! The policy of a group: which profiles its hosts take, how, and from where.
//!
//! A policy is the TUF target `<group>/_policy`, signed by the group's owners. It can stop and
//! hold what a team publishes; it can never start anything.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    feature::Feature,
    id::{GroupName, ProfileName, RawKey, RealmName, TargetPath, UserName},
    json::{self, JsonError},
    manifest::{ActivationKind, is_line},
    nix::PublicKey,
    version::{Header, HeaderError, SoftwareVersion, VersionNumber},
    window::{WindowError, Windows},
};

/// Longest policy that is read, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// What a group's owners decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// [`FORMAT`].
    pub format: u32,
    /// The realm that it belongs to.
    pub realm: RealmName,
    /// The group.
    pub group: GroupName,
    /// Rises with each policy.
    pub version: VersionNumber,
    /// The oldest agent that can read it.
    pub min_agent: SoftwareVersion,
    /// The profiles that hosts of the group take.
    pub profiles: BTreeMap<ProfileName, ProfileRule>,
    /// Where closures may come from.
    pub caches: Vec<Cache>,
    /// Whose signatures let a path into the store.
    #[serde(with = "builder_keys")]
    pub builders: Vec<PublicKey>,
    /// Keys whose certificates make a host's reports count.
    pub enrolment: Vec<RawKey>,
    /// When hosts may fetch, switch, reboot.
    pub windows: Windows,
    /// Limits and defaults of rollouts.
    pub rollout: RolloutRule,
}

/// How hosts take one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProfileRule {
    /// Whether they take it.
    pub take: Take,
    /// Which ways to activate it are allowed.
    pub activations: Vec<ActivationKind>,
    /// Whether it acts as the host's owner.
    pub privileged: bool,
    /// The system user that its services run as.
    #[serde(default, deserialize_with = "json::present", skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// The epoch that its manifests must have.
    pub epoch: u32,
}

/// Whether hosts take a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Take {
    /// They follow its manifests.
    Yes,
    /// They stay where they are.
    Hold,
    /// They stop it, without its team.
    Stop,
}

/// A binary cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cache {
    /// Where it is.
    pub url: String,
    /// The lower, the sooner it is asked.
    pub priority: u32,
}

/// Limits and defaults of rollouts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRule {
    /// Largest share of hosts in one wave, in percent.
    pub max_wave_percent: u32,
    /// Shortest soak in seconds.
    pub min_soak: u32,
    /// Reserved for rollouts: only `null` is supported.
    #[serde(deserialize_with = "json::nullable")]
    pub default: Option<serde_json::Value>,
}

impl Default for RolloutRule {
    fn default() -> Self {
        Self { max_wave_percent: 100, min_soak: 0, default: None }
    }
}

/// Why bytes are no policy that this program can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too long, no JSON, an unknown or missing key, a value of another type.
    #[error("the policy is not of its form")]
    Json(#[from] JsonError),
    /// Of another format, or for newer agents.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// For another realm or group than where it was found.
    #[error("the policy says it is of `{realm}` `{group}`, but was found as `{expected}`")]
    Misplaced {
        /// The realm it says.
        realm: RealmName,
        /// The group it says.
        group: GroupName,
        /// The realm and target it was found at.
        expected: String,
    },
    /// A window that could never open.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// Values that contradict each other or a limit.
    #[error("the policy says of `{field}`: {problem}")]
    Invalid {
        /// The key.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl PolicyError {
    /// Tells whether a newer program could read it: reason `unsupported`.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Header(HeaderError::Format { .. } | HeaderError::MinAgent { .. }))
    }
}

impl Policy {
    /// Reads a policy as an agent of this version.
    ///
    /// # Errors
    ///
    /// If it is too long, from the future, not of this form, or contradicts itself.
    pub fn parse(bytes: &[u8], ours: SoftwareVersion) -> Result<Self, PolicyError> {
        Header::read(bytes, MAX_LEN)?.check("policy", FORMAT, ours)?;
        let policy: Self = json::read(bytes, MAX_LEN)?;
        policy.check()?;
        Ok(policy)
    }

    /// Checks that the policy says of itself what its place says.
    ///
    /// # Errors
    ///
    /// If it names another realm or group: a replay from elsewhere.
    pub fn check_place(&self, realm: &RealmName, target: &TargetPath) -> Result<(), PolicyError> {
        if self.realm == *realm && self.target() == *target {
            return Ok(());
        }
        Err(PolicyError::Misplaced {
            realm: self.realm.clone(),
            group: self.group.clone(),
            expected: format!("{realm} {target}"),
        })
    }

    /// Returns the target path that this policy belongs at.
    #[must_use]
    pub fn target(&self) -> TargetPath {
        TargetPath::Policy(self.group.clone())
    }

    /// Returns everything that a program must be able to do to follow this policy.
    #[must_use]
    pub fn features(&self) -> Vec<Feature> {
        let asked = [
            (self.rollout.default.is_some(), Feature::Rollout),
            (!self.windows.is_empty(), Feature::Windows),
        ];
        asked.into_iter().filter(|(asked, _)| *asked).map(|(_, feature)| feature).collect()
    }

    /// Returns what the policy asks for beyond the supported features: reason `unsupported`.
    #[must_use]
    pub fn unsupported(&self, supported: &[Feature]) -> Vec<Feature> {
        let mut features = self.features();
        features.retain(|feature| !supported.contains(feature));
        features
    }

    /// Writes the policy as compact JSON.
    ///
    /// # Errors
    ///
    /// If it contradicts itself or becomes too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PolicyError> {
        self.check()?;
        let bytes =
            serde_json::to_vec(self).map_err(|error| JsonError::Invalid(error.to_string()))?;
        if bytes.len() > MAX_LEN {
            return Err(JsonError::TooLong { max: MAX_LEN, actual: bytes.len() }.into());
        }
        Ok(bytes)
    }

    /// Checks what the types alone do not.
    fn check(&self) -> Result<(), PolicyError> {
        let urls: BTreeSet<&str> = self.caches.iter().map(|cache| cache.url.as_str()).collect();
        let keys: BTreeSet<&str> = self.builders.iter().map(PublicKey::name).collect();
        let mut users = BTreeSet::new();
        let mut named = self.profiles.values().filter_map(|rule| rule.user.as_ref());
        let privileged_user =
            self.profiles.values().any(|rule| rule.privileged && rule.user.is_some());
        let system = self.profiles.iter().find(|(name, _)| name.is_system());
        let rules = [
            (self.format == FORMAT, "format", "not 1"),
            (self.caches.iter().all(|cache| is_cache_url(&cache.url)), "caches", "no cache URL"),
            (urls.len() == self.caches.len(), "caches", "one cache twice"),
            (keys.len() == self.builders.len(), "builders", "one key name twice"),
            (named.all(|user| users.insert(user)), "profiles", "one user for two profiles"),
            (!users_contain_root(&users), "profiles", "`root` as a user; say `privileged`"),
            (!privileged_user, "profiles", "a user for a privileged profile"),
            (system.is_none_or(|(_, rule)| rule.privileged), "profiles", "unprivileged `system`"),
            ((1..=100).contains(&self.rollout.max_wave_percent), "rollout", "not 1 to 100 percent"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, problem)) => Err(PolicyError::Invalid { field, problem }),
            None => Ok(self.windows.check()?),
        }
    }
}

fn users_contain_root(users: &BTreeSet<&UserName>) -> bool {
    users.iter().any(|user| user.as_str() == "root")
}

fn is_cache_url(url: &str) -> bool {
    let scheme = ["https://", "http://", "file:///"].iter().any(|scheme| url.starts_with(scheme));
    scheme && is_line(url) && url.is_ascii() && !url.contains(' ')
}

/// Builder keys as Nix writes public keys: `name:base64`.
mod builder_keys {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::nix::PublicKey;

    pub(super) fn serialize<S: Serializer>(keys: &[PublicKey], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(keys.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<PublicKey>, D::Error> {
        let exact = |text: &String| {
            // Nix forgives white space around a key; one spelling is enough here.
            PublicKey::parse(text).ok().filter(|key| key.to_string() == *text)
        };
        let texts = Vec::<String>::deserialize(d)?;
        let keys = texts.iter().map(|text| {
            exact(text)
                .ok_or_else(|| serde::de::Error::custom("a builder key is not `name:base64`"))
        });
        keys.collect()
    }
}

#[cfg(test)]
mod tests;
