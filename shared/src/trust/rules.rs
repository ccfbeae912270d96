//! What is demanded of metadata beyond the TUF specification, as one value.

use jiff::SignedDuration;

use super::fence::FenceError;
use crate::json::JsonError;

/// The highest version of anything.
pub const MAX_VERSION: u64 = u32::MAX as u64;

/// The most keys, and the most patterns, that one role may delegate with: every key is a point to
/// compute and every two patterns are compared, before it is known who signed.
pub const MAX_DELEGATIONS: usize = 4096;

/// Which public keys count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRule {
    /// Ed25519 only, under the SHA-256 of its canonical object, without further members: so one
    /// key cannot count twice under two names.
    Ed25519ByHash,
    /// Any key that the core can verify, under whatever name the metadata declares.
    AsDeclared,
}

/// How strictly the form of files is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormRule {
    /// Exactly what our writer writes: times of whole seconds, versions of 32 bits, consistent
    /// snapshots, no control characters.
    Exact,
    /// Whatever TUF allows.
    AsInTuf,
}

/// Which names and patterns are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceRule {
    /// Those of [`fence`](super::fence): terminating delegations that cannot overlap.
    Fenced,
    /// Globs, hash prefixes, and delegations that do not terminate.
    AsInTuf,
}

/// Which roles have to be unexpired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryRule {
    /// All of them, as whoever acts on them demands.
    AllRoles,
    /// Those that a registry signs while it runs: for people who sign the others anew, which they
    /// must be able to do when one has expired.
    OnlineRoles,
}

/// What another content under a known version of the timestamp means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForkRule {
    /// Somebody signed two truths: refuse, and say so.
    Refused,
    /// Nothing new: keep ours, as TUF has it.
    Kept,
}

/// The largest file of each kind, in bytes; refused before parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// `<N>.root.json`.
    pub root: u64,
    /// `timestamp.json`.
    pub timestamp: u64,
    /// `<N>.snapshot.json`.
    pub snapshot: u64,
    /// `<N>.targets.json`.
    pub targets: u64,
    /// A delegated role.
    pub delegated: u64,
    /// A target: a manifest or a policy.
    pub target: u64,
}

/// How long a version may be used after a host first saw it, whatever it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// For the role `targets`.
    pub targets: SignedDuration,
    /// For `owners.<group>`.
    pub owners: SignedDuration,
    /// For teams and their parts.
    pub team: SignedDuration,
    /// For `snapshot`.
    pub snapshot: SignedDuration,
    /// For `timestamp`.
    pub timestamp: SignedDuration,
}

impl MaxAge {
    /// Returns the cap for a role; root has none.
    #[must_use]
    pub fn of(&self, role: &str) -> Option<SignedDuration> {
        match role {
            "root" => None,
            "targets" => Some(self.targets),
            "snapshot" => Some(self.snapshot),
            "timestamp" => Some(self.timestamp),
            name if name.starts_with("owners.") => Some(self.owners),
            _ => Some(self.team),
        }
    }
}

/// Everything that is demanded beyond TUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The realm that every file must name in `x-realm`.
    pub realm: Option<String>,
    /// Which public keys count.
    pub keys: KeyRule,
    /// How strictly the form of files is taken.
    pub form: FormRule,
    /// Which names and patterns are understood.
    pub fence: FenceRule,
    /// What another content under a known version means.
    pub fork: ForkRule,
    /// Which roles have to be unexpired.
    pub expiry: ExpiryRule,
    /// The largest files.
    pub sizes: Sizes,
    /// How long one version may be used.
    pub max_age: Option<MaxAge>,
    /// The most new roots in one refresh.
    pub max_roots: u64,
    /// The most roles visited in one lookup.
    pub max_visits: usize,
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const DAY: i64 = 24;

impl Rules {
    /// Returns the rules of Shoal for one realm.
    #[must_use]
    pub fn shoal(realm: &str) -> Self {
        let days = |count: i64| SignedDuration::from_hours(count * DAY);
        Self {
            realm: Some(realm.to_owned()),
            keys: KeyRule::Ed25519ByHash,
            form: FormRule::Exact,
            fence: FenceRule::Fenced,
            fork: ForkRule::Refused,
            expiry: ExpiryRule::AllRoles,
            sizes: Sizes {
                root: 64 * KIB,
                timestamp: 16 * KIB,
                snapshot: 512 * KIB,
                targets: MIB,
                delegated: 512 * KIB,
                target: 64 * KIB,
            },
            max_age: Some(MaxAge {
                targets: days(180),
                owners: days(400),
                team: days(400),
                snapshot: days(30),
                timestamp: days(7),
            }),
            max_roots: 256,
            max_visits: 32,
        }
    }

    /// Returns the most bytes that a role's file may have.
    #[must_use]
    pub fn max_len(&self, role: &str) -> u64 {
        match role {
            "root" => self.sizes.root,
            "timestamp" => self.sizes.timestamp,
            "snapshot" => self.sizes.snapshot,
            "targets" => self.sizes.targets,
            _ => self.sizes.delegated,
        }
    }

    /// Returns rules relaxed to what the public TUF client conformance suite writes.
    ///
    /// Only the hidden command `agent tuf-client` uses them.
    #[must_use]
    pub fn conformance() -> Self {
        Self {
            realm: None,
            keys: KeyRule::AsDeclared,
            form: FormRule::AsInTuf,
            fence: FenceRule::AsInTuf,
            fork: ForkRule::Kept,
            expiry: ExpiryRule::AllRoles,
            sizes: Sizes {
                root: 512 * KIB,
                timestamp: 16 * KIB,
                snapshot: 2 * MIB,
                targets: 5 * MIB,
                delegated: 5 * MIB,
                target: 64 * MIB,
            },
            max_age: None,
            max_roots: 256,
            max_visits: 32,
        }
    }
}

/// A rule that a file breaks.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// Larger than its kind may be.
    #[error("larger than {max} bytes")]
    TooLarge {
        /// The cap.
        max: u64,
    },
    /// Not acceptable as JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not the metadata of this role.
    #[error("not TUF metadata of this role")]
    Metadata(#[source] sigstore_tuf::Error),
    /// Something else than our writer writes.
    #[error("{0}")]
    Form(String),
    /// Of no realm, or another.
    #[error("of realm `{found}`, not `{expected}`")]
    Realm {
        /// The realm wanted.
        expected: String,
        /// The realm named.
        found: String,
    },
    /// A version outside 1..2^32-1.
    #[error("version {0} is out of range")]
    Version(u64),
    /// A public key that does not count.
    #[error("key `{id}` is refused: {why}")]
    Key {
        /// The key's declared id.
        id: String,
        /// Why.
        why: String,
    },
    /// A threshold that cannot be right.
    #[error("role `{role}` wants {threshold} of {keys} keys")]
    Threshold {
        /// The role.
        role: String,
        /// Its threshold.
        threshold: usize,
        /// How many keys it has.
        keys: usize,
    },
    /// A name, path or pattern outside the fence.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

impl Violation {
    /// Returns the stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Json(_) | Self::Metadata(_) | Self::Form(_) | Self::Version(_) => "malformed",
            Self::Realm { .. } => "wrong_realm",
            Self::Key { .. } => "bad_key",
            Self::Threshold { .. } => "bad_threshold",
            Self::Fence(_) => "fence",
        }
    }
}
