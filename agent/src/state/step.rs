//! The transition function.

use jiff::{SignedDuration, Timestamp};
use shared::window::Opening;

use super::{
    Action, Attempt, Code, Desired, EpochVersion, Event, MAX_PHASES, MAX_STARTS, Obstacle, Pause,
    Persistence, Phase, Profile, Reason, Record, Running, State, Target, Ticket,
};

/// First backoff after a failed fetch.
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(15);

/// Longest backoff.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_secs(1800);

/// Takes one step: what the profile is after the event, and what must be done next.
///
/// An event that does not fit the state changes nothing: it comes from an action that has been
/// overtaken.
pub(crate) fn step(profile: Profile, event: Event, now: Timestamp) -> (Profile, Vec<Action>) {
    let before = profile.explain(now).word;
    let (mut profile, actions) = transition(profile, event, now);
    profile.note_word(before, now);
    (profile, actions)
}

fn transition(mut profile: Profile, event: Event, now: Timestamp) -> (Profile, Vec<Action>) {
    match event {
        Event::Desired(desired) => {
            profile.accept(desired);
            profile.decide(now)
        }
        Event::Woke => profile.decide(now),
        Event::Fetched(path) => match &profile.state {
            State::Fetching { wanted, .. } if wanted.path == path => {
                let target = Target::Wanted { wanted: wanted.clone() };
                profile.stage(target)
            }
            State::Fetching { .. }
            | State::Starting
            | State::Steady { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => profile.rest(),
        },
        Event::NotReady(path, reason) => profile.not_ready(&path, reason, now),
        Event::LockTaken(ticket) => profile.begin(ticket, now),
        Event::Activated(generation) => profile.activated(generation, now),
        Event::NeedsReboot(generation) => profile.needs_reboot(generation, now),
        Event::ActivationFailed(reason, log) => {
            profile.log(log);
            profile.attempt_failed(reason)
        }
        Event::Passed(id) => profile.passed(&id, now),
        Event::Healthy(id) => profile.healthy(&id, now),
        Event::Unhealthy(id, reason, log) => profile.unhealthy(&id, reason, log, now),
        Event::Looked(generation, found) => profile.looked(generation, found, now),
        Event::Expired(id, facts) => profile.expired(&id, &facts),
        Event::Confirm => profile.keep(now),
        Event::Kept(id) => profile.kept(&id, now),
        Event::RolledBack => profile.restored(now),
        Event::RollbackFailed(reason, log) => profile.not_restored(&reason, log),
        Event::Retry => profile.retry(now),
        Event::RollBack(running) => profile.go_back(running),
    }
}

impl Profile {
    /// Takes note of what is asked for, unless it goes back.
    fn accept(&mut self, desired: Desired) {
        let version = match &desired {
            Desired::Run { wanted } => Some(wanted.version),
            Desired::Stop { version, .. } | Desired::Keep { version, .. } => *version,
            Desired::Freeze { .. } => None,
        };
        if let (Some(version), Some(floor)) = (version, self.floor)
            && version < floor
        {
            let reason = Reason::new(
                Code::VersionWentBack,
                format!("version {version} was offered after version {floor} had been accepted"),
            );
            self.desired = Desired::Freeze { reason };
            return;
        }
        self.floor = self.floor.max(version);
        if self.refused.as_ref().is_some_and(|refused| version > Some(refused.version)) {
            self.refused = None;
        }
        if let Desired::Run { wanted } = &desired {
            self.wanted = Some(wanted.clone());
        }
        if let Desired::Stop { .. } | Desired::Keep { .. } = &desired {
            self.wanted = None;
        }
        self.desired = desired;
    }

    /// Decides what comes next for a profile that is not in the middle of a switch.
    pub(super) fn decide(mut self, now: Timestamp) -> (Self, Vec<Action>) {
        match &mut self.state {
            State::Steady { .. } | State::Fetching { .. } => self.pursue(now),
            State::Staged { target: Target::Generation { .. } } => self.ask_for_lock(),
            State::Staged { .. } => self.pursue(now),
            State::Failed { above, .. } => {
                let offered = match &self.desired {
                    Desired::Run { wanted } => Some(wanted.version),
                    Desired::Stop { version, .. } => *version,
                    Desired::Keep { .. } | Desired::Freeze { .. } => None,
                };
                if above.is_some() && offered > *above {
                    self.state = State::Steady { obstacle: None };
                    return self.pursue(now);
                }
                *above = (*above).or(offered);
                self.rest()
            }
            State::RebootPending { .. } => self.pend(now),
            State::Starting
            | State::Switching { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. } => self.rest(),
        }
    }

    fn pursue(mut self, now: Timestamp) -> (Self, Vec<Action>) {
        match self.desired.clone() {
            Desired::Run { wanted } => {
                if let Some(running) = self.running.as_mut().filter(|it| it.satisfies(&wanted)) {
                    running.version = Some(wanted.version);
                    running.activation = wanted.activation;
                    running.checkup = wanted.checkup;
                    let running = running.clone();
                    self.remember(running);
                    return self.settle();
                }
                if self.refuses(wanted.version) {
                    return self.settle();
                }
                self.obtain(wanted, now)
            }
            Desired::Stop { .. } if self.running.is_some() => {
                if !matches!(&self.state, State::Staged { target: Target::Nothing }) {
                    self.record = Some(Record::default());
                }
                self.stage(Target::Nothing)
            }
            Desired::Stop { .. } | Desired::Keep { .. } | Desired::Freeze { .. } => self.settle(),
        }
    }

    /// Fetches, unless that is under way, done, or has to wait.
    fn obtain(mut self, wanted: super::Wanted, now: Timestamp) -> (Self, Vec<Action>) {
        let failures = match &self.state {
            State::Staged { target: Target::Wanted { wanted: staged } } if *staged == wanted => {
                return self.ask_for_lock();
            }
            State::Fetching { wanted: current, pause: None, .. } if *current == wanted => {
                return self.rest();
            }
            State::Fetching { wanted: current, pause: Some(pause), failures }
                if *current == wanted =>
            {
                if now < pause.until {
                    return self.rest();
                }
                *failures
            }
            State::Steady { obstacle: Some(obstacle) } if obstacle.wanted == wanted => {
                // Windows may change before they open.
                if now < obstacle.until && obstacle.reason.code != Code::WindowClosed {
                    return self.rest();
                }
                obstacle.failures
            }
            State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Starting
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => {
                self.record = Some(Record::default());
                0
            }
        };
        if let Opening::Closed { until } = self.open.fetch {
            let reason = closed("fetch", until);
            let until = until.or_else(|| now.checked_add(MAX_BACKOFF).ok()).unwrap_or(now);
            let obstacle = Obstacle { wanted, reason, until, failures };
            self.state = State::Steady { obstacle: Some(obstacle) };
            return self.rest();
        }
        self.state = State::Fetching { wanted: wanted.clone(), failures, pause: None };
        (self, vec![Action::Fetch(wanted)])
    }

    fn not_ready(
        mut self,
        path: &shared::nix::StorePath,
        reason: Reason,
        now: Timestamp,
    ) -> (Self, Vec<Action>) {
        let (wanted, failures) = match &self.state {
            State::Fetching { wanted, failures, .. } if wanted.path == *path => {
                (wanted.clone(), failures.saturating_add(1))
            }
            State::Staged { target: Target::Wanted { wanted } }
            | State::Switching { attempt: Attempt { target: Target::Wanted { wanted }, .. } }
                if wanted.path == *path =>
            {
                (wanted.clone(), 1)
            }
            State::Fetching { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::Starting
            | State::Steady { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => return self.rest(),
        };
        let until = now.checked_add(backoff(failures)).unwrap_or(Timestamp::MAX);
        self.state = match reason.code.persistence() {
            Persistence::Transient => {
                State::Fetching { wanted, failures, pause: Some(Pause { until, reason }) }
            }
            Persistence::Lasting => {
                State::Steady { obstacle: Some(Obstacle { wanted, reason, until, failures }) }
            }
        };
        self.rest()
    }

    fn stage(mut self, target: Target) -> (Self, Vec<Action>) {
        self.state = State::Staged { target };
        self.ask_for_lock()
    }

    fn ask_for_lock(self) -> (Self, Vec<Action>) {
        (self, vec![Action::TakeLock])
    }

    /// Begins the switch if every gate is open. The driver holds the lock.
    fn begin(mut self, ticket: Ticket, now: Timestamp) -> (Self, Vec<Action>) {
        let State::Staged { target } = self.state.clone() else { return self.rest() };
        self.observe(ticket.facts.running());
        if !self.is_needed(&target) {
            return self.pursue(now);
        }
        if !self.may_switch_to(&target, now) {
            return self.rest();
        }
        let attempt = Attempt {
            id: ticket.id.clone(),
            from: self.running.clone(),
            target,
            boot_id: ticket.facts.boot_id,
            starts: 1,
            reboots: 0,
        };
        self.record.get_or_insert_default().id = ticket.id;
        self.state = State::Switching { attempt: attempt.clone() };
        (self, vec![Action::Switch(attempt)])
    }

    /// Returns whether the link, as it is by now, is not where the target leads already.
    fn is_needed(&self, target: &Target) -> bool {
        match (target, &self.running) {
            (Target::Wanted { wanted }, Some(running)) => !running.satisfies(wanted),
            (Target::Nothing, running) => running.is_some(),
            (Target::Wanted { .. }, None) | (Target::Generation { .. }, _) => true,
        }
    }

    /// Returns whether pin and documents let the profile switch to this target now.
    fn may_switch_to(&self, target: &Target, now: Timestamp) -> bool {
        match target {
            // The operator's own word, which comes with a pin.
            Target::Generation { .. } => true,
            Target::Wanted { wanted } => {
                !self.is_pinned(now)
                    && self.open.switch == Opening::Open
                    && !self.refuses(wanted.version)
                    && matches!(&self.desired, Desired::Run { wanted: asked } if asked == wanted)
            }
            Target::Nothing => {
                !self.is_pinned(now)
                    && self.open.switch == Opening::Open
                    && matches!(&self.desired, Desired::Stop { .. })
            }
        }
    }

    fn activated(mut self, generation: Option<u64>, now: Timestamp) -> (Self, Vec<Action>) {
        let State::Switching { attempt } = &self.state else { return self.rest() };
        match (&attempt.target, generation) {
            (Target::Nothing, _) => {
                self.running = None;
                self.confirmed.clear();
                self.healthy_since = None;
                self.unhealthy = None;
                self.state = State::Steady { obstacle: None };
                self.decide(now)
            }
            (Target::Wanted { .. } | Target::Generation { .. }, Some(generation)) => {
                let attempt = attempt.clone();
                self.begin_checks(attempt, generation, now)
            }
            (Target::Wanted { .. } | Target::Generation { .. }, None) => self.rest(),
        }
    }

    fn retry(mut self, now: Timestamp) -> (Self, Vec<Action>) {
        match &self.state {
            State::Steady { .. }
            | State::Failed { .. }
            | State::Fetching { pause: Some(_), .. } => {
                self.refused = None;
                self.state = State::Steady { obstacle: None };
            }
            State::Fetching { pause: None, .. }
            | State::Staged { .. }
            | State::Starting
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. } => {}
        }
        self.decide(now)
    }

    fn go_back(mut self, running: Running) -> (Self, Vec<Action>) {
        match &self.state {
            State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Failed { .. } => {
                self.record = Some(Record::default());
                self.state = State::Staged { target: Target::Generation { running } };
                self.ask_for_lock()
            }
            State::Confirming { attempt, .. } | State::RebootPending { attempt, .. }
                if attempt.from.as_ref().is_some_and(|it| it.generation == running.generation) =>
            {
                let text = "somebody went back before it was confirmed";
                self.attempt_failed(Reason::new(Code::HealthFailed, text))
            }
            State::Starting
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. } => self.rest(),
        }
    }

    /// Takes a crashed switch up again, or gives it up after too many starts.
    pub(super) fn resume(mut self, mut attempt: Attempt) -> (Self, Vec<Action>) {
        if attempt.starts >= MAX_STARTS && !matches!(attempt.target, Target::Nothing) {
            let text = format!("the switch was interrupted {} times", attempt.starts);
            self.state = State::Switching { attempt };
            return self.attempt_failed(Reason::new(Code::Interrupted, text));
        }
        attempt.starts = attempt.starts.saturating_add(1);
        self.state = State::Switching { attempt: attempt.clone() };
        (self, vec![Action::Switch(attempt)])
    }

    pub(super) fn refuses(&self, version: EpochVersion) -> bool {
        self.refused.as_ref().is_some_and(|refused| version <= refused.version)
    }

    fn settle(mut self) -> (Self, Vec<Action>) {
        self.state = State::Steady { obstacle: None };
        self.rest()
    }

    pub(super) const fn rest(self) -> (Self, Vec<Action>) {
        (self, Vec::new())
    }

    pub(super) fn log(&mut self, log: String) {
        self.record.get_or_insert_default().log = log;
    }

    /// Keeps `since` and the record of phases in line with the word.
    pub(super) fn note_word(&mut self, before: shared::state_word::StateWord, now: Timestamp) {
        let word = self.explain(now).word;
        if word != before {
            self.since = now;
        }
        if let Some(record) = &mut self.record
            && record.phases.last().is_none_or(|last| last.word != word)
            && record.phases.len() < MAX_PHASES
        {
            record.phases.push(Phase { word, at: now });
        }
    }
}

/// Says that nothing may be done before a window opens.
pub(crate) fn closed(what: &str, until: Option<Timestamp>) -> Reason {
    let text = match until {
        Some(until) => format!("no window is open to {what} until {until}"),
        None => format!("no window to {what} ever opens"),
    };
    Reason::new(Code::WindowClosed, text)
}

fn backoff(failures: u32) -> SignedDuration {
    let doubled = 1_i32.checked_shl(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    FIRST_BACKOFF.saturating_mul(doubled).min(MAX_BACKOFF)
}
