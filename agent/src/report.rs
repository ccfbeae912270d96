//! What this host says of itself: signed with its key, sent on change and as a heartbeat.
//!
//! A report grants nothing and nothing waits for it: a registry that takes none changes nothing on
//! this host. What no registry has taken yet waits in the [`Outbox`].

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use shared::human;
use shared::report::{self, Attempt, Clock, ProfileReport, TrustState};
use shared::state_word::StateWord;
use shared::time::Time;

use crate::client::TrustFacts;
use crate::history::{End, Entry, Outcome};
use crate::host;
use crate::state::{EpochVersion, Phase, Profile, Running, Wanted};

mod outbox;
mod pace;
mod send;

pub(crate) use self::outbox::Outbox;
pub(crate) use self::pace::Pace;
pub(crate) use self::send::{Reporter, SendError};

/// The host's certificate, below `state_dir`.
const CERTIFICATE: &str = "host.cert";

/// How much of the log of an attempt goes into a report.
const MAX_LOG: usize = 4096;

/// How far the signed time may be ahead before the clock is under suspicion.
const SUSPECT: i64 = 300;

/// Tells of all profiles, as they are now.
pub(crate) fn profile_reports(profiles: &[Profile]) -> Vec<ProfileReport> {
    let now = Timestamp::now();
    profiles.iter().filter_map(|profile| profile_report(profile, now)).collect()
}

/// Returns where the host's certificate is kept.
pub(crate) fn certificate_path(state_dir: &Path) -> PathBuf {
    state_dir.join(CERTIFICATE)
}

fn clock(facts: Option<&TrustFacts>, now: Timestamp) -> Clock {
    let signed = facts.and_then(|facts| facts.signed_at);
    if signed.is_some_and(|signed| signed.as_second() > now.as_second() + SUSPECT) {
        return Clock::Suspect;
    }
    if host::is_clock_synchronised() { Clock::Synchronized } else { Clock::Unknown }
}

fn trust_state(facts: Option<&TrustFacts>) -> TrustState {
    let number = |version: u64| u32::try_from(version).ok();
    TrustState {
        root: facts.and_then(|facts| number(facts.root)).unwrap_or(0),
        timestamp: facts.and_then(|facts| number(facts.timestamp)),
        snapshot: facts.and_then(|facts| facts.snapshot),
        signed_at: facts.and_then(|facts| facts.signed_at).map(Time::from),
    }
}

/// Tells of one profile; one that follows no group is nobody's business.
fn profile_report(profile: &Profile, now: Timestamp) -> Option<ProfileReport> {
    let explained = profile.explain(now);
    Some(ProfileReport {
        group: profile.group.clone()?,
        profile: profile.name.clone(),
        state: explained.word,
        since: explained.since.into(),
        reason: explained
            .reason
            .map(|reason| report::Reason { code: reason.code.to_string(), text: reason.text }),
        next: explained.next,
        wanted: profile.wanted.as_ref().map(wanted),
        running: profile.running.as_ref().map(running),
        healthy_since: profile.healthy_since.map(Time::from),
        attempt: profile.record.as_ref().map(|record| Attempt {
            id: record.id.clone(),
            phases: phases(&record.phases),
            log: human::tail(&record.log, MAX_LOG).to_owned(),
        }),
    })
}

/// Tells of a profile as the end of an attempt left it, when `now` tells of what came later.
fn as_it_ended(now: &ProfileReport, entry: &Entry) -> ProfileReport {
    let name = &now.profile;
    let (state, ran, next) = match entry.outcome {
        Outcome::Confirmed => (StateWord::Converged, entry.to.as_ref(), None),
        Outcome::Stopped => (StateWord::Converged, None, None),
        Outcome::Unhealthy => {
            (StateWord::Failed, entry.to.as_ref(), Some(format!("agent health {name}")))
        }
        Outcome::RolledBack => {
            (StateWord::RolledBack, entry.from.as_ref(), Some(format!("agent retry {name}")))
        }
        Outcome::Failed => (StateWord::Failed, None, Some(format!("agent logs {name}"))),
        Outcome::Undone => {
            (StateWord::Waiting, entry.from.as_ref(), Some(format!("agent logs {name}")))
        }
    };
    let reason = entry
        .reason
        .as_ref()
        .map(|reason| report::Reason { code: reason.code.to_string(), text: reason.text.clone() });
    let unexplained = || report::Reason {
        code: "attempt_ended".to_owned(),
        text: "the attempt came to nothing, and left no reason".to_owned(),
    };
    ProfileReport {
        group: now.group.clone(),
        profile: name.clone(),
        state,
        since: entry.at.into(),
        reason: match next {
            Some(_) => reason.or_else(|| Some(unexplained())),
            None => reason,
        },
        next,
        wanted: entry.to.as_ref().and_then(|to| {
            let EpochVersion { epoch, version } = to.version?;
            Some(report::Wanted { epoch, version, path: Some(to.path.clone()) })
        }),
        running: ran.and_then(ran_there),
        healthy_since: None,
        attempt: Some(Attempt {
            id: entry.attempt.clone(),
            phases: phases(&entry.phases),
            log: human::tail(&entry.log, MAX_LOG).to_owned(),
        }),
    }
}

