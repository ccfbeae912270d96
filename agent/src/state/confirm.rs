//! The end of a switch: checked and confirmed, or undone.

use std::time::Duration;

use jiff::Timestamp;
use shared::health::Health;
use shared::nix::StorePath;

use super::recover::leads_to_target;
use super::{
    Action, Activation, Attempt, Checkup, Code, EpochVersion, Facts, MAX_CONFIRMED, Profile,
    Reason, Refused, Running, State, Target,
};

/// Bytes of checks, as JSON, that all remembered generations together may have.
const MAX_REMEMBERED_CHECKS: usize = 2 * 1024;

/// What a switch may take beyond what its manifest allows it: other switches, a slow disk.
const SLACK: Duration = Duration::from_secs(300);

/// Checks that have to be run before a switch, or its undoing, is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Examination {
    /// Names what they decide: the attempt, or the way back from it. Both may be checked at once,
    /// by a daemon that the dead man has overtaken.
    pub(crate) id: String,
    /// The root that is at work.
    pub(crate) path: StorePath,
    /// Its version, if it is known.
    pub(crate) version: Option<EpochVersion>,
    /// What is checked.
    pub(crate) checkup: Checkup,
    /// When the checks began.
    pub(crate) begun: Timestamp,
    /// When each of them had passed once.
    pub(crate) passed: Option<Timestamp>,
}

impl Target {
    /// Returns how long a switch to it may take at most, from its begin until it is confirmed or
    /// undone: what activations and checks may take, and as much again, because what ran before is
    /// put to work by the same rules.
    pub(crate) fn limit(&self) -> Duration {
        let (activation, health) = match self {
            Self::Wanted { wanted } => (&wanted.activation, &wanted.checkup.health),
            Self::Generation { running } => (&running.activation, &running.checkup.health),
            Self::Nothing => return Duration::ZERO,
        };
        let activation = match activation {
            Activation::None => 0,
            Activation::Exec { timeout, .. }
            | Activation::Systemd { timeout, .. }
            | Activation::Nixos { timeout } => *timeout,
        };
        let seconds = [activation, health.deadline, health.soak].map(u64::from);
        SLACK + Duration::from_secs(seconds.into_iter().sum()).saturating_mul(2)
    }
}

impl Profile {
    /// Returns the checks that the profile waits for.
    pub(crate) fn examination(&self) -> Option<Examination> {
        let (attempt, begun, passed) = match &self.state {
            State::Confirming { attempt, begun, passed, .. } => (attempt, *begun, *passed),
            State::RollingBack { attempt, restored: Some(begun), .. } => {
                let from = attempt.from.as_ref()?;
                // It was confirmed before: that it is well again is enough.
                let health = Health { soak: 0, ..from.checkup.health.clone() };
                return Some(Examination {
                    id: format!("{} back", attempt.id),
                    path: from.path.clone(),
                    version: from.version,
                    checkup: Checkup { health, ..from.checkup.clone() },
                    begun: *begun,
                    passed: None,
                });
            }
            State::RollingBack { restored: None, .. }
            | State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Failed { .. } => return None,
        };
        let (path, version, checkup) = match &attempt.target {
            Target::Wanted { wanted } => (&wanted.path, Some(wanted.version), &wanted.checkup),
            Target::Generation { running } => (&running.path, running.version, &running.checkup),
            Target::Nothing => return None,
        };
        let (id, path, checkup) = (attempt.id.clone(), path.clone(), checkup.clone());
        Some(Examination { id, path, version, checkup, begun, passed })
    }

    pub(super) fn begin_checks(
        mut self,
        attempt: Attempt,
        generation: u64,
        now: Timestamp,
    ) -> (Self, Vec<Action>) {
        let check = Action::CheckHealth(attempt.clone());
        self.state = State::Confirming { attempt, generation, begun: now, passed: None };
        (self, vec![check])
    }

    pub(super) fn passed(mut self, id: &str, now: Timestamp) -> (Self, Vec<Action>) {
        if let State::Confirming { attempt, passed, .. } = &mut self.state
            && attempt.id == id
        {
            *passed = Some(now);
        }
        self.rest()
    }

