//! Why something could not be had, and how bad that is.

use shared::id::Digest;
use shared::problem::{Kind, Problem, chain};
use shared::shard::ShardError;
use shared::trust::{self, Verdict};
use store::disk;

use super::SourceError;
use crate::files::FileError;
use crate::state::{Code, Reason};
use crate::trust_store::TrustStoreError;

/// Why a poll, or one document of it, came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// A source gave no answer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What a source gave was not accepted.
    #[error("`{source_url}` has nothing that this host accepts")]
    Trust { source_url: String, source: trust::Error },
    /// A source is behind: it has the manifest, and not this host's shard of it.
    #[error("`{source_url}` has no shard `{pinned}`")]
    NoShard { source_url: String, pinned: Digest },
    /// What a source gave is not this host's shard.
    #[error("`{source_url}` has another shard than the manifest pins, or one of no use")]
    Shard { source_url: String, source: ShardError },
    /// The state on disk could not be read or written.
    #[error(transparent)]
    Store(#[from] TrustStoreError),
    /// A file of the agent's own could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// No source is configured.
    #[error("the configuration names no registry")]
    NoSource,
    /// No source has the root that the configuration pins by its digest.
    #[error("`{source_url}` has no root metadata with the digest that this host pins")]
    PinnedRoot { source_url: String },
}

impl Trouble {
    /// Returns the code by which a profile tells of it.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Trust { source, .. } => match source.verdict() {
                Verdict::Untrusted => Code::Untrusted,
                Verdict::Behind | Verdict::Expired => Code::NoFreshSource,
                Verdict::Absent => Code::NoManifest,
            },
            Self::Shard { source, .. } if source.is_unsupported() => Code::Unsupported,
            Self::PinnedRoot { .. } | Self::Shard { .. } => Code::Untrusted,
            Self::Source(_) | Self::NoSource | Self::NoShard { .. } => Code::NoFreshSource,
            Self::Store(_) | Self::File(_) if disk::is_full(self) => Code::DiskFull,
            Self::Store(_) | Self::File(_) => Code::StateFailed,
        }
    }

    /// Tells it as the reason of a profile.
    pub(crate) fn reason(&self) -> Reason {
        Reason::new(self.code(), chain(self))
    }

    /// Tells it as a problem of a command.
    pub(crate) fn problem(&self) -> Problem {
        let kind = match self {
            Self::Trust { source, .. } => match source.verdict() {
                Verdict::Untrusted | Verdict::Expired => Kind::Trust,
                Verdict::Behind => Kind::Unreachable,
                Verdict::Absent => Kind::Negative,
            },
            Self::PinnedRoot { .. } | Self::Shard { .. } => Kind::Trust,
            Self::Source(_) | Self::NoShard { .. } => Kind::Unreachable,
            Self::NoSource => Kind::Usage,
            Self::Store(_) | Self::File(_) => Kind::Runtime,
        };
        Problem::from_error(kind, &self.code().to_string(), self)
            .leaves("this host keeps what it runs")
            .next("agent status")
    }

    /// Returns whether another process changed what this one had begun with: to be tried again.
    pub(super) const fn is_overtaken(&self) -> bool {
        matches!(self, Self::Store(TrustStoreError::Overtaken(_)))
    }

    /// Orders troubles: what needs somebody's eye first is greatest.
    pub(super) fn severity(&self) -> u8 {
        match self {
            Self::Store(_) | Self::File(_) => 3,
            Self::Trust { source, .. } if source.verdict() == Verdict::Untrusted => 2,
            Self::PinnedRoot { .. } | Self::Shard { .. } => 2,
            Self::Trust { .. } | Self::NoShard { .. } => 1,
            Self::Source(_) | Self::NoSource => 0,
        }
    }
}
