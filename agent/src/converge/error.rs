//! Why a profile could not be driven at all; nothing was changed then that the journal lacks.

use shared::problem::{Kind, Problem};
use store::profile::ProfileError;

use crate::activate::TransientError;
use crate::dead_man::DeadManError;
use crate::files::FileError;
use crate::host_lock::HostLockError;
use crate::journal::JournalError;
use crate::pins::PinsError;
use crate::stop;

/// Why a profile could not be driven.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvergeError {
    /// The host's lock.
    #[error(transparent)]
    Lock(#[from] HostLockError),
    /// The journal cannot be read or written, so nothing may be done.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The pins cannot be read or written, so nothing may be switched.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The profile's links.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// The dead man cannot watch.
    #[error(transparent)]
    DeadMan(#[from] DeadManError),
    /// Whether a program of another profile is at work is not known, so nothing may be switched.
    #[error("cannot tell whether a program of another profile is still at work")]
    Others(#[source] TransientError),
    /// The machine does not let us run programs.
    #[error("cannot prepare to run programs")]
    Prepare(#[source] std::io::Error),
    /// There is nothing to go back to.
    #[error("profile `{0}` has no generation before the current one")]
    NoOlderGeneration(shared::id::ProfileName),
    /// There is no such generation.
    #[error("profile `{profile}` has no generation {generation}")]
    NoGeneration {
        /// The profile.
        profile: shared::id::ProfileName,
        /// The generation.
        generation: u64,
    },
    /// The caller stopped it before everything was fetched.
    #[error("stopped by a signal")]
    Stopped,
    /// A thread of ours died.
    #[error("a worker thread died")]
    Worker(#[source] tokio::task::JoinError),
}

impl ConvergeError {
    /// Tells it in the form that both programs print.
    pub(crate) fn problem(&self) -> Problem {
        let (kind, code) = match self {
            Self::Stopped => return stop::interrupted(),
            Self::NoOlderGeneration(_) | Self::NoGeneration { .. } => {
                (Kind::Conflict, "no_generation")
            }
            Self::Journal(_) => (Kind::Runtime, "journal"),
            Self::Pins(_) => (Kind::Runtime, "pins"),
            Self::DeadMan(_) => (Kind::Runtime, "dead_man"),
            Self::Lock(_)
            | Self::Profile(_)
            | Self::File(_)
            | Self::Others(_)
            | Self::Prepare(_)
            | Self::Worker(_) => (Kind::Runtime, "host"),
        };
        Problem::from_error(kind, code, self)
            .leaves("what ran before still runs")
            .next("agent status")
    }
}