    pub(super) fn healthy(self, id: &str, now: Timestamp) -> (Self, Vec<Action>) {
        if self.examination().is_none_or(|examination| examination.id != id) {
            return self.rest();
        }
        match &self.state {
            State::Confirming { .. } => self.keep(now),
            State::RollingBack { .. } => self.rolled_back(now),
            State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Failed { .. } => self.rest(),
        }
    }

    pub(super) fn unhealthy(
        mut self,
        id: &str,
        reason: Reason,
        log: String,
        now: Timestamp,
    ) -> (Self, Vec<Action>) {
        if self.examination().is_none_or(|examination| examination.id != id) {
            return self.rest();
        }
        self.log(log);
        match &self.state {
            State::Confirming { attempt, generation, .. } => {
                if let Target::Generation { running } = &attempt.target {
                    if attempt.target.system().is_some() {
                        return self.keep(now);
                    }
                    // The operator's own word: it stays, and what is wrong with it is told.
                    let generation = *generation;
                    self.running = Some(Running { generation, unsure: false, ..running.clone() });
                    self.healthy_since = None;
                    self.unhealthy = Some(Reason { code: Code::Unhealthy, ..reason });
                    self.state = State::Steady { obstacle: None };
                    return self.decide(now);
                }
                self.attempt_failed(reason)
            }
            State::RollingBack { .. } => self.rollback_failed(&reason),
            State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Failed { .. } => self.rest(),
        }
    }

    /// Takes note of how what runs is, long after it was confirmed.
    pub(super) fn looked(
        mut self,
        generation: u64,
        found: Option<Reason>,
        now: Timestamp,
    ) -> (Self, Vec<Action>) {
        let is_it = self.running.as_ref().is_some_and(|it| it.generation == generation);
        match &self.state {
            State::Steady { .. } | State::Fetching { .. } | State::Staged { .. } if is_it => {
                if found.is_some() {
                    self.healthy_since = None;
                } else if self.unhealthy.is_some() || self.healthy_since.is_none() {
                    self.healthy_since = Some(now);
                }
                self.unhealthy = found;
            }
            State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Starting
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => {}
        }
        self.rest()
    }

    /// The one place where a generation becomes good.
    pub(super) fn confirm(mut self, now: Timestamp) -> (Self, Vec<Action>) {
        let State::Confirming { attempt, generation, .. } = &self.state else { return self.rest() };
        self.running = match &attempt.target {
            Target::Wanted { wanted } => Some(Running {
                version: Some(wanted.version),
                path: wanted.path.clone(),
                generation: *generation,
                activation: wanted.activation.clone(),
                checkup: wanted.checkup.clone(),
                unsure: false,
            }),
            Target::Generation { running } => Some(Running { unsure: false, ..running.clone() }),
            Target::Nothing => None,
        };
        if let Some(running) = self.running.clone() {
            self.remember(running);
        }
        self.healthy_since = Some(now);
        self.unhealthy = None;
        self.state = State::Steady { obstacle: None };
        self.decide(now)
    }

    pub(crate) fn remember(&mut self, running: Running) {
        self.confirmed.retain(|known| known.generation != running.generation);
        self.confirmed.push(running);
        let excess = self.confirmed.len().saturating_sub(MAX_CONFIRMED);
        self.confirmed.drain(..excess);
        // The journal must stay small: the oldest generations lose their checks, not their place.
        let mut room = MAX_REMEMBERED_CHECKS;
        for known in self.confirmed.iter_mut().rev().filter(|it| !it.checkup.health.is_empty()) {
            match room.checked_sub(known.checkup.health.len()) {
                Some(left) => room = left,
                None => known.checkup.health = Health::default(),
            }
        }
    }

    pub(super) fn attempt_failed(mut self, reason: Reason) -> (Self, Vec<Action>) {
        let attempt = match &self.state {
            State::Switching { attempt }
            | State::RebootPending { attempt, .. }
            | State::Confirming { attempt, .. } => attempt.clone(),
            State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => return self.rest(),
        };
        match &attempt.target {
            // Half stopped: nothing to go back to that was not running all along.
            Target::Nothing => self.fail(reason),
            Target::Wanted { .. } | Target::Generation { .. } => {
                let attempt_again = attempt.clone();
                self.state = State::RollingBack { attempt, reason, restored: None };
                (self, vec![Action::RollBack(attempt_again)])
            }
        }
    }

