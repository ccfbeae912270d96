//! Numbering, signing and sending.
//!
//! One request a report, over one kept connection: an outbox holds one report on most days, and
//! after an outage a few. Sending them together would save some heads of requests then, and cost
//! an answer for each part, a larger limit for what a stranger may send, and a second way into the
//! registry, which gathers the reports of all hosts into one transaction anyhow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use shared::api::Challenge;
use shared::certificate::{self, Certificate};
use shared::human;
use shared::id::{GroupName, ProfileName};
use shared::problem::Problem;
use shared::report::{self, Free, ProfileReport, Report, ReportError};
use shared::trust::dsse::{DsseError, Envelope};
use shared::version::SoftwareVersion;

use super::outbox::{Outbox, Waiting, Worth};
use super::{as_it_ended, certificate_path, clock, profile_report, trust_state};
use crate::client::{Source, TrustFacts};
use crate::config::Settings;
use crate::files::{self, FileError};
use crate::history;
use crate::host;
use crate::identity::{Identity, IdentityError};
use crate::state::Profile;
use crate::systems;

/// What was counted and told, below `state_dir`.
const TOLD: &str = "reports.json";

/// An envelope is some larger than what it holds.
const MAX_CERTIFICATE: usize = 2 * certificate::MAX_LEN;

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// The longest nonce that is repeated: it goes into a report.
const MAX_NONCE: usize = 128;

/// How far ahead of ours a registry's word moves the counter: nobody can use it up.
const MAX_LEAP: u64 = 1 << 32;

/// What JSON around a payload and its signature takes, with room.
const ENVELOPE: usize = 512;

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
    Refused { url: String, why: String, retry_after: Option<Duration> },
    /// The registry does not go by its own word.
    #[error("the registry challenges the answer to its own challenge")]
    Challenges,
    /// No source is configured.
    #[error("the configuration names no registry")]
    NoSource,
}

impl SendError {
    /// Returns when the registry wants to be asked again, if it said so.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::NotEnrolled(_)
            | Self::File(_)
            | Self::Identity(_)
            | Self::Certificate { .. }
            | Self::Report(_)
            | Self::Unreachable { .. }
            | Self::Challenges
            | Self::NoSource => None,
        }
    }
}

/// What was numbered and told so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    /// The number of the last report: what makes a replayed one visible.
    counter: u64,
    /// The attempt of each profile whose end was put into the outbox last.
    ended: BTreeMap<ProfileName, String>,
}

/// Signs and sends reports.
#[derive(Debug)]
pub(crate) struct Reporter {
    settings: Settings,
    sources: Vec<Source>,
    identity: Identity,
    certificate: Envelope,
    /// The groups that the certificate names.
    groups: BTreeSet<GroupName>,
}

/// How one source answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    /// Its counter does not count; the registry knows this one.
    Challenged {
        nonce: String,
        counter: Option<u64>,
    },
    /// It is refused, and will be however often it is sent.
    Hopeless(String),
}

impl Reporter {
    /// Prepares to report, if this host has enrolled.
    pub(crate) fn new(settings: &Settings, sources: &[Source]) -> Result<Self, SendError> {
        let path = certificate_path(&settings.state_dir);
        let bytes = files::read(&path, MAX_CERTIFICATE as u64)?;
        let bytes = bytes.ok_or_else(|| SendError::NotEnrolled(path.clone()))?;
        let damaged = |source| SendError::Certificate { path: path.clone(), source };
        let certificate = Envelope::parse(&bytes, MAX_CERTIFICATE).map_err(damaged)?;
        let payload = certificate.unverified_payload().map_err(damaged)?;
        let groups = Certificate::parse(&payload).map(|it| it.groups).unwrap_or_default();
        let identity = Identity::load(&settings.state_dir)?;
        let groups = groups.into_iter().collect();
        let (settings, sources) = (settings.clone(), sources.to_vec());
        Ok(Self { settings, sources, identity, certificate, groups })
    }

