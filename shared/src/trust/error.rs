//! Why trust ends.

use super::fence::FenceError;
use super::rules::Violation;
use super::threshold::ThresholdError;

/// What a failure says about the source of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Someone signed, or served, what no honest party would: alarm.
    Untrusted,
    /// An honest mirror that lags behind: try the next one.
    Behind,
    /// Validly signed, but too old to act on.
    Expired,
    /// All is well, and nobody published what was asked for.
    Absent,
}

/// Why metadata or a target was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file breaks the rules before any signature counts.
    #[error("`{file}` is refused")]
    Malformed {
        /// The file.
        file: String,
        /// The rule.
        #[source]
        source: Violation,
    },
    /// Too few valid signatures.
    #[error("`{file}` is not signed by those who may")]
    Signatures {
        /// The file.
        file: String,
        /// The count.
        #[source]
        source: ThresholdError,
    },
    /// A root that is not the next one.
    #[error("`{file}` holds root version {found}, not {expected}")]
    RootVersion {
        /// The file.
        file: String,
        /// The version that had to come.
        expected: u64,
        /// The version that came.
        found: u64,
    },
    /// More new roots than any honest history has.
    #[error("more than {max} new root versions")]
    TooManyRoots {
        /// The cap.
        max: u64,
    },
    /// Something pinned went back to an older version.
    #[error("`{file}` takes `{subject}` back from version {trusted} to {offered}")]
    Rollback {
        /// The file that says so.
        file: String,
        /// What it takes back.
        subject: String,
        /// The version known.
        trusted: u64,
        /// The version offered.
        offered: u64,
    },
    /// A snapshot forgot a role.
    #[error("`{file}` no longer lists `{subject}`")]
    Removed {
        /// The snapshot.
        file: String,
        /// The role's file.
        subject: String,
    },
    /// Two contents under one version.
    #[error("`{file}` differs from what was signed before as version {version}")]
    Fork {
        /// The file.
        file: String,
        /// The version.
        version: u64,
    },
    /// Not the bytes that the file above pins.
    #[error("`{file}` is not what is pinned: {what}")]
    Pin {
        /// The file.
        file: String,
        /// What differs.
        what: String,
    },
    /// Expired, by its own word or by the host's cap on age.
    #[error("`{role}` expired at {expires}")]
    Expired {
        /// The role.
        role: String,
        /// When.
        expires: jiff::Timestamp,
    },
    /// The source has less than we know exists.
    #[error("this source is behind: {what}")]
    Behind {
        /// What it lacks.
        what: String,
    },
    /// No role lists the target.
    #[error("no role lists `{path}`")]
    NotListed {
        /// The target path.
        path: String,
    },
    /// A path or role name that no fence allows.
    #[error("`{file}` is outside its fence")]
    Fence {
        /// The file or path.
        file: String,
        /// Why.
        #[source]
        source: FenceError,
    },
    /// The caller ended the work before all files were fed.
    #[error("not all files were fed")]
    Unfinished,
    /// The caller fed a file that was not asked for.
    #[error("`{fed}` was not asked for")]
    Unasked {
        /// What was fed.
        fed: String,
    },
    /// A refusal by the TUF core for a reason that has no name above.
    #[error("`{file}` is refused")]
    Core {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: sigstore_tuf::Error,
    },
}

impl Error {
    /// Returns what the failure says about the source.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Malformed { .. }
            | Self::Signatures { .. }
            | Self::RootVersion { .. }
            | Self::TooManyRoots { .. }
            | Self::Rollback { .. }
            | Self::Removed { .. }
            | Self::Fork { .. }
            | Self::Pin { .. }
            | Self::Fence { .. }
            | Self::Unfinished
            | Self::Unasked { .. }
            | Self::Core { .. } => Verdict::Untrusted,
            Self::Expired { .. } => Verdict::Expired,
            Self::Behind { .. } => Verdict::Behind,
            Self::NotListed { .. } => Verdict::Absent,
        }
    }

    /// Returns the stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed { source, .. } => source.code(),
            Self::Signatures { .. } => "bad_signature",
            Self::RootVersion { .. } => "root_version",
            Self::TooManyRoots { .. } => "too_many_roots",
            Self::Rollback { .. } | Self::Removed { .. } => "rollback",
            Self::Fork { .. } => "fork",
            Self::Pin { .. } => "pin_mismatch",
            Self::Expired { .. } => "expired",
            Self::Behind { .. } => "source_behind",
            Self::NotListed { .. } => "not_listed",
            Self::Fence { .. } => "fence",
            Self::Unfinished | Self::Unasked { .. } | Self::Core { .. } => "untrusted",
        }
    }
}
