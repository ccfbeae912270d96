//! One word, a reason, a time and the next command for every state.

use std::fmt;

use jiff::Timestamp;
use shared::state_word::StateWord;

use super::step::closed;
use super::{Code, Desired, EpochVersion, Profile, Reason, State, Target};

/// A profile's state as people and programs see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Explained {
    /// One of the twelve words.
    pub(crate) word: StateWord,
    /// Since when.
    pub(crate) since: Timestamp,
    /// Until when, if that is known beforehand.
    pub(crate) until: Option<Timestamp>,
    /// Why; always there unless the word is `converged`.
    pub(crate) reason: Option<Reason>,
    /// The next command; always there unless the word is `converged`.
    pub(crate) next: Option<String>,
}

impl Profile {
    /// Explains the state: of all that is true now, the word of highest precedence.
    pub(crate) fn explain(&self, now: Timestamp) -> Explained {
        let candidates = [
            self.asked(),
            self.refusal(),
            self.pin_reason(now).map(|reason| (StateWord::Pinned, reason)),
            self.unhealthy.clone().map(|reason| (reason.code.word(), reason)),
            self.doing(),
        ];
        let best = candidates.into_iter().flatten().min_by_key(|(word, _)| *word);
        let Some((word, reason)) = best else {
            return Explained {
                word: StateWord::Converged,
                since: self.since,
                until: None,
                reason: None,
                next: None,
            };
        };
        let next = self.next_command(word, reason.code);
        let is_own = self.doing().is_some_and(|(doing, _)| doing == word);
        let until = if word == StateWord::Pinned {
            self.pin.as_ref().and_then(|pin| pin.until)
        } else {
            self.pause().filter(|_| is_own)
        };
        Explained { word, since: self.since, until, reason: Some(reason), next }
    }

    /// What the documents say against a change.
    fn asked(&self) -> Option<(StateWord, Reason)> {
        match &self.desired {
            Desired::Run { .. } => None,
            Desired::Stop { reason, .. }
            | Desired::Keep { reason, .. }
            | Desired::Freeze { reason } => Some((reason.code.word(), reason.clone())),
        }
    }

    fn refusal(&self) -> Option<(StateWord, Reason)> {
        let (refused, wanted) = (self.refused.as_ref()?, self.wanted.as_ref()?);
        let applies = wanted.version <= refused.version
            && !self.running.as_ref().is_some_and(|running| running.satisfies(wanted));
        applies.then(|| (StateWord::RolledBack, refused.reason.clone()))
    }

    fn pin_reason(&self, now: Timestamp) -> Option<Reason> {
        let pin = self.pin.as_ref().filter(|pin| pin.holds(now))?;
        let until = pin.until.map_or_else(String::new, |until| format!(" until {until}"));
        Some(Reason::new(Code::Pinned, format!("pinned{until}: {}", pin.reason)))
    }

    fn doing(&self) -> Option<(StateWord, Reason)> {
        let told = |word, code, text: String| Some((word, Reason::new(code, text)));
        match &self.state {
            State::Starting => told(
                StateWord::Waiting,
                Code::Starting,
                "compares its journal with the host".into(),
            ),
            State::Steady { obstacle: None } => None,
            State::Steady { obstacle: Some(obstacle) } => {
                Some((StateWord::Waiting, obstacle.reason.clone()))
            }
            State::Fetching { pause: Some(pause), .. } => {
                Some((StateWord::Fetching, pause.reason.clone()))
            }
            State::Fetching { pause: None, wanted, .. } => {
                told(StateWord::Fetching, Code::InProgress, format!("fetches {}", wanted.version))
            }
            State::Staged { .. } if self.closed_until().is_some() => {
                let until = self.closed_until().flatten();
                Some((StateWord::Waiting, closed("switch", until)))
            }
            State::Staged { target } => {
                told(StateWord::Waiting, Code::Ready, format!("ready to {target}"))
            }
            State::Switching { attempt } => told(
                StateWord::Switching,
                Code::InProgress,
                format!("on the way to {}", attempt.target),
            ),
            State::RebootPending { attempt, .. } => {
                let when = match self.reboots_at() {
                    None => String::new(),
                    Some(Some(until)) => format!("; by itself this host reboots after {until}"),
                    Some(None) => "; by itself this host never reboots".to_owned(),
                };
                let text = format!("a reboot is needed for {}{when}", attempt.target);
                told(StateWord::RebootPending, Code::RebootNeeded, text)
            }
            State::Confirming { attempt, passed: None, .. } => told(
                StateWord::Confirming,
                Code::InProgress,
                format!("checks the health after the step to {}", attempt.target),
            ),
            State::Confirming { attempt, passed: Some(_), .. } => told(
                StateWord::Confirming,
                Code::InProgress,
                format!("passes all checks after the step to {}, and soaks", attempt.target),
            ),
            State::RollingBack { reason, .. } => Some((StateWord::Switching, reason.clone())),
            State::Failed { reason, .. } => Some((StateWord::Failed, reason.clone())),
        }
    }

