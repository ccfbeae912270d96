//! What a profile on this host is doing, and what it does next: pure, total, without I/O.
//!
//! [`Profile`] is the whole truth about one profile and is what the journal holds. [`step()`] takes
//! it, an [`Event`] and the time, and answers with the next one and the [`Action`]s that lead on.
//! Whoever drives it writes the new value down before it carries out an action, and tells the
//! machine how the action ended. After a crash [`recover()`] compares the value with the host.
//!
//! No I/O, no clock and no `_` in a match: a new state or event must be thought of everywhere.

mod confirm;
mod event;
mod reason;
mod reboot;
mod recover;
mod step;
#[cfg(test)]
mod tests;
mod word;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::health::Health;
use shared::id::{Digest, GroupName, ProfileName, UserName};
use shared::nix::StorePath;
use shared::state_word::StateWord;
use shared::version::VersionNumber;
use shared::window::{Opening, Windows};

use crate::windows::Openings;

pub(crate) use self::confirm::Examination;
pub(crate) use self::event::{Action, Event, Facts, Link, Systems, Ticket};
pub(crate) use self::reason::{Code, Persistence, Reason};
pub(crate) use self::reboot::System;
pub(crate) use self::recover::recover;
pub(crate) use self::step::{closed, step};
pub(crate) use self::word::Explained;

/// How often an interrupted switch is taken up again before it is rolled back.
const MAX_STARTS: u32 = 2;

/// Confirmed generations that are remembered at most.
const MAX_CONFIRMED: usize = 32;

/// Phases that the record of one attempt holds at most.
const MAX_PHASES: usize = 24;

/// Epoch and version of a manifest: what only rises. Ordered by epoch first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EpochVersion {
    /// The owners raise it to recover from a stolen key.
    pub(crate) epoch: u32,
    /// The team raises it with each publish.
    pub(crate) version: VersionNumber,
}

/// How a profile is put to work, as far as this agent can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Activation {
    /// The profile link alone.
    None,
    /// `bin/activate` and `bin/deactivate` of the root.
    Exec {
        /// Seconds that each of them may take.
        timeout: u32,
        /// The user that the policy names.
        user: Option<UserName>,
        /// Whether the owners gave the profile root's rights.
        privileged: bool,
    },
    /// The systemd units of the root.
    Systemd {
        /// Seconds that all of them together may take to start.
        timeout: u32,
        /// The user that the policy names.
        user: Option<UserName>,
        /// Whether the owners gave the profile root's rights.
        privileged: bool,
    },
    /// The operating system of the machine, by its own `switch-to-configuration`.
    Nixos {
        /// Seconds that each of its runs may take.
        timeout: u32,
    },
}

/// When a profile counts as healthy, and as whom its commands find out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Checkup {
    /// The checks.
    pub(crate) health: Health,
    /// The user that the policy names.
    pub(crate) user: Option<UserName>,
    /// Whether the owners gave the profile root's rights.
    pub(crate) privileged: bool,
}

/// What a manifest wants of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Epoch and version of the manifest.
    pub(crate) version: EpochVersion,
    /// The root that shall run.
    pub(crate) path: StorePath,
    /// Digest of its closure index.
    pub(crate) closure: Digest,
    /// How it is put to work.
    pub(crate) activation: Activation,
    /// When it counts as healthy.
    #[serde(default)]
    pub(crate) checkup: Checkup,
}

/// What the profile link leads to; confirmed unless an attempt is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Running {
    /// Epoch and version of its manifest; unknown if somebody else made the generation.
    pub(crate) version: Option<EpochVersion>,
    /// The root.
    pub(crate) path: StorePath,
    /// The number of the generation.
    pub(crate) generation: u64,
    /// How it was put to work.
    pub(crate) activation: Activation,
    /// When it counts as healthy.
    #[serde(default)]
    pub(crate) checkup: Checkup,
    /// Whether nobody can say that it is at work: somebody else moved the link, or a step away
    /// from it, or back to it, failed half-way.
    pub(crate) unsure: bool,
}

