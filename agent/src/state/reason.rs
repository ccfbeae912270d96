//! Why a profile is not converged: a stable code for programs, a sentence for people.

use serde::{Deserialize, Serialize};
use shared::human;
use shared::state_word::StateWord;

/// Longest text of a reason in bytes: the whole report must stay below 64 KiB.
const MAX_TEXT: usize = 1024;

/// Why a profile is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reason {
    /// The stable word for programs.
    pub(crate) code: Code,
    /// The sentence for people.
    pub(crate) text: String,
}

/// The stable words. Each stands for one thing to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// Signatures, fork, wrong realm.
    Untrusted,
    /// No source is fresh enough.
    NoFreshSource,
    /// The policy says `hold`.
    PolicyHold,
    /// The manifest's epoch is not the policy's.
    Epoch,
    /// No role that could publish it is delegated any more.
    Revoked,
    /// Somebody on the host holds it.
    Pinned,
    /// The journal has not been compared with the host yet.
    Starting,
    /// Nothing is published for this profile, which keeps what it runs.
    NoManifest,
    /// The policy does not list the profile, or this host does not allow it.
    NotAllowed,
    /// The policy says `stop`.
    PolicyStop,
    /// The team retired the profile.
    Retired,
    /// No entry matches this host.
    NotForThisHost,
    /// This agent cannot do what the manifest asks for.
    Unsupported,
    /// Two groups offer the profile.
    ProfileClaimedTwice,
    /// The manifest is older than one that was accepted.
    VersionWentBack,
    /// The closure index could not be had, or is not what the manifest says.
    ClosureIndex,
    /// A path is valid here with another hash.
    Conflict,
    /// No space, or less than what must stay free.
    DiskFull,
    /// Bytes from a cache were refused.
    RefusedBytes,
    /// The caches could not be reached, or have not all paths.
    FetchFailed,
    /// The store of this host failed.
    StoreFailed,
    /// The agent's own state could not be read or written.
    StateFailed,
    /// No window is open for what comes next.
    WindowClosed,
    /// The closure is there; the switch comes next.
    Ready,
    /// The fetch is under way.
    InProgress,
    /// `bin/activate` failed.
    ActivationFailed,
    /// `bin/activate` took too long.
    ActivationTimeout,
    /// `bin/deactivate` failed.
    DeactivationFailed,
    /// The user that the policy names cannot be used.
    UserRefused,
    /// The units of the root may not, or cannot, be installed.
    UnitsRefused,
    /// Health checks did not pass after a switch.
    HealthFailed,
    /// What runs was confirmed, and no longer passes its checks.
    Unhealthy,
    /// A reboot comes next.
    RebootNeeded,
    /// A newer version came before the reboot.
    Overtaken,
    /// Somebody else is switching this machine's system.
    SwitchBusy,
    /// The boot loader cannot boot a system once, and this host does not accept to go without.
    NoOneShot,
    /// The boot entry has gone.
    BootEntryGone,
    /// The switch was interrupted more than once.
    Interrupted,
    /// Nobody confirmed the switch in time.
    Unconfirmed,
    /// Nothing would undo the switch if this agent died in it.
    NoDeadMan,
    /// Going back failed as well.
    RollbackFailed,
    /// The journal could not be read.
    JournalCorrupt,
}

/// Whether waiting a little may mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// The next try may work: still `fetching`, in backoff.
    Transient,
    /// Something on this host, or in what was published, must change first: `waiting`.
    Lasting,
}

impl Reason {
    /// Makes a reason; text beyond the cap is cut, and none of it does anything to a terminal.
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Self {
        let mut text = human::plain(&text.into());
        if text.len() > MAX_TEXT {
            let end = (0..=MAX_TEXT).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
        }
        Self { code, text }
    }
}

impl Code {
    /// Returns the word that a profile has which changes nothing for this reason.
    pub(crate) const fn word(self) -> StateWord {
        match self {
            Self::Untrusted => StateWord::Untrusted,
            Self::NoFreshSource => StateWord::Stale,
            Self::Pinned => StateWord::Pinned,
            Self::PolicyHold | Self::Epoch | Self::Revoked => StateWord::Held,
            Self::RollbackFailed
            | Self::DeactivationFailed
            | Self::JournalCorrupt
            | Self::Unhealthy => StateWord::Failed,
            Self::ActivationFailed
            | Self::ActivationTimeout
            | Self::HealthFailed
            | Self::BootEntryGone
            | Self::Overtaken
            | Self::Interrupted
            | Self::Unconfirmed => StateWord::RolledBack,
            Self::RebootNeeded => StateWord::RebootPending,
            Self::FetchFailed | Self::ClosureIndex | Self::InProgress => StateWord::Fetching,
            Self::NoManifest | Self::NotForThisHost | Self::Retired | Self::PolicyStop => {
                StateWord::Converged
            }
            Self::Starting
            | Self::NotAllowed
            | Self::Unsupported
            | Self::ProfileClaimedTwice
            | Self::VersionWentBack
            | Self::Conflict
            | Self::DiskFull
            | Self::RefusedBytes
            | Self::StoreFailed
            | Self::StateFailed
            | Self::UserRefused
            | Self::UnitsRefused
            | Self::NoDeadMan
            | Self::SwitchBusy
            | Self::NoOneShot
            | Self::WindowClosed
            | Self::Ready => StateWord::Waiting,
        }
    }

    /// Returns whether a failed fetch with this code is worth a quick new try.
    pub(crate) const fn persistence(self) -> Persistence {
        match self.word() {
            StateWord::Fetching => Persistence::Transient,
            StateWord::Untrusted
            | StateWord::Failed
            | StateWord::RolledBack
            | StateWord::Stale
            | StateWord::Pinned
            | StateWord::Held
            | StateWord::RebootPending
            | StateWord::Confirming
            | StateWord::Switching
            | StateWord::Waiting
            | StateWord::Converged => Persistence::Lasting,
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The one spelling that reports and journals use.
        self.serialize(f)
    }
}