    fn next_command(&self, word: StateWord, code: Code) -> Option<String> {
        let name = &self.name;
        match word {
            StateWord::Converged => None,
            StateWord::Failed if code == Code::Unhealthy => Some(format!("agent health {name}")),
            StateWord::RolledBack | StateWord::Failed => Some(format!("agent retry {name}")),
            StateWord::Pinned => Some(format!("agent unpin {name}")),
            StateWord::Held | StateWord::Untrusted => Some(match &self.group {
                Some(group) => format!("registry verify {group}/{name}"),
                None => "agent status".to_owned(),
            }),
            StateWord::Stale => Some("agent once".to_owned()),
            StateWord::RebootPending => Some("systemctl reboot".to_owned()),
            StateWord::Confirming => Some(format!("agent health {name}")),
            StateWord::Switching => Some("agent status".to_owned()),
            StateWord::Fetching => Some(format!("agent retry {name}")),
            StateWord::Waiting => Some(self.next_of_waiting(code)),
        }
    }

    fn next_of_waiting(&self, code: Code) -> String {
        let name = &self.name;
        match code {
            Code::Conflict => "agent store verify".to_owned(),
            Code::DiskFull => "agent gc".to_owned(),
            Code::RefusedBytes | Code::StoreFailed => format!("agent retry {name}"),
            Code::Unsupported
            | Code::NotAllowed
            | Code::VersionWentBack
            | Code::UnitsRefused
            | Code::NoOneShot
            | Code::WindowClosed => {
                format!("agent plan {name}")
            }
            Code::ProfileClaimedTwice => "agent plan".to_owned(),
            Code::Untrusted
            | Code::NoFreshSource
            | Code::StateFailed
            | Code::PolicyHold
            | Code::Epoch
            | Code::Revoked
            | Code::Pinned
            | Code::Starting
            | Code::NoManifest
            | Code::PolicyStop
            | Code::Retired
            | Code::NotForThisHost
            | Code::ClosureIndex
            | Code::FetchFailed
            | Code::Ready
            | Code::InProgress
            | Code::ActivationFailed
            | Code::ActivationTimeout
            | Code::DeactivationFailed
            | Code::UserRefused
            | Code::HealthFailed
            | Code::Unhealthy
            | Code::RebootNeeded
            | Code::BootEntryGone
            | Code::Overtaken
            | Code::SwitchBusy
            | Code::Interrupted
            | Code::Unconfirmed
            | Code::NoDeadMan
            | Code::RollbackFailed
            | Code::JournalCorrupt => "agent once".to_owned(),
        }
    }
}

impl fmt::Display for EpochVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch == 0 {
            return write!(f, "{}", self.version);
        }
        write!(f, "{} of epoch {}", self.version, self.epoch)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wanted { wanted } => write!(f, "version {}", wanted.version),
            Self::Generation { running } => write!(f, "generation {}", running.generation),
            Self::Nothing => f.write_str("stop"),
        }
    }
}