/// What the signed documents and this host's configuration ask for, all taken together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Desired {
    /// Run this.
    Run {
        /// What to run.
        wanted: Wanted,
    },
    /// Stop the profile and remove it: `take = stop`, or retired with `stop`.
    Stop {
        /// The manifest that says so, if it was not the policy.
        version: Option<EpochVersion>,
        /// Who stops it.
        reason: Reason,
    },
    /// Nothing for this host, which keeps what it runs and is content.
    Keep {
        /// The manifest that says so.
        version: Option<EpochVersion>,
        /// Why there is nothing.
        reason: Reason,
    },
    /// Change nothing; the reason's code decides under which word.
    Freeze {
        /// Why.
        reason: Reason,
    },
}

/// What a switch leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Target {
    /// A new generation with what the manifest wants.
    Wanted {
        /// What it wants.
        wanted: Wanted,
    },
    /// An older generation, at the operator's word.
    Generation {
        /// The generation.
        running: Running,
    },
    /// Nothing: the profile is stopped and removed.
    Nothing,
}

/// One switch, from the moment it may change the host until it is confirmed or undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attempt {
    /// Names it in logs and reports.
    pub(crate) id: String,
    /// What ran before, and runs again if it fails.
    pub(crate) from: Option<Running>,
    /// Where it leads.
    pub(crate) target: Target,
    /// The boot in which it began.
    pub(crate) boot_id: String,
    /// How often it was begun: more than once after a crash.
    pub(crate) starts: u32,
    /// How often the machine has booted for it: to get there, and back.
    #[serde(default)]
    pub(crate) reboots: u32,
}

/// The machine's state; each holds what only it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum State {
    /// Has not yet compared the journal with the host.
    Starting,
    /// Rests.
    Steady {
        /// What keeps it from what is wanted.
        obstacle: Option<Obstacle>,
    },
    /// Substitutes the closure.
    Fetching {
        /// What is fetched.
        wanted: Wanted,
        /// How often it failed so far.
        failures: u32,
        /// The backoff, if it waits for the next try.
        pause: Option<Pause>,
    },
    /// Has all it needs and waits for the gates: pin, signed hold, the host's one switch lock.
    Staged {
        /// Where the switch will lead.
        target: Target,
    },
    /// Makes the generation and activates it.
    Switching {
        /// The switch.
        attempt: Attempt,
    },
    /// Activated as far as possible without a reboot, and waits for one.
    RebootPending {
        /// The switch.
        attempt: Attempt,
        /// The new generation.
        generation: u64,
    },
    /// Activated, and under health checks.
    Confirming {
        /// The switch.
        attempt: Attempt,
        /// The new generation.
        generation: u64,
        /// When the checks began.
        begun: Timestamp,
        /// When each of them had passed once.
        passed: Option<Timestamp>,
    },
    /// Activates again what ran before.
    RollingBack {
        /// The switch that failed.
        attempt: Attempt,
        /// Why it failed.
        reason: Reason,
        /// When what ran before was at work again; its own checks run since then.
        #[serde(default)]
        restored: Option<Timestamp>,
    },
    /// Changes nothing and says so loudly.
    Failed {
        /// What went wrong.
        reason: Reason,
        /// Only a manifest above this, or the operator, leads on; unknown after a lost journal.
        above: Option<EpochVersion>,
    },
}

/// Something that stands in the way of a fetch, and is not the caches' fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Obstacle {
    /// What could not be fetched.
    pub(crate) wanted: Wanted,
    /// Why not.
    pub(crate) reason: Reason,
    /// When it is tried again.
    pub(crate) until: Timestamp,
    /// How often it failed so far.
    pub(crate) failures: u32,
}

/// A backoff between two tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pause {
    /// When it ends.
    pub(crate) until: Timestamp,
    /// Why the last try failed.
    pub(crate) reason: Reason,
}

/// A version that failed here: not taken again until a newer one or `agent retry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    /// The version.
    pub(crate) version: EpochVersion,
    /// Why it failed.
    pub(crate) reason: Reason,
    /// When.
    pub(crate) at: Timestamp,
}

