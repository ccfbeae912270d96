//! What goes wrong in a substitution, and whose fault it is.

use std::{error::Error, fmt::Write as _, path::PathBuf};

use shared::{
    closure::ClosureError,
    nix::{Sha256, StorePath, TrustedKeys, path_info::Untrusted},
    problem::{Kind, Problem},
};

use crate::{
    cache::{CacheError, Verdict},
    disk,
    local::{ImportError, LocalStoreError},
    space::{Lack, Space},
};

/// Why closures could not be made valid.
#[derive(Debug, thiserror::Error)]
pub enum SubstituteError {
    /// A path is valid with another hash.
    #[error("`{path}` is valid with NAR hash {valid}, but {wanted} is wanted")]
    Conflict {
        /// The path.
        path: StorePath,
        /// The hash in the store.
        valid: Sha256,
        /// The hash in the closure.
        wanted: Sha256,
    },
    /// Two closures pin one path to different contents.
    #[error("two closures want different contents of `{0}`")]
    Disagreement(StorePath),
    /// Paths refer to each other in a circle.
    #[error("`{0}` refers to itself through other paths")]
    Cycle(StorePath),
    /// The paths that caches tell of are no closure.
    #[error("what the caches tell of `{root}` is no closure")]
    Closure {
        /// The root.
        root: StorePath,
        /// What is wrong with it.
        source: ClosureError,
    },
    /// Not enough space, seen before anything was fetched.
    #[error("the closure does not fit on the file system of `{}`", .folder.display())]
    NoSpace {
        /// A folder on that file system.
        folder: PathBuf,
        /// What is missing there.
        #[source]
        lack: Lack,
    },
    /// The file system of the store cannot be asked for its free space.
    #[error("cannot see how much space is free for the store")]
    FreeSpace(#[source] std::io::Error),
    /// No cache delivers a path.
    #[error("no cache delivers `{path}`")]
    Path {
        /// The path.
        path: StorePath,
        /// What happened with each cache.
        faults: Vec<Fault>,
    },
    /// A path arrived, but could not be written here.
    #[error("cannot take `{path}` into the store")]
    Import {
        /// The path.
        path: StorePath,
        /// What happened.
        source: Box<ImportError>,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
    /// A thread of ours died.
    #[error("a worker thread died")]
    Worker(#[source] tokio::task::JoinError),
    /// A thread that unpacks has panicked.
    #[error("a thread that unpacks a path has panicked")]
    Panicked,
    /// Another path failed first.
    #[error("given up because another path failed")]
    GivenUp,
    /// The caller stopped it.
    #[error("stopped before everything was there")]
    Stopped,
}

/// What to do about it, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A path is valid here with other contents: somebody must decide.
    Conflict,
    /// The disk is too full.
    DiskFull,
    /// The bytes that were delivered are not those that were wanted.
    RefusedBytes,
    /// The caches could not be reached, or do not have everything: try again later.
    FetchFailed,
    /// The local store failed.
    StoreFailed,
}

impl SubstituteError {
    /// Returns what to do about it.
    #[must_use]
    pub fn cause(&self) -> Cause {
        match self {
            Self::Conflict { .. } => Cause::Conflict,
            Self::Disagreement(_) | Self::Cycle(_) | Self::Closure { .. } => Cause::RefusedBytes,
            Self::NoSpace { .. } => Cause::DiskFull,
            Self::Path { .. } if self.lacks_files() => Cause::StoreFailed,
            Self::Path { faults, .. } => {
                let unreachable = faults.iter().any(|fault| fault.cause.is_unreachable());
                let refused = faults.iter().any(|fault| fault.cause.is_lie());
                if refused && !unreachable { Cause::RefusedBytes } else { Cause::FetchFailed }
            }
            Self::Store(LocalStoreError::Conflict { .. }) => Cause::Conflict,
            Self::Store(LocalStoreError::Cycle(_)) => Cause::RefusedBytes,
            Self::GivenUp | Self::Stopped => Cause::FetchFailed,
            Self::FreeSpace(_)
            | Self::Import { .. }
            | Self::Store(_)
            | Self::Worker(_)
            | Self::Panicked => {
                if disk::is_full(self) {
                    Cause::DiskFull
                } else {
                    Cause::StoreFailed
                }
            }
        }
    }

    /// Returns whether something is gone that was valid when it was planned.
    pub(super) const fn is_bereft(&self) -> bool {
        use LocalStoreError::{MissingReference, NotLocked};
        matches!(self, Self::Store(MissingReference { .. } | NotLocked(_)))
    }

    /// Returns what has to be freed so that it goes on, if the disk is too full and that is known.
    #[must_use]
    pub fn missing(&self) -> Option<Space> {
        let mut next = Some(self as &(dyn Error + 'static));
        while let Some(error) = next {
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            let lack = inner.and_then(|inner| inner.downcast_ref()).or(error.downcast_ref());
            if let Some(lack) = lack {
                return Some(Lack::missing(lack));
            }
            next = error.source();
        }
        None
    }

    /// Returns whether it is for want of descriptors: no fault of any cache.
    fn lacks_files(&self) -> bool {
        let faults = if let Self::Path { faults, .. } = self { faults.as_slice() } else { &[] };
        faults.iter().any(|fault| disk::lacks_files(&fault.cause)) || disk::lacks_files(self)
    }

    /// Tells it in the form that both programs print.
    #[must_use]
    pub fn problem(&self) -> Problem {
        if let Self::Store(error) = self {
            return error.problem();
        }
        if matches!(self, Self::Stopped) {
            return Problem::from_error(Kind::Interrupted, "interrupted", self)
                .leaves("what is valid is whole, and the next run goes on from there");
        }
        let (kind, code) = match self.cause() {
            Cause::Conflict => (Kind::Conflict, "conflict"),
            Cause::DiskFull => (Kind::Runtime, "disk_full"),
            Cause::RefusedBytes => (Kind::Trust, "refused_bytes"),
            Cause::FetchFailed => (Kind::Unreachable, "fetch_failed"),
            Cause::StoreFailed => (Kind::Runtime, "store_failed"),
        };
        let mut problem = Problem::from_error(kind, code, self);
        if let Self::Path { faults, .. } = self {
            problem.causes.extend(faults.iter().map(Fault::line));
            if faults.is_empty() {
                problem = problem.because("there is no cache to ask");
            }
        }
        let untrusted = |fault: &Fault| matches!(fault.cause, FaultCause::Untrusted(_));
        if matches!(self, Self::Path { faults, .. } if faults.iter().any(untrusted)) {
            problem = problem.fix("trust the key of whoever built it, or sign it with one you do");
        }
        if matches!(self, Self::Path { faults, .. } if faults.iter().any(Fault::is_too_slow)) {
            problem = problem.fix(
                "ask a cache that is nearer, or be content with less: `--min-rate`, or `min_rate` \
                 in [store]",
            );
        }
        if self.cause() == Cause::DiskFull {
            problem = problem.fix("make room there; `agent gc` deletes what nothing needs");
            problem = problem.next("agent gc");
        } else if self.lacks_files() {
            problem = problem.fix(disk::MORE_FILES);
        }
        problem.leaves("what is valid is whole; all else was removed")
    }
}

/// Returns what the cache did that broke an archive off.
fn interruption(error: &ImportError) -> Option<&CacheError> {
    let ImportError::Source { source, .. } = error else { return None };
    source.get_ref()?.downcast_ref()
}

/// A cache that failed or lied about a path.
#[derive(Debug, thiserror::Error)]
#[error("cache `{cache}` did not deliver `{path}`")]
pub struct Fault {
    /// The cache.
    pub cache: String,
    /// The path.
    pub path: StorePath,
    /// What happened.
    #[source]
    pub cause: FaultCause,
}

impl Fault {
    /// Returns whether the cache was there, and far too slow.
    fn is_too_slow(&self) -> bool {
        self.cause.cache_error().is_some_and(|error| matches!(error, CacheError::TooSlow { .. }))
    }

    /// Tells the fault with all its causes in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("{}: {}", self.cache, self.cause);
        let mut source = self.cause.source();
        while let Some(cause) = source {
            // Writing to a string cannot fail.
            let _written = write!(line, ": {cause}");
            source = cause.source();
        }
        line
    }
}

/// What a cache did instead of delivering.
#[derive(Debug, thiserror::Error)]
pub enum FaultCause {
    /// It does not have the path.
    #[error("it does not have the path")]
    Absent,
    /// It has a narinfo, but not the NAR.
    #[error("it has a narinfo, but no `{url}`")]
    NarAbsent {
        /// The NAR.
        url: String,
    },
    /// It could not be reached, or answered nonsense.
    #[error(transparent)]
    Cache(CacheError),
    /// Its narinfo is not what the closure pins.
    #[error("it has {told} as {field}, but the closure wants {wanted}")]
    Differs {
        /// The field.
        field: &'static str,
        /// What the cache says.
        told: String,
        /// What the closure says.
        wanted: String,
        /// Whether somebody we trust vouches for what the cache has: then it is another build of
        /// the same path, and no lie.
        vouched: bool,
    },
    /// Nobody whom we trust vouches for what it has.
    #[error(transparent)]
    Untrusted(Untrusted),
    /// What it has is signed in the name of a key that we trust, but not by that key.
    #[error("it has a signature that the trusted key of that name did not make")]
    Forged(#[source] Untrusted),
    /// The archive broke off on its way.
    #[error("its archive broke off")]
    Interrupted(#[source] Box<ImportError>),
    /// The archive is not what it should be.
    #[error("its archive is refused")]
    Refused(#[source] Box<ImportError>),
}

impl FaultCause {
    /// Tells apart what strangers signed and what somebody signed in the name of a trusted key.
    pub(super) fn untrusted(why: Untrusted, trusted: &TrustedKeys) -> Self {
        let is_forged = match &why {
            Untrusted::UnknownSigners { signers, .. } => {
                trusted.names().any(|name| signers.contains(&format!("`{name}`")))
            }
            Untrusted::ContentAddress { .. }
            | Untrusted::Impossible { .. }
            | Untrusted::Unsigned { .. } => false,
        };
        if is_forged { Self::Forged(why) } else { Self::Untrusted(why) }
    }

    /// Returns what the cache did, if it is that at all.
    pub(super) fn cache_error(&self) -> Option<&CacheError> {
        match self {
            Self::Cache(error) => Some(error),
            Self::Interrupted(error) => interruption(error),
            Self::Absent
            | Self::NarAbsent { .. }
            | Self::Differs { .. }
            | Self::Untrusted(_)
            | Self::Forged(_)
            | Self::Refused(_) => None,
        }
    }

    /// Returns whether the cache could not be reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Cache(error) => error.is_unreachable(),
            Self::Interrupted(_) => true,
            Self::Absent
            | Self::NarAbsent { .. }
            | Self::Differs { .. }
            | Self::Untrusted(_)
            | Self::Forged(_)
            | Self::Refused(_) => false,
        }
    }

    /// Returns whether the cache delivered something that had to be refused.
    #[must_use]
    pub fn is_lie(&self) -> bool {
        match self {
            Self::Cache(error) => !error.is_unreachable(),
            Self::Differs { .. } | Self::Untrusted(_) | Self::Forged(_) | Self::Refused(_) => true,
            Self::Absent | Self::NarAbsent { .. } | Self::Interrupted(_) => false,
        }
    }

    /// Returns what it says of the cache.
    pub(crate) fn verdict(&self) -> Verdict {
        match self {
            Self::Cache(error) => error.verdict(),
            Self::Interrupted(error) => {
                interruption(error).map_or(Verdict::Unreachable(None), CacheError::verdict)
            }
            Self::Differs { vouched: false, .. }
            | Self::Untrusted(Untrusted::ContentAddress { .. } | Untrusted::Impossible { .. })
            | Self::Forged(_)
            | Self::Refused(_) => Verdict::Lied,
            // What others built and signed is no lie.
            Self::Absent
            | Self::NarAbsent { .. }
            | Self::Differs { vouched: true, .. }
            | Self::Untrusted(_) => Verdict::Answered,
        }
    }

    /// Returns whether the cache is to blame, rather than merely without the path.
    #[must_use]
    pub const fn is_blame(&self) -> bool {
        !matches!(self, Self::Absent)
    }
}
