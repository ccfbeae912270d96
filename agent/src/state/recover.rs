//! What a profile is after a crash, a reboot or a stranger's hand.

use jiff::Timestamp;

use super::reboot::booted_another;
use super::{
    Action, Activation, Attempt, Checkup, Code, Facts, Link, Profile, Reason, Running, State,
    Target,
};

/// Seconds that an operating system may take that no manifest gave a time.
const SYSTEM_TIMEOUT: u32 = 600;

/// Compares what the journal says with the host, and goes on from there.
///
/// The driver holds the switch lock. Always leads out of `Starting`.
pub(crate) fn recover(profile: Profile, facts: &Facts, now: Timestamp) -> (Profile, Vec<Action>) {
    let before = profile.explain(now).word;
    let (mut profile, actions) = compare(profile, facts, now);
    profile.note_word(before, now);
    (profile, actions)
}

fn compare(mut profile: Profile, facts: &Facts, now: Timestamp) -> (Profile, Vec<Action>) {
    match profile.state.clone() {
        State::Switching { attempt } => resume_switch(profile, attempt, facts, now),
        State::Confirming { mut attempt, generation, mut begun, mut passed } => {
            let is_new_boot = attempt.boot_id != facts.boot_id;
            if !leads_to_target(&attempt, facts.link.as_ref()) {
                return profile.attempt_failed(undone());
            }
            if !facts.runs_target(&attempt) {
                if attempt.reboots > 0 {
                    return profile.attempt_failed(booted_another(facts));
                }
                if !is_new_boot {
                    return profile.attempt_failed(undone());
                }
                // It was activated for the last boot alone.
                attempt.boot_id.clone_from(&facts.boot_id);
                return profile.resume(attempt);
            }
            if is_new_boot {
                // All of it starts anew, and is given the time for that anew.
                attempt.boot_id.clone_from(&facts.boot_id);
                (begun, passed) = (now, None);
            }
            let check = Action::CheckHealth(attempt.clone());
            profile.state = State::Confirming { attempt, generation, begun, passed };
            (profile, vec![check])
        }
        State::RebootPending { attempt, generation } => {
            profile.resume_reboot(attempt, generation, facts, now)
        }
        State::RollingBack { mut attempt, reason, restored } => {
            let is_back = attempt.boot_id == facts.boot_id
                && leads_back(&attempt, facts.link.as_ref())
                && facts.runs_previous(&attempt)
                && restored.is_some();
            if attempt.boot_id != facts.boot_id {
                attempt.note_boot(facts);
            }
            let restored = restored.filter(|_| is_back);
            profile.state = State::RollingBack { attempt: attempt.clone(), reason, restored };
            let action =
                if is_back { Action::CheckHealth(attempt) } else { Action::RollBack(attempt) };
            (profile, vec![action])
        }
        State::Failed { .. } => {
            profile.observe(facts.running());
            (profile, Vec::new())
        }
        // A fetch starts again from what is valid by now; an operator's step back was not begun.
        State::Starting
        | State::Steady { obstacle: None }
        | State::Fetching { .. }
        | State::Staged { target: Target::Generation { .. } } => {
            profile.observe(facts.running());
            profile.state = State::Steady { obstacle: None };
            profile.decide(now)
        }
        // What is staged is rooted, and stays so across a reboot.
        State::Steady { obstacle: Some(_) }
        | State::Staged { target: Target::Wanted { .. } | Target::Nothing } => {
            profile.observe(facts.running());
            profile.decide(now)
        }
    }
}

/// A switch that was begun and not ended.
fn resume_switch(
    mut profile: Profile,
    mut attempt: Attempt,
    facts: &Facts,
    now: Timestamp,
) -> (Profile, Vec<Action>) {
    let begun = match &attempt.target {
        Target::Wanted { .. } | Target::Generation { .. } => {
            leads_to_target(&attempt, facts.link.as_ref())
        }
        // Whether `bin/deactivate` ran cannot be seen from the link.
        Target::Nothing => true,
    };
    if begun && facts.at_work {
        // Nothing was interrupted but our waiting.
        return (profile, vec![Action::Switch(attempt)]);
    }
    if begun {
        attempt.boot_id.clone_from(&facts.boot_id);
        return profile.resume(attempt);
    }
    // The link was not moved, so nothing was activated: through the gates again.
    profile.observe(facts.running());
    profile.state = State::Steady { obstacle: None };
    profile.decide(now)
}

pub(super) fn leads_to_target(attempt: &Attempt, link: Option<&Link>) -> bool {
    match (&attempt.target, link) {
        (Target::Wanted { wanted }, Some(link)) => link.path == wanted.path,
        (Target::Generation { running }, Some(link)) => link.generation == running.generation,
        (Target::Nothing, link) => link.is_none(),
        (Target::Wanted { .. } | Target::Generation { .. }, None) => false,
    }
}

fn leads_back(attempt: &Attempt, link: Option<&Link>) -> bool {
    let from = attempt.from.as_ref().map(|from| &from.path);
    from == link.map(|link| &link.path)
}

fn undone() -> Reason {
    Reason::new(Code::Interrupted, "the link was moved before the switch was confirmed")
}

impl Profile {
    /// Takes what the link leads to as what runs, also if somebody else moved it.
    pub(crate) fn observe(&mut self, link: Option<&Link>) {
        let Some(link) = link else {
            self.running = None;
            self.healthy_since = None;
            self.unhealthy = None;
            return;
        };
        let known = self.running.as_ref().is_some_and(|running| {
            running.generation == link.generation && running.path == link.path
        });
        if !known {
            self.healthy_since = None;
            self.unhealthy = None;
            self.running = Some(self.identify(link));
        }
    }

    /// Returns how something of this profile is put to work that no manifest brought.
    fn usual_activation(&self) -> Activation {
        if self.name.is_system() {
            return Activation::Nixos { timeout: SYSTEM_TIMEOUT };
        }
        Activation::None
    }

    /// Returns what is known of a generation that we did not put to work ourselves just now.
    pub(crate) fn identify(&self, link: &Link) -> Running {
        let same_path = || self.confirmed.iter().rev().find(|known| known.path == link.path);
        let known = same_path().cloned();
        let (path, generation) = (link.path.clone(), link.generation);
        match known {
            Some(known) => Running { path, generation, unsure: true, ..known },
            None => Running {
                version: None,
                path,
                generation,
                activation: self.usual_activation(),
                checkup: Checkup::default(),
                unsure: true,
            },
        }
    }
}