/// A hold that somebody put on the profile on this host; outranks everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    /// Why.
    pub(crate) reason: String,
    /// Since when.
    pub(crate) since: Timestamp,
    /// Until when; for ever if absent.
    pub(crate) until: Option<Timestamp>,
}

/// When the profile came into a state, for the report's `attempt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    /// The state's word.
    pub(crate) word: StateWord,
    /// When it began.
    pub(crate) at: Timestamp,
}

/// The last attempt, kept for the report after it has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The attempt's id; empty until the switch begins.
    pub(crate) id: String,
    /// What it went through, oldest first.
    pub(crate) phases: Vec<Phase>,
    /// The last lines that the activation wrote.
    pub(crate) log: String,
}

/// All that is known of one profile; the journal holds exactly this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The group whose manifest it follows; none for a profile that only a pin or a link names.
    pub(crate) group: Option<GroupName>,
    /// The profile's name.
    pub(crate) name: ProfileName,
    /// The machine's state.
    pub(crate) state: State,
    /// Since when the state's word is what it is.
    pub(crate) since: Timestamp,
    /// The last good generation; nothing before the first switch is confirmed.
    pub(crate) running: Option<Running>,
    /// Generations that were confirmed, newest last: what to put to work when going back.
    pub(crate) confirmed: Vec<Running>,
    /// Since when it is healthy.
    pub(crate) healthy_since: Option<Timestamp>,
    /// What is wrong with what runs, by its own checks, after it had been confirmed.
    #[serde(default)]
    pub(crate) unhealthy: Option<Reason>,
    /// What was asked for last.
    pub(crate) desired: Desired,
    /// What the newest accepted manifest wants, also while something else holds the profile.
    pub(crate) wanted: Option<Wanted>,
    /// The highest version ever accepted; nothing below is.
    pub(crate) floor: Option<EpochVersion>,
    /// The version that failed here.
    pub(crate) refused: Option<Refused>,
    /// The last attempt.
    pub(crate) record: Option<Record>,
    /// The windows of the manifest, the policy and the host, of which all must be open.
    #[serde(default)]
    pub(crate) windows: Vec<Windows>,
    /// The pin, as `pins.json` had it when last read.
    #[serde(skip)]
    pub(crate) pin: Option<Pin>,
    /// What the windows let, when last looked at.
    #[serde(skip)]
    pub(crate) open: Openings,
}

impl Profile {
    /// Returns a profile of which nothing is known yet; [`recover()`] comes next.
    pub(crate) fn new(group: Option<GroupName>, name: ProfileName, now: Timestamp) -> Self {
        Self {
            group,
            name,
            state: State::Starting,
            since: now,
            running: None,
            confirmed: Vec::new(),
            healthy_since: None,
            unhealthy: None,
            desired: Desired::Freeze {
                reason: Reason::new(Code::Starting, "nothing was read yet"),
            },
            wanted: None,
            floor: None,
            refused: None,
            record: None,
            windows: Vec::new(),
            pin: None,
            open: Openings::default(),
        }
    }

    /// Returns a profile whose journal was lost: it keeps what runs until the operator says
    /// `retry`, or a manifest comes that is newer than the first one seen from now on.
    pub(crate) fn lost(name: ProfileName, text: String, now: Timestamp) -> Self {
        let reason = Reason::new(Code::JournalCorrupt, text);
        Self { state: State::Failed { reason, above: None }, ..Self::new(None, name, now) }
    }

    /// Follows this group from now on; what was known of another group's versions is void.
    ///
    /// `floor` is the highest version of this group that the host ever accepted.
    pub(crate) fn join(&mut self, group: GroupName, floor: Option<EpochVersion>) {
        if self.group.as_ref().is_some_and(|known| *known != group) {
            self.floor = None;
            self.refused = None;
            self.wanted = None;
            for running in self.running.iter_mut().chain(&mut self.confirmed) {
                running.version = None;
            }
        }
        self.group = Some(group);
        self.floor = self.floor.max(floor);
    }