fn ran_there(end: &End) -> Option<report::Running> {
    Some(report::Running {
        epoch: end.version.map(|version| version.epoch),
        version: end.version.map(|version| version.version),
        path: end.path.clone(),
        generation: end.generation?,
    })
}

/// Tells what a manifest wants.
pub(crate) fn wanted(wanted: &Wanted) -> report::Wanted {
    let EpochVersion { epoch, version } = wanted.version;
    report::Wanted { epoch, version, path: Some(wanted.path.clone()) }
}

/// Tells what runs.
pub(crate) fn running(running: &Running) -> report::Running {
    report::Running {
        epoch: running.version.map(|version| version.epoch),
        version: running.version.map(|version| version.version),
        path: running.path.clone(),
        generation: running.generation,
    }
}

/// Each phase with its length in seconds; the last one has none yet.
fn phases(phases: &[Phase]) -> Vec<(String, Time, u64)> {
    let length = |from: &Phase, to: Option<&Phase>| {
        let passed = to.map_or(0, |to| to.at.as_second().saturating_sub(from.at.as_second()));
        u64::try_from(passed).unwrap_or(0)
    };
    let ends = phases.iter().skip(1).map(Some).chain([None]);
    let pairs = phases.iter().zip(ends);
    pairs
        .map(|(phase, end)| (phase.word.to_string(), phase.at.into(), length(phase, end)))
        .collect()
}

#[cfg(test)]
mod tests {
    use shared::id::ProfileName;

    use crate::state::{Code, Reason};

    use super::*;

    #[test]
    fn a_profile_of_no_group_is_not_reported() {
        let name = ProfileName::parse("web").unwrap();
        let mut profile = Profile::new(None, name, Timestamp::UNIX_EPOCH);
        assert!(profile_report(&profile, Timestamp::UNIX_EPOCH).is_none());
        profile.group = Some("eu".parse().unwrap());
        let told = profile_report(&profile, Timestamp::UNIX_EPOCH).unwrap();
        assert!(told.reason.is_some() && told.next.is_some(), "{told:?}");
    }

    #[test]
    fn every_end_of_an_attempt_is_told_with_its_reason_and_the_next_command() {
        let name = ProfileName::parse("web").unwrap();
        let mut profile = Profile::new(None, name, Timestamp::UNIX_EPOCH);
        profile.group = Some("eu".parse().unwrap());
        let now = profile_report(&profile, Timestamp::UNIX_EPOCH).unwrap();
        let end = |generation| End {
            version: None,
            generation: Some(generation),
            path: "/nix/store/0a455acx720hx0zfwn0q7gn8y2jrvllr-web".parse().unwrap(),
        };
        let told = |outcome, reason| {
            let (from, to) = (Some(end(1)), Some(end(2)));
            let (attempt, at, log) = ("a".to_owned(), Timestamp::UNIX_EPOCH, "log".to_owned());
            let phases = Vec::new();
            let told =
                as_it_ended(&now, &Entry { attempt, at, from, to, outcome, reason, phases, log });
            assert_eq!(told.attempt.as_ref().unwrap().id, "a");
            let explained = told.reason.is_some() && told.next.is_some();
            assert!(explained || told.state == StateWord::Converged, "{told:?}");
            (told.state, told.running.map(|running| running.generation))
        };
        let reason = || Some(Reason::new(Code::HealthFailed, "502"));
        assert_eq!(told(Outcome::Confirmed, None), (StateWord::Converged, Some(2)));
        assert_eq!(told(Outcome::RolledBack, reason()), (StateWord::RolledBack, Some(1)));
        assert_eq!(told(Outcome::Unhealthy, reason()), (StateWord::Failed, Some(2)));
        assert_eq!(told(Outcome::Failed, None), (StateWord::Failed, None));
        assert_eq!(told(Outcome::Undone, None), (StateWord::Waiting, Some(1)));
        assert_eq!(told(Outcome::Stopped, None), (StateWord::Converged, None));
    }
}