    /// Undoes an attempt that nobody confirmed in time, unless it has ended, or somebody has moved
    /// the link on: the next who looks at the host finds that.
    pub(super) fn expired(mut self, id: &str, facts: &Facts) -> (Self, Vec<Action>) {
        let link = facts.link.as_ref();
        match &mut self.state {
            // Before the reboot there is nothing to confirm; after it, nobody was there to do so.
            State::RebootPending { attempt, .. }
                if attempt.id == id
                    && attempt.boot_id != facts.boot_id
                    && leads_to_target(attempt, link) =>
            {
                attempt.note_boot(facts);
                let text = "nobody confirmed the system after the reboot";
                self.attempt_failed(Reason::new(Code::Unconfirmed, text))
            }
            State::Switching { attempt } | State::Confirming { attempt, .. }
                if attempt.id == id && leads_to_target(attempt, link) =>
            {
                let text = "nobody confirmed the switch in time";
                self.attempt_failed(Reason::new(Code::Unconfirmed, text))
            }
            State::RollingBack { attempt, restored: None, .. } if attempt.id == id => {
                let attempt = attempt.clone();
                (self, vec![Action::RollBack(attempt)])
            }
            State::Switching { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::RebootPending { .. }
            | State::Failed { .. } => self.rest(),
        }
    }

    /// Returns the attempt that is under way, and has changed the host.
    pub(crate) const fn attempt(&self) -> Option<&Attempt> {
        match &self.state {
            State::Switching { attempt }
            | State::RebootPending { attempt, .. }
            | State::Confirming { attempt, .. }
            | State::RollingBack { attempt, .. } => Some(attempt),
            State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Failed { .. } => None,
        }
    }

    /// What ran before is at work again; whether it is well, its own checks say.
    pub(super) fn restored(mut self, now: Timestamp) -> (Self, Vec<Action>) {
        let State::RollingBack { attempt, restored, .. } = &mut self.state else {
            return self.rest();
        };
        if attempt.from.as_ref().is_none_or(|from| from.checkup.health.checks.is_empty()) {
            return self.rolled_back(now);
        }
        *restored = Some(now);
        let check = Action::CheckHealth(attempt.clone());
        (self, vec![check])
    }

    fn rolled_back(mut self, now: Timestamp) -> (Self, Vec<Action>) {
        let State::RollingBack { attempt, reason, .. } = &self.state else { return self.rest() };
        let (attempt, reason) = (attempt.clone(), reason.clone());
        self.refuse(&attempt, reason, now);
        // It was just put to work, whatever was known of it before.
        self.running = attempt.from.map(|from| Running { unsure: false, ..from });
        self.healthy_since = self.running.is_some().then_some(now);
        self.unhealthy = None;
        self.state = State::Steady { obstacle: None };
        self.decide(now)
    }

    /// What ran before could not be put to work again.
    pub(super) fn not_restored(mut self, failure: &Reason, log: String) -> (Self, Vec<Action>) {
        if matches!(self.state, State::RollingBack { restored: None, .. }) {
            self.log(log);
            return self.rollback_failed(failure);
        }
        self.rest()
    }

    pub(super) fn rollback_failed(mut self, failure: &Reason) -> (Self, Vec<Action>) {
        let State::RollingBack { attempt, reason: cause, .. } = &self.state else {
            return self.rest();
        };
        let text = format!("{}; and going back failed: {}", cause.text, failure.text);
        let reason = Reason::new(Code::RollbackFailed, text);
        self.running = attempt.from.clone();
        self.fail(reason)
    }

    fn fail(mut self, reason: Reason) -> (Self, Vec<Action>) {
        if let Some(running) = &mut self.running {
            running.unsure = true;
        }
        self.healthy_since = None;
        self.state = State::Failed { reason, above: self.floor };
        self.rest()
    }

    fn refuse(&mut self, attempt: &Attempt, reason: Reason, now: Timestamp) {
        let version = match &attempt.target {
            Target::Wanted { wanted } => Some(wanted.version),
            Target::Generation { running } => running.version,
            Target::Nothing => None,
        };
        // An operator's failed step back must not lift the refusal of a newer version.
        if let Some(version) = version
            && self.refused.as_ref().is_none_or(|refused| refused.version <= version)
        {
            self.refused = Some(Refused { version, reason, at: now });
        }
    }
}
