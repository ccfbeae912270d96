//! What goes wrong with caches, and what to do about it.

use std::time::Duration;

use shared::{
    nix::{StorePath, narinfo::NarInfoError},
    problem::{Kind, Problem},
};

use super::{CacheInfoError, LocationError, NarUrlError, Verdict};
use crate::{disk, net::NetrcError};

/// What went wrong with a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Where the cache is said to be makes no sense.
    #[error("cannot use `{location}` as a binary cache")]
    Location {
        /// What was given.
        location: String,
        /// What is wrong with it.
        source: LocationError,
    },
    /// No answer, or none that ended well, after all tries.
    #[error("cannot get `{file}` from cache `{cache}`")]
    Unreachable {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A NAR that comes so slowly that it is not worth the wait.
    #[error(
        "cache `{cache}` sent {bytes} bytes of `{file}` in {} s: at least {rate} bytes a second \
         are wanted", .waited.as_secs()
    )]
    TooSlow {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// How many bytes came of late.
        bytes: u64,
        /// In how long a time.
        waited: Duration,
        /// The least, in bytes per second.
        rate: u64,
    },
    /// An answer that is neither success nor absence.
    #[error("cache `{cache}` answers `{file}` with status {status}")]
    Status {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// The status.
        status: u16,
        /// For how long the cache asks to be left alone, if it does.
        pause: Option<Duration>,
    },
    /// Others answered long before it.
    #[error("cache `{cache}` was not ready {} s after another one was", .grace.as_secs())]
    Late {
        /// The cache.
        cache: String,
        /// How long it was waited for.
        grace: Duration,
    },
    /// The password for it cannot be read.
    #[error("cannot use cache `{cache}` with its password")]
    Password {
        /// The cache.
        cache: String,
        /// What is wrong.
        source: NetrcError,
    },
    /// A file of the cache cannot be read.
    #[error("cannot read `{file}` of cache `{cache}`")]
    Read {
        /// The cache.
        cache: String,
        /// The file.
        file: String,
        /// What happened.
        source: std::io::Error,
    },
    /// More bytes than such a file may have.
    #[error("cache `{cache}` sends more than {limit} bytes as `{file}`")]
    TooLong {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// How many it may have.
        limit: usize,
    },
    /// Encoded for transport in a way that was not asked for.
    #[error("cache `{cache}` sends `{file}` with content encoding `{encoding}`")]
    Encoding {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// The encoding.
        encoding: String,
    },
    /// `nix-cache-info` is unusable.
    #[error("cache `{cache}` is not usable")]
    Info {
        /// The cache.
        cache: String,
        /// What is wrong with it.
        source: CacheInfoError,
    },
    /// The narinfo of a path cannot be understood.
    #[error("cache `{cache}` has a bad narinfo for `{path}`")]
    NarInfo {
        /// The cache.
        cache: String,
        /// The path asked for.
        path: StorePath,
        /// What is wrong with it.
        source: NarInfoError,
    },
    /// The narinfo of a path tells of another path.
    #[error("cache `{cache}` was asked for `{asked}` and tells of `{told}`")]
    OtherPath {
        /// The cache.
        cache: String,
        /// The path asked for.
        asked: StorePath,
        /// The path in the narinfo.
        told: StorePath,
    },
    /// The URL of a NAR leads out of the cache.
    #[error("cache `{cache}` names `{url}` as a NAR")]
    NarUrl {
        /// The cache.
        cache: String,
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: NarUrlError,
    },
}

impl CacheError {
    /// Returns whether the cache could not be reached, as opposed to having answered badly.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            // Whatever a status says, no bytes came that could be refused.
            Self::Unreachable { .. }
            | Self::TooSlow { .. }
            | Self::Late { .. }
            | Self::Status { .. } => true,
            // A file that is missing is no error, so this is the cache's own folder.
            Self::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Location { .. }
            | Self::Password { .. }
            | Self::TooLong { .. }
            | Self::Encoding { .. }
            | Self::Info { .. }
            | Self::NarInfo { .. }
            | Self::OtherPath { .. }
            | Self::NarUrl { .. } => false,
        }
    }

    /// Tells it in the form that both programs print.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let told = |kind, code| Problem::from_error(kind, code, self);
        if disk::lacks_files(self) {
            return told(Kind::Runtime, "open_files").fix(disk::MORE_FILES);
        }
        match self {
            Self::Password { source, .. } => {
                let problem = told(Kind::Usage, "cache_password");
                match source.fix() {
                    Some(command) => problem.fix(command),
                    None => problem,
                }
            }
            Self::Status { status: 401 | 403, .. } => told(Kind::Unreachable, "cache_denied")
                .fix("name a netrc file with the password for this cache (NETRC, or `netrc`)"),
            Self::Status { status: 407, .. } => told(Kind::Unreachable, "proxy_denied")
                .fix("put the user and password of the proxy into the address of the proxy"),
            Self::Unreachable { .. }
            | Self::TooSlow { .. }
            | Self::Late { .. }
            | Self::Status { .. } => told(Kind::Unreachable, "cache_unreachable"),
            Self::Read { .. } if self.is_unreachable() => {
                told(Kind::Unreachable, "cache_unreachable")
            }
            Self::Read { .. }
            | Self::Location { .. }
            | Self::TooLong { .. }
            | Self::Encoding { .. }
            | Self::Info { .. }
            | Self::NarInfo { .. }
            | Self::OtherPath { .. }
            | Self::NarUrl { .. } => told(Kind::Trust, "cache_refused"),
        }
    }

    /// Returns what it says of the cache.
    pub(crate) fn verdict(&self) -> Verdict {
        // This machine is to blame, not the cache.
        if disk::lacks_files(self) {
            return Verdict::Answered;
        }
        match self {
            Self::Status { status: 408 | 429 | 500.., pause, .. } => Verdict::Unreachable(*pause),
            Self::TooLong { .. }
            | Self::Encoding { .. }
            | Self::NarInfo { .. }
            | Self::OtherPath { .. }
            | Self::NarUrl { .. } => Verdict::Lied,
            Self::Unreachable { .. } | Self::TooSlow { .. } | Self::Late { .. } => {
                Verdict::Unreachable(None)
            }
            Self::Read { .. } if self.is_unreachable() => Verdict::Unreachable(None),
            // It serves something else, or not us.
            Self::Status { .. }
            | Self::Read { .. }
            | Self::Location { .. }
            | Self::Password { .. }
            | Self::Info { .. } => Verdict::Answered,
        }
    }
}
