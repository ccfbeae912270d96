//! A profile as the report and `--json` show it.

use jiff::Timestamp;
use shared::report;
use shared::time::Time;

use super::{Profile, Reason, Record, Running, Wanted};

impl Profile {
    /// Returns what the report says of the profile, if it follows a group.
    pub(crate) fn report(&self, now: Timestamp) -> Option<report::ProfileReport> {
        let explained = self.explain(now);
        Some(report::ProfileReport {
            group: self.group.clone()?,
            profile: self.name.clone(),
            state: explained.word,
            since: explained.since.into(),
            reason: explained.reason.as_ref().map(Reason::report),
            next: explained.next,
            wanted: self.wanted.as_ref().map(Wanted::report),
            running: self.running.as_ref().map(Running::report),
            healthy_since: self.healthy_since.map(Time::from),
            attempt: self.record.as_ref().map(|record| record.report(now)),
        })
    }
}

impl Reason {
    fn report(&self) -> report::Reason {
        report::Reason { code: self.code.name().to_owned(), text: self.text.clone() }
    }
}

impl Wanted {
    fn report(&self) -> report::Wanted {
        report::Wanted {
            epoch: self.version.epoch,
            version: self.version.version,
            path: Some(self.path.clone()),
        }
    }
}

impl Running {
    fn report(&self) -> report::Running {
        report::Running {
            epoch: self.version.map(|version| version.epoch),
            version: self.version.map(|version| version.version),
            path: self.path.clone(),
            generation: self.generation,
        }
    }
}

impl Record {
    fn report(&self, now: Timestamp) -> report::Attempt {
        let ends = self.phases.iter().skip(1).map(|next| next.at).chain([now]);
        let phases = self.phases.iter().zip(ends).map(|(phase, end)| {
            let seconds = end.as_second().saturating_sub(phase.at.as_second());
            let seconds = u64::try_from(seconds).unwrap_or_default();
            (phase.word.to_string(), phase.at.into(), seconds)
        });
        report::Attempt { id: self.id.clone(), phases: phases.collect(), log: self.log.clone() }
    }
}
