//! What this host says of itself: signed with its key, sent on change and as a heartbeat.
//!
//! A report grants nothing and nothing waits for it: a registry that takes none changes nothing on
//! this host.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::api::Challenge;
use shared::certificate;
use shared::human;
use shared::problem::Problem;
use shared::report::{self, Attempt, Clock, Free, ProfileReport, Report, ReportError, TrustState};
use shared::time::Time;
use shared::trust::dsse::{DsseError, Envelope};
use shared::version::SoftwareVersion;

use crate::client::{Source, TrustFacts};
use crate::config::Settings;
use crate::files::{self, FileError};
use crate::host;
use crate::identity::{Identity, IdentityError};
use crate::state::{EpochVersion, Phase, Profile, Running, Wanted};

/// The host's certificate, below `state_dir`.
const CERTIFICATE: &str = "host.cert";

/// The counter of reports, below `state_dir`.
const COUNTER: &str = "reports.json";

/// An envelope is some larger than what it holds.
const MAX_CERTIFICATE: usize = 2 * certificate::MAX_LEN;

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// The longest nonce that is repeated: it is kept in a small file, and goes into a report.
const MAX_NONCE: usize = 128;

/// How much of the log of an attempt goes into a report.
const MAX_LOG: usize = 4096;

/// How far the signed time may be ahead before the clock is under suspicion.
const SUSPECT: i64 = 300;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// This host has not enrolled.
    #[error("this host has no certificate at `{}`", .0.display())]
    NotEnrolled(PathBuf),
    /// A file of the agent's own could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no host key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is damaged.
    #[error("`{}` is no certificate", path.display())]
    Certificate { path: PathBuf, source: DsseError },
    /// The report breaks its own rules.
    #[error("cannot write a report")]
    Report(#[from] ReportError),
    /// Nobody could be reached.
    #[error("cannot send a report to `{url}`")]
    Unreachable { url: String, source: reqwest::Error },
    /// The registry refused it.
    #[error("`{url}` refuses the report: {why}")]
    Refused { url: String, why: String },
    /// No source is configured.
    #[error("the configuration names no registry")]
    NoSource,
}

/// The counter of reports: what makes a replayed one visible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Counter {
    boot_id: String,
    counter: u64,
    nonce: Option<String>,
}

/// Signs and sends reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    settings: Settings,
    sources: Vec<Source>,
    identity: Identity,
    certificate: Envelope,
}

/// How one source answered.
enum Answer {
    Taken,
    Challenged(String),
}

impl Reporter {
    /// Prepares to report, if this host has enrolled.
    pub(crate) fn new(settings: &Settings, sources: &[Source]) -> Result<Self, SendError> {
        let path = certificate_path(&settings.state_dir);
        let bytes = files::read(&path, MAX_CERTIFICATE as u64)?;
        let bytes = bytes.ok_or_else(|| SendError::NotEnrolled(path.clone()))?;
        let certificate = Envelope::parse(&bytes, MAX_CERTIFICATE)
            .map_err(|source| SendError::Certificate { path, source })?;
        let identity = Identity::load(&settings.state_dir)?;
        Ok(Self { settings: settings.clone(), sources: sources.to_vec(), identity, certificate })
    }