    /// Returns until when no window lets the staged switch begin, if that is so.
    pub(crate) fn closed_until(&self) -> Option<Option<Timestamp>> {
        match (&self.state, self.open.switch) {
            // The operator's own word waits for no window.
            (State::Staged { target: Target::Generation { .. } }, _) => None,
            (State::Staged { .. }, Opening::Closed { until }) => Some(until),
            (State::Staged { .. }, Opening::Open)
            | (
                State::Starting
                | State::Steady { .. }
                | State::Fetching { .. }
                | State::Switching { .. }
                | State::RebootPending { .. }
                | State::Confirming { .. }
                | State::RollingBack { .. }
                | State::Failed { .. },
                _,
            ) => None,
        }
    }

    /// Returns until when no window lets the machine reboot, if one is due and that is so.
    pub(crate) fn reboots_at(&self) -> Option<Option<Timestamp>> {
        match (&self.state, self.open.reboot) {
            (State::RebootPending { .. }, Opening::Closed { until }) => Some(until),
            (State::RebootPending { .. }, Opening::Open)
            | (
                State::Starting
                | State::Steady { .. }
                | State::Fetching { .. }
                | State::Staged { .. }
                | State::Switching { .. }
                | State::Confirming { .. }
                | State::RollingBack { .. }
                | State::Failed { .. },
                _,
            ) => None,
        }
    }

    /// Returns whether a pin holds the profile at this time.
    pub(crate) fn is_pinned(&self, now: Timestamp) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.holds(now))
    }

    /// Returns the root that a manifest wants and something else keeps the profile from, for now:
    /// what was fetched of it stays rooted.
    pub(crate) fn held_back(&self) -> Option<&StorePath> {
        let wanted = self.wanted.as_ref()?;
        let refused = self.refused.as_ref().is_some_and(|it| wanted.version <= it.version);
        let runs = self.running.as_ref().is_some_and(|running| running.path == wanted.path);
        (!refused && !runs).then_some(&wanted.path)
    }

    /// Returns when what it waits for is over, if that is known beforehand.
    fn pause(&self) -> Option<Timestamp> {
        match &self.state {
            State::Fetching { pause: Some(pause), .. } => Some(pause.until),
            State::Steady { obstacle: Some(obstacle) } => Some(obstacle.until),
            State::Staged { .. } => self.closed_until().flatten(),
            State::RebootPending { .. } => self.reboots_at().flatten(),
            State::Starting
            | State::Steady { obstacle: None }
            | State::Fetching { pause: None, .. }
            | State::Switching { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => None,
        }
    }

    /// Returns when the next [`Event::Woke`] is due, if one is.
    pub(crate) fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let pause = self.pause();
        let unpin = self.pin.as_ref().filter(|pin| pin.holds(now)).and_then(|pin| pin.until);
        [pause, unpin].into_iter().flatten().min()
    }
}

impl Pin {
    /// Returns whether it holds at this time.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Running {
    /// Returns whether this is what the manifest wants, whatever its version.
    ///
    /// A root that did not change needs no switch, unless it is put to work in another way.
    pub(crate) fn satisfies(&self, wanted: &Wanted) -> bool {
        let same_way = match (&self.activation, &wanted.activation) {
            (Activation::None, Activation::None)
            | (Activation::Nixos { .. }, Activation::Nixos { .. }) => true,
            (
                Activation::Exec { user, privileged, timeout: _ },
                Activation::Exec { user: other_user, privileged: other, timeout: _ },
            )
            | (
                Activation::Systemd { user, privileged, timeout: _ },
                Activation::Systemd { user: other_user, privileged: other, timeout: _ },
            ) => user == other_user && privileged == other,
            (
                Activation::None,
                Activation::Exec { .. } | Activation::Systemd { .. } | Activation::Nixos { .. },
            )
            | (
                Activation::Exec { .. },
                Activation::None | Activation::Systemd { .. } | Activation::Nixos { .. },
            )
            | (
                Activation::Systemd { .. },
                Activation::None | Activation::Exec { .. } | Activation::Nixos { .. },
            )
            | (
                Activation::Nixos { .. },
                Activation::None | Activation::Exec { .. } | Activation::Systemd { .. },
            ) => false,
        };
        self.path == wanted.path && same_way && !self.unsure
    }
}
