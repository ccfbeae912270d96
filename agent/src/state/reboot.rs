//! Systems that need a reboot: into them for one boot alone, and back if they are not confirmed.
//!
//! What the machine boots by default stays the old system until the new one is confirmed. So a new
//! one that hangs, or that nobody lives to confirm, is left by the next reboot, whoever asks for it.

use jiff::Timestamp;
use shared::nix::StorePath;
use shared::window::Opening;

use super::recover::leads_to_target;
use super::{
    Action, Activation, Attempt, Code, Desired, Facts, Profile, Reason, Running, State, Target,
};

/// Reboots that one attempt may take: there, and back.
const MAX_REBOOTS: u32 = 2;

impl Facts {
    /// Returns whether what the attempt leads to is at work, where the machine can tell.
    pub(super) fn runs_target(&self, attempt: &Attempt) -> bool {
        self.runs(attempt.target.path())
    }

    /// Returns whether what ran before the attempt is at work, where the machine can tell.
    pub(super) fn runs_previous(&self, attempt: &Attempt) -> bool {
        self.runs(attempt.from.as_ref().map(|from| &from.path))
    }

    fn runs(&self, path: Option<&StorePath>) -> bool {
        let running = self.systems.as_ref().map(|systems| systems.running.as_ref());
        running.is_none_or(|link| link.map(|link| &link.path) == path)
    }

    fn booted_target(&self, attempt: &Attempt) -> bool {
        let booted = self.systems.as_ref().map(|systems| systems.booted.as_ref());
        booted.is_none_or(|booted| booted == attempt.target.path())
    }

    /// Returns whether the machine is known to boot something else than the target next.
    fn boots_another(&self, attempt: &Attempt) -> bool {
        let next = self.systems.as_ref().and_then(|systems| systems.next.as_ref());
        next.is_some_and(|next| Some(next) != attempt.target.path())
    }
}

impl Profile {
    /// Compares a pending reboot with the host: it waits, has led there, or has led elsewhere.
    pub(super) fn resume_reboot(
        mut self,
        mut attempt: Attempt,
        generation: u64,
        facts: &Facts,
        now: Timestamp,
    ) -> (Self, Vec<Action>) {
        let is_new_boot = attempt.boot_id != facts.boot_id;
        if is_new_boot {
            attempt.note_boot(facts);
        }
        self.state = State::RebootPending { attempt: attempt.clone(), generation };
        if !leads_to_target(&attempt, facts.link.as_ref()) {
            let text = "the link was moved before the reboot";
            return self.attempt_failed(Reason::new(Code::Interrupted, text));
        }
        if !is_new_boot {
            if facts.boots_another(&attempt) {
                let text = "the one-shot boot entry has gone before the reboot";
                return self.attempt_failed(Reason::new(Code::BootEntryGone, text));
            }
            return self.rest();
        }
        if facts.booted_target(&attempt) && facts.runs_target(&attempt) {
            return self.begin_checks(attempt, generation, now);
        }
        self.attempt_failed(booted_another(facts))
    }

    /// Goes on once a reboot is the next step: forward when every gate is open, back at once.
    pub(super) fn needs_reboot(mut self, generation: u64, now: Timestamp) -> (Self, Vec<Action>) {
        match &self.state {
            State::Switching { attempt } => {
                self.state = State::RebootPending { attempt: attempt.clone(), generation };
                self.decide(now)
            }
            State::RollingBack { attempt, .. } if attempt.reboots < MAX_REBOOTS => {
                let attempt = attempt.clone();
                (self, vec![Action::Reboot(attempt)])
            }
            State::RollingBack { .. } => {
                let text = "the machine does not boot what ran before";
                self.rollback_failed(&Reason::new(Code::BootEntryGone, text))
            }
            State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::Failed { .. } => self.rest(),
        }
    }

    /// Reboots when every gate is open; a newer version makes the reboot pointless.
    pub(super) fn pend(self, now: Timestamp) -> (Self, Vec<Action>) {
        let State::RebootPending { attempt, .. } = &self.state else { return self.rest() };
        if let (Target::Wanted { wanted }, Desired::Run { wanted: asked }) =
            (&attempt.target, &self.desired)
            && wanted.version < asked.version
        {
            let text = format!("version {} came before the reboot", asked.version);
            return self.attempt_failed(Reason::new(Code::Overtaken, text));
        }
        if self.may_reboot_into(&attempt.target, now) {
            let attempt = attempt.clone();
            return (self, vec![Action::Reboot(attempt)]);
        }
        self.rest()
    }

    fn may_reboot_into(&self, target: &Target, now: Timestamp) -> bool {
        let may_be = match target {
            // The operator's own word, which comes with a pin.
            Target::Generation { .. } => true,
            Target::Wanted { wanted } => {
                let is_asked =
                    matches!(&self.desired, Desired::Run { wanted: asked } if asked == wanted);
                is_asked && !self.is_pinned(now)
            }
            Target::Nothing => false,
        };
        may_be && self.open.reboot == Opening::Open
    }

    /// Makes what is healthy stay: a system becomes what the machine boots by default.
    pub(super) fn keep(self, now: Timestamp) -> (Self, Vec<Action>) {
        let State::Confirming { attempt, .. } = &self.state else { return self.rest() };
        if attempt.target.system().is_none() {
            return self.confirm(now);
        }
        let attempt = attempt.clone();
        (self, vec![Action::Keep(attempt)])
    }

    /// It stays by now.
    pub(super) fn kept(self, id: &str, now: Timestamp) -> (Self, Vec<Action>) {
        let is_it = self.attempt().is_some_and(|attempt| attempt.id == id);
        if is_it { self.confirm(now) } else { self.rest() }
    }
}

impl Attempt {
    /// Takes note that the machine has booted since.
    pub(super) fn note_boot(&mut self, facts: &Facts) {
        self.boot_id.clone_from(&facts.boot_id);
        self.reboots = self.reboots.saturating_add(1);
    }
}

/// The operating system of a machine, by a program of its own put to work and made the default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System<'a> {
    /// Its root.
    pub(crate) path: &'a StorePath,
    /// How long one run of its program may take, in seconds.
    pub(crate) timeout: u32,
}

impl<'a> System<'a> {
    const fn of(path: &'a StorePath, activation: &Activation) -> Option<Self> {
        match activation {
            Activation::Nixos { timeout } => Some(Self { path, timeout: *timeout }),
            Activation::None | Activation::Exec { .. } | Activation::Systemd { .. } => None,
        }
    }
}

impl Running {
    /// Returns it as the operating system of a machine, if it is one.
    pub(crate) const fn system(&self) -> Option<System<'_>> {
        System::of(&self.path, &self.activation)
    }
}

impl Target {
    /// Returns the root that it leads to.
    pub(crate) const fn path(&self) -> Option<&StorePath> {
        match self {
            Self::Wanted { wanted } => Some(&wanted.path),
            Self::Generation { running } => Some(&running.path),
            Self::Nothing => None,
        }
    }

    /// Returns it as the operating system of a machine, if it is one.
    pub(crate) const fn system(&self) -> Option<System<'_>> {
        match self {
            Self::Wanted { wanted } => System::of(&wanted.path, &wanted.activation),
            Self::Generation { running } => running.system(),
            Self::Nothing => None,
        }
    }
}

pub(super) fn booted_another(facts: &Facts) -> Reason {
    let booted = facts.systems.as_ref().and_then(|systems| systems.booted.as_ref());
    let what = booted.map_or_else(|| "another system".to_owned(), |path| format!("`{path}`"));
    Reason::new(Code::BootEntryGone, format!("the machine booted {what} instead"))
}