    /// Sends the state of all profiles to the first source that takes it.
    pub(crate) async fn send(
        &self,
        profiles: Vec<ProfileReport>,
        facts: Option<&TrustFacts>,
    ) -> Result<(), SendError> {
        let mut failure = SendError::NoSource;
        for source in &self.sources {
            match self.send_to(source, &profiles, facts).await {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn send_to(
        &self,
        source: &Source,
        profiles: &[ProfileReport],
        facts: Option<&TrustFacts>,
    ) -> Result<(), SendError> {
        // A challenged report is repeated once, with the nonce.
        for _ in 0..2 {
            let counter = self.count(None)?;
            let report = self.report(profiles, facts, &counter);
            match self.post(source, &report).await? {
                Answer::Taken if counter.nonce.is_none() => return Ok(()),
                Answer::Taken => return self.count(Some(None)).map(drop),
                Answer::Challenged(nonce) => drop(self.count(Some(Some(nonce)))?),
            }
        }
        let url = source.base().to_string();
        Err(SendError::Refused { url, why: "it challenges every counter".to_owned() })
    }

    async fn post(&self, source: &Source, report: &Report) -> Result<Answer, SendError> {
        let path = format!("api/v1/realms/{}/reports", self.settings.realm);
        let url = source.url(&path).to_string();
        let envelope = self
            .identity
            .sign(report::PAYLOAD_TYPE, &report.to_bytes()?)
            .with_certificate(self.certificate.clone());
        let (status, body) = match source.post(&path, envelope.to_bytes(), MAX_ANSWER).await {
            Ok(answer) => answer,
            Err(error) => return Err(SendError::Unreachable { url, source: error.without_url() }),
        };
        if status.is_success() {
            return Ok(Answer::Taken);
        }
        if status.as_u16() == 401
            && let Some(nonce) = challenge(&body)
        {
            return Ok(Answer::Challenged(nonce));
        }
        let why = serde_json::from_slice::<Problem>(&body)
            .map_or_else(|_| status.to_string(), |problem| problem.what);
        Err(SendError::Refused { url, why })
    }

    /// Takes the next number, on disk before it is used; `nonce` replaces what must be repeated.
    fn count(&self, nonce: Option<Option<String>>) -> Result<Counter, SendError> {
        let path = self.settings.state_dir.join(COUNTER);
        let stored = files::read(&path, 4096)?;
        let mut counter: Counter =
            stored.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        match nonce {
            Some(nonce) => counter.nonce = nonce,
            None => counter.counter = counter.counter.saturating_add(1),
        }
        counter.boot_id = host::boot_id();
        files::replace(&path, &serde_json::to_vec(&counter).unwrap_or_default())?;
        Ok(counter)
    }

    fn report(
        &self,
        profiles: &[ProfileReport],
        facts: Option<&TrustFacts>,
        counter: &Counter,
    ) -> Report {
        let now = Timestamp::now();
        Report {
            format: report::FORMAT,
            realm: self.settings.realm.clone(),
            host: self.identity.host_id(),
            name: self.settings.host.name.clone(),
            boot_id: counter.boot_id.clone(),
            counter: counter.counter,
            nonce: counter.nonce.clone(),
            time: now.into(),
            agent: SoftwareVersion::current(),
            system: self.settings.host.system.clone(),
            labels: self.settings.host.labels.clone(),
            clock: clock(facts, now),
            free: Free { store: host::free_space(&self.settings.store.root), boot: None },
            trust: trust_state(facts),
            profiles: profiles.to_vec(),
        }
    }
}

/// Returns the nonce that an answer asks for, if it is one that can be repeated.
fn challenge(body: &[u8]) -> Option<String> {
    let Challenge { nonce, .. } = serde_json::from_slice(body).ok()?;
    (nonce.len() <= MAX_NONCE).then_some(nonce)
}

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

    use super::*;

    #[test]
    fn a_nonce_that_would_not_fit_is_no_challenge() {
        let answer = |length| {
            let problem = Problem::new(shared::problem::Kind::Conflict, "challenge", "repeat it");
            serde_json::to_vec(&Challenge { problem, nonce: "n".repeat(length) }).unwrap()
        };
        assert_eq!(challenge(&answer(MAX_NONCE)), Some("n".repeat(MAX_NONCE)));
        assert_eq!(challenge(&answer(MAX_NONCE + 1)), None);
        assert_eq!(challenge(b"{}"), None);
    }

    #[test]
    fn a_profile_of_no_group_is_not_reported() {
        let name = ProfileName::parse("web").unwrap();
        let mut profile = Profile::new(None, name, Timestamp::UNIX_EPOCH);
        assert!(profile_report(&profile, Timestamp::UNIX_EPOCH).is_none());
        profile.group = Some("eu".parse().unwrap());
        let told = profile_report(&profile, Timestamp::UNIX_EPOCH).unwrap();
        assert!(told.reason.is_some() && told.next.is_some(), "{told:?}");
    }
}
