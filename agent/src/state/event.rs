//! What happens to a profile, and what is done about it.

use shared::nix::StorePath;

use super::{Attempt, Desired, Reason, Running, Wanted};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The documents were read again, whatever came of it.
    Desired(Desired),
    /// Time passed, or a pin changed: look again whether something can go on.
    Woke,
    /// The closure is whole, valid and rooted.
    Fetched(StorePath),
    /// It could not be fetched, or this host cannot switch to it as it is; the link was not moved.
    NotReady(StorePath, Reason),
    /// The driver holds the host's switch lock, and has read pin and link again.
    LockTaken(Ticket),
    /// The switch did all that it can do now; `None` if the target is nothing.
    Activated(Option<u64>),
    /// It needs a reboot to go on; also on the way back.
    NeedsReboot(u64),
    /// It failed; with the last lines of output.
    ActivationFailed(Reason, String),
    /// Each check of this attempt has passed once; the soak begins.
    Passed(String),
    /// All checks of this attempt passed for long enough; also when there are none.
    Healthy(String),
    /// They did not; with the last lines of output.
    Unhealthy(String, Reason, String),
    /// The checks of this generation, after it was confirmed: what is wrong now, or nothing.
    Looked(u64, Option<Reason>),
    /// The dead man woke: nobody confirmed this attempt in time. With the host as it is.
    Expired(String, Facts),
    /// The operator says: good enough, whatever the checks still wait for.
    Confirm,
    /// What this attempt led to is what the machine boots by default.
    Kept(String),
    /// The previous generation is active again; `None` if there was none.
    RolledBack,
    /// It is not; with the last lines of output.
    RollbackFailed(Reason, String),
    /// The operator says: try again.
    Retry,
    /// The operator says: back to this generation.
    RollBack(Running),
}

/// What the driver brings when it has the switch lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// A fresh id for the attempt.
    pub(crate) id: String,
    /// The host as it is, read under the lock.
    pub(crate) facts: Facts,
}

/// What the driver shall do; it writes the journal first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Substitute and root the closure; ends in `Fetched` or `NotReady`. Changes no profile.
    Fetch(Wanted),
    /// Take the host's switch lock, read pin and link again; leads to `LockTaken`, or
    /// to `NotReady` if the host lacks what the switch needs.
    TakeLock,
    /// Set the link and activate, under the lock; ends in `Activated`, `NeedsReboot` or
    /// `ActivationFailed`, or in `NotReady` if not even the link could be set. Idempotent.
    Switch(Attempt),
    /// Check health, without the lock; ends in `Healthy` or `Unhealthy`. Changes nothing.
    CheckHealth(Attempt),
    /// Make what is healthy what the machine boots by default, under the lock; ends in `Kept` or
    /// `ActivationFailed`. Idempotent.
    Keep(Attempt),
    /// Reboot, as soon as no other profile is in the middle of a switch; ends with this process.
    Reboot(Attempt),
    /// Set the link back and activate what ran before, under the lock; ends in `RolledBack`,
    /// `NeedsReboot` or `RollbackFailed`. Idempotent.
    RollBack(Attempt),
}

/// Where a profile's link leads, as found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// The number of the generation.
    pub(crate) generation: u64,
    /// The root.
    pub(crate) path: StorePath,
}

/// The host as it is, for [`recover()`](super::recover()).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The profile's link; `None` if there is none.
    pub(crate) link: Option<Link>,
    /// The current boot.
    pub(crate) boot_id: String,
    /// Whether the program of a switch goes on without us, or its end waits to be read.
    pub(crate) at_work: bool,
    /// The systems of the machine, if it is its operating system that the profile holds.
    pub(crate) systems: Option<Systems>,
}

/// The systems of a machine, which may be three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Systems {
    /// What is activated; generation 0 if it has none.
    pub(crate) running: Option<Link>,
    /// What was booted.
    pub(crate) booted: Option<StorePath>,
    /// What is booted next, if that is known.
    pub(crate) next: Option<StorePath>,
}

impl Facts {
    /// Returns what runs: where the link leads, unless the machine can tell better.
    pub(crate) fn running(&self) -> Option<&Link> {
        match &self.systems {
            Some(Systems { running: Some(running), .. })
                if self.link.as_ref().is_none_or(|link| link.path != running.path) =>
            {
                Some(running)
            }
            Some(_) | None => self.link.as_ref(),
        }
    }
}