    /// Puts the state of all profiles into the outbox, and before it each attempt that has ended
    /// and was not told yet.
    ///
    /// # Errors
    /// When the disk did not take it; what has a number by then waits in memory.
    pub(crate) fn note(
        &self,
        outbox: &mut Outbox,
        profiles: &[Profile],
        facts: Option<&TrustFacts>,
    ) -> Result<(), SendError> {
        let _lock = outbox.lock();
        let mut told = self.told(outbox)?;
        let now = Timestamp::now();
        let mine = |report: &ProfileReport| self.groups.contains(&report.group);
        let current: Vec<ProfileReport> =
            profiles.iter().filter_map(|it| profile_report(it, now)).filter(mine).collect();
        let Ends { earlier, in_current, last } = self.ends(&current, &told)?;
        let mut failure = None;
        let mut put = |report: Report, worth| {
            let full = outbox.put(Waiting { report, worth });
            failure = failure.take().or(full.err());
        };
        for (profile, at) in earlier {
            told.counter += 1;
            let replaced = |it: &ProfileReport| {
                let same = (&it.group, &it.profile) == (&profile.group, &profile.profile);
                if same { profile.clone() } else { it.clone() }
            };
            let past = current.iter().map(replaced).collect();
            put(self.report(past, facts, told.counter, at)?, Worth::End);
        }
        told.counter += 1;
        let worth = if in_current { Worth::End } else { Worth::State };
        put(self.report(current, facts, told.counter, now)?, worth);
        told.ended.extend(last);
        // Behind the reports: a crash between them tells an end twice, and never not at all.
        let kept = self.keep(told, outbox);
        Ok(failure.map_or(kept, Err)?)
    }

    /// Sends what waits, the oldest first, until nothing does; leaves it to another process that is
    /// at it.
    ///
    /// # Errors
    /// When no source took one of them; it waits on.
    pub(crate) async fn send(&self, outbox: &mut Outbox) -> Result<(), SendError> {
        // A disk without room for the lock's file is no reason to send nothing.
        let sending = outbox.lock_sending();
        if matches!(sending, Ok(None)) {
            return Ok(());
        }
        // A source may ask for another number once, and for no more.
        let mut challenged = None;
        while let Some(waiting) = outbox.next() {
            let number = waiting.report.counter;
            match self.offer(&waiting.report).await? {
                Answer::Taken => outbox.taken(number),
                Answer::Hopeless(why) => {
                    tracing::warn!(number, why, "the registry will never take a report");
                    outbox.set_aside(number);
                }
                Answer::Challenged { nonce, .. } if challenged.as_ref() == Some(&nonce) => {
                    return Err(SendError::Challenges);
                }
                Answer::Challenged { nonce, counter } => {
                    self.answer(outbox, number, &nonce, counter.unwrap_or(0))?;
                    challenged = Some(nonce);
                }
            }
        }
        Ok(())
    }

    /// Numbers what waits anew, so that the registry takes it.
    fn answer(
        &self,
        outbox: &mut Outbox,
        number: u64,
        nonce: &str,
        seen: u64,
    ) -> Result<(), SendError> {
        let _lock = outbox.lock();
        let last = outbox.challenged(nonce, seen.min(number.saturating_add(MAX_LEAP)));
        let told = self.told(outbox)?;
        Ok(self.keep(told, outbox).and(last.map(drop))?)
    }

    /// Offers a report to one source after the other.
    async fn offer(&self, report: &Report) -> Result<Answer, SendError> {
        let path = self.realm_path();
        let envelope = self
            .identity
            .sign(report::PAYLOAD_TYPE, &report.to_bytes()?)
            .with_certificate(self.certificate.clone())
            .to_bytes();
        let mut failure = SendError::NoSource;
        for source in &self.sources {
            let url = source.url(&path).to_string();
            let posted = match source.post(&path, envelope.clone(), MAX_ANSWER).await {
                Ok(posted) => posted,
                Err(error) => {
                    failure = SendError::Unreachable { url, source: error.without_url() };
                    continue;
                }
            };
            match read_answer(posted.status, &posted.body) {
                Ok(answer) => return Ok(answer),
                Err(why) => {
                    failure = SendError::Refused { url, why, retry_after: posted.retry_after };
                }
            }
        }
        Err(failure)
    }

    fn realm_path(&self) -> String {
        format!("api/v1/realms/{}/reports", self.settings.realm)
    }

    /// Returns what was numbered and told: the file may be lost, or older than what is known.
    fn told(&self, outbox: &Outbox) -> Result<Told, FileError> {
        let stored = files::read(&self.settings.state_dir.join(TOLD), 1 << 20)?;
        let stored: Option<Told> = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let stored = stored.unwrap_or_default();
        let known = outbox.told.clone();
        let newer = if stored.counter < known.counter { known } else { stored };
        Ok(Told { counter: newer.counter.max(outbox.last().unwrap_or(0)), ..newer })
    }

    fn keep(&self, told: Told, outbox: &mut Outbox) -> Result<(), FileError> {
        let path = self.settings.state_dir.join(TOLD);
        let kept = files::replace(&path, &serde_json::to_vec(&told).unwrap_or_default());
        outbox.told = told;
        kept
    }

    /// Returns the attempts that have ended since the last report.
    fn ends(&self, current: &[ProfileReport], told: &Told) -> Result<Ends, FileError> {
        let mut ends = Ends::default();
        for profile in current {
            let history = history::read(&self.settings.state_dir, &profile.profile)?;
            let known = told.ended.get(&profile.profile);
            let known = history.iter().position(|entry| Some(&entry.attempt) == known);
            let shown = profile.attempt.as_ref().map(|attempt| &attempt.id);
            for entry in history.iter().skip(known.map_or(0, |known| known + 1)) {
                if shown == Some(&entry.attempt) {
                    ends.in_current = true;
                } else {
                    ends.earlier.push((as_it_ended(profile, entry), entry.at));
                }
                ends.last.insert(profile.profile.clone(), entry.attempt.clone());
            }
        }
        ends.earlier.sort_by_key(|(_, at)| *at);
        Ok(ends)
    }

    /// Writes a report that fits into its envelope: logs are cut first, then whole profiles are
    /// left out, those that need no eye before the others.
    fn report(
        &self,
        profiles: Vec<ProfileReport>,
        facts: Option<&TrustFacts>,
        counter: u64,
        at: Timestamp,
    ) -> Result<Report, ReportError> {
        let root = &self.settings.store.root;
        let mut report = Report {
            format: report::FORMAT,
            realm: self.settings.realm.clone(),
            host: self.identity.host_id(),
            name: self.settings.host.name.clone(),
            boot_id: host::boot_id(),
            counter,
            nonce: None,
            time: at.into(),
            agent: SoftwareVersion::current(),
            system: self.settings.host.system.clone(),
            labels: self.settings.host.labels.clone(),
            clock: clock(facts, Timestamp::now()),
            free: Free { store: host::free_space(root), boot: systems::free_for_kernels(root) },
            systems: systems::Systems::read(root).told(root),
            trust: trust_state(facts),
            profiles,
        };
        let around = self.certificate.to_bytes().len() + ENVELOPE + MAX_NONCE;
        // What is signed travels in base 64.
        fit(&mut report, report::MAX_LEN.saturating_sub(around) / 4 * 3)?;
        Ok(report)
    }
}

/// The attempts that have ended since the last report.
#[derive(Debug, Default)]
struct Ends {
    /// Those that the profiles do not show any more, oldest first.
    earlier: Vec<(ProfileReport, Timestamp)>,
    /// Whether a profile shows one as it is now.
    in_current: bool,
    /// The last one of each profile.
    last: BTreeMap<ProfileName, String>,
}

/// Cuts a report to so many bytes.
fn fit(report: &mut Report, max: usize) -> Result<(), ReportError> {
    let fits = |report: &Report| match report.to_bytes() {
        Ok(bytes) => Ok(bytes.len() <= max),
        Err(ReportError::Json(_)) => Ok(false),
        Err(error) => Err(error),
    };
    for log in [1024, 256, 0] {
        if fits(report)? {
            return Ok(());
        }
        for attempt in report.profiles.iter_mut().filter_map(|it| it.attempt.as_mut()) {
            attempt.log = human::tail(&attempt.log, log).to_owned();
        }
    }
    if fits(report)? {
        return Ok(());
    }
    report.profiles.sort_by_key(|profile| profile.state);
    while !report.profiles.is_empty() && !fits(report)? {
        let most = report.profiles.len() * 3 / 4;
        tracing::warn!(most, "a report has no room for all profiles");
        report.profiles.truncate(most);
    }
    Ok(())
}

/// Reads what one source says; the error is why it takes nothing now.
fn read_answer(status: StatusCode, body: &[u8]) -> Result<Answer, String> {
    if status.is_success() {
        return Ok(Answer::Taken);
    }
    if status == StatusCode::UNAUTHORIZED
        && let Some((nonce, counter)) = challenge(body)
    {
        return Ok(Answer::Challenged { nonce, counter });
    }
    // A mirror that serves files alone says what it likes; only a registry sends problems.
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return Err(status.to_string());
    };
    let malformed = [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNPROCESSABLE_ENTITY];
    if malformed.contains(&status) || report::HOPELESS.contains(&problem.code.as_str()) {
        return Ok(Answer::Hopeless(problem.what));
    }
    Err(problem.what)
}

/// Returns the nonce that an answer asks for, if it is one that can be repeated.
fn challenge(body: &[u8]) -> Option<(String, Option<u64>)> {
    let Challenge { nonce, counter, .. } = serde_json::from_slice(body).ok()?;
    (nonce.len() <= MAX_NONCE).then_some((nonce, counter))
}

#[cfg(test)]
mod tests;
