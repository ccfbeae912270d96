//! Health checks, driven without the host's lock: what they find is told to the machine under it.

use std::time::Duration;

use shared::health::{Check, Probe};
use shared::human;
use shared::id::ProfileName;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::{ConvergeError, Converger, Inner, LOOK_AGAIN, now};
use crate::activate;
use crate::health::units::Manager;
use crate::health::{Judge, Prober, Pulse, Runner, Subject, Tried, Verdict};
use crate::state::{
    Activation, Checkup, Code, Event, Examination, Profile, Reason, Running, State,
};

/// After how long the checks of a switch count as begun by somebody else.
const RESUMED: Duration = Duration::from_secs(5);

/// Most output of failing checks that is kept for journal and report.
const MAX_LOG: usize = 4096;

/// One check and one try of it.
#[derive(Debug)]
pub(crate) struct Found {
    /// The check.
    pub(crate) check: Check,
    /// How it went.
    pub(crate) tried: Tried,
}

impl Converger {
    /// Runs the checks that the profile waits for until it is clear what they mean.
    ///
    /// Returns nothing if somebody else decided meanwhile; an error if it was stopped.
    pub(super) async fn examine(
        &self,
        profile: &Profile,
        examination: &Examination,
        stop: &CancellationToken,
    ) -> Result<Option<Event>, ConvergeError> {
        let Examination { id, checkup, begun, passed, .. } = examination;
        let health = &checkup.health;
        let since = |time| Duration::try_from(time).unwrap_or_default();
        let offset = since(now().duration_since(*begun));
        let passed = passed.map(|passed| since(passed.duration_since(*begun)));
        let mut judge = Judge::new(health, passed, offset > RESUMED);
        let prober = self.prober(profile, &examination.running()).await?;
        let mut runner = Runner::start(prober, &health.checks);
        let mut logs = vec![String::new(); health.checks.len()];
        let (start, mut looked, mut told) = (Instant::now(), Instant::now(), passed.is_some());
        loop {
            let elapsed = offset.saturating_add(start.elapsed());
            match judge.judge(elapsed) {
                Some(Verdict::Healthy) => return Ok(Some(Event::Healthy(id.clone()))),
                Some(Verdict::Unhealthy(text)) => {
                    let reason = Reason::new(Code::HealthFailed, text);
                    return Ok(Some(Event::Unhealthy(id.clone(), reason, end_of(&logs))));
                }
                None => {}
            }
            if judge.passed().is_some() && !told {
                told = true;
                let event = Event::Passed(id.clone());
                self.locked(profile.name.clone(), None, |it| it.feed(event)).await?;
            }
            let pause = judge.wakes_at().checked_sub(elapsed).filter(|pause| !pause.is_zero());
            let pause = pause.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
            // Cancel safe: a try that is not taken stays, and the others only wait.
            tokio::select! {
                () = stop.cancelled() => return Err(ConvergeError::Stopped),
                (index, tried) = runner.next() => {
                    judge.note(index, &tried.outcome);
                    note(&mut logs, index, health.checks.get(index), &tried);
                }
                () = sleep(pause) => {}
            }
            if looked.elapsed() >= LOOK_AGAIN {
                looked = Instant::now();
                let current = self.inner.journal.read(&profile.name)?;
                let current = current.and_then(|profile| profile.examination());
                if current.is_none_or(|current| current.id != *id) {
                    return Ok(None);
                }
            }
        }
    }

    /// Goes on checking what was confirmed, and tells the machine when it falls ill or recovers.
    ///
    /// `look` wakes it to see whether something else runs by now; `told` hears of every change.
    pub(super) async fn watch(
        &self,
        name: &ProfileName,
        look: &Notify,
        cancel: &CancellationToken,
        told: &impl Fn(Result<Profile, ConvergeError>),
    ) {
        let mut watched: Option<(Running, Runner, Pulse)> = None;
        loop {
            // A journal that cannot be read is told by whoever drives the profile.
            let profile = self.inner.journal.read(name).ok().flatten();
            let subject = profile.as_ref().and_then(to_watch);
            if subject != watched.as_ref().map(|(running, ..)| running) {
                watched = None;
                if let (Some(profile), Some(running)) = (&profile, subject)
                    && let Ok(prober) = self.prober(profile, running).await
                {
                    let health = &running.checkup.health;
                    let runner = Runner::start(prober, &health.checks);
                    watched = Some((running.clone(), runner, Pulse::new(health)));
                }
            }
            let Some((running, runner, pulse)) = &mut watched else {
                // Cancel safe: both only wait.
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = look.notified() => {}
                }
                continue;
            };
            // Cancel safe: a try that is not taken stays, and the others only wait.
            let (index, tried) = tokio::select! {
                () = cancel.cancelled() => return,
                () = look.notified() => continue,
                tried = runner.next() => tried,
            };
            pulse.note(index, &tried.outcome);
            let Some(found) = pulse.look() else { continue };
            let found = found.err().map(|text| Reason::new(Code::Unhealthy, text));
            if profile.is_some_and(|profile| profile.unhealthy != found) {
                told(self.note(name, running.generation, found).await);
            }
        }
    }

    /// Tries the checks of what runs, each until it passes or has used up its tries, and tells
    /// the machine what that means.
    pub(crate) async fn look(&self, profile: &Profile) -> Result<Profile, ConvergeError> {
        let Some(running) = to_watch(profile) else { return Ok(profile.clone()) };
        let prober = self.prober(profile, running).await?;
        let mut pulse = Pulse::new(&running.checkup.health);
        let mut runner = Runner::start(prober, &running.checkup.health.checks);
        let found = loop {
            let (index, tried) = runner.next().await;
            pulse.note(index, &tried.outcome);
            if let Some(found) = pulse.look() {
                break found.err().map(|text| Reason::new(Code::Unhealthy, text));
            }
        };
        if profile.unhealthy == found {
            return Ok(profile.clone());
        }
        self.note(&profile.name, running.generation, found).await
    }

    /// Tries each check of what is at work once, and changes nothing.
    pub(crate) async fn try_once(&self, profile: &Profile) -> Result<Vec<Found>, ConvergeError> {
        let examined = profile.examination().map(|examination| examination.running());
        let Some(running) = examined.or_else(|| profile.running.clone()) else {
            return Ok(Vec::new());
        };
        let prober = self.prober(profile, &running).await?;
        let mut found = Vec::new();
        for check in &running.checkup.health.checks {
            let tried = prober.attempt(check).await;
            found.push(Found { check: check.clone(), tried });
        }
        Ok(found)
    }

    async fn note(
        &self,
        name: &ProfileName,
        generation: u64,
        found: Option<Reason>,
    ) -> Result<Profile, ConvergeError> {
        let note = move |session: &mut Session| session.feed(Event::Looked(generation, found));
        self.locked(name.clone(), None, note).await
    }

    /// Prepares to check a root of a profile.
    async fn prober(&self, profile: &Profile, it: &Running) -> Result<Prober, ConvergeError> {
        let inner = std::sync::Arc::clone(&self.inner);
        let (profile, it) = (profile.clone(), it.clone());
        let prepare = move || {
            let host = inner.host(&profile.name)?;
            let chosen = activate::choose(&host, it.checkup.user.as_ref(), it.checkup.privileged);
            let account = chosen.as_ref().ok().copied().flatten();
            let manager = match account {
                Some(account) => Manager::User(account.uid),
                None if host.uid == 0 => Manager::System,
                None => Manager::User(host.uid),
            };
            let subject = Subject {
                root: inner.place.root.clone(),
                state_dir: inner.place.state_dir.clone(),
                group: profile.group,
                profile: profile.name,
                path: it.path,
                version: it.version,
                account,
                refused: chosen.err().map(|error| error.to_string()),
                manager,
            };
            Ok(Prober::new(inner.place.tools.clone(), subject))
        };
        tokio::task::spawn_blocking(prepare).await.map_err(ConvergeError::Worker)?
    }
}

impl Inner {
    /// Reads who we are, who else exists, and which users other profiles have.
    pub(super) fn host(&self, profile: &ProfileName) -> Result<activate::Host, ConvergeError> {
        let mut taken = Vec::new();
        for name in self.journal.names()? {
            if name != *profile
                && let Ok(Some(other)) = self.journal.read(&name)
                && let Some(running) = other.running
            {
                let by_checks =
                    running.checkup.user.filter(|_| needs_user(&running.checkup.health));
                let user = match running.activation {
                    Activation::None | Activation::Nixos { .. } => by_checks,
                    Activation::Exec { user, .. } | Activation::Systemd { user, .. } => user,
                };
                taken.extend(user.map(|user| (name, user)));
            }
        }
        activate::Host::read(taken).map_err(ConvergeError::Prepare)
    }
}

impl Examination {
    /// Returns what is examined as if it were confirmed.
    fn running(&self) -> Running {
        Running {
            version: self.version,
            path: self.path.clone(),
            generation: 0,
            activation: Activation::None,
            checkup: self.checkup.clone(),
            unsure: false,
        }
    }
}

impl Checkup {
    /// Tells whether any of its checks is made as the profile's user.
    pub(super) fn needs_user(&self) -> bool {
        needs_user(&self.health)
    }
}

fn needs_user(health: &shared::health::Health) -> bool {
    health
        .checks
        .iter()
        .any(|check| matches!(check.probe, Probe::Command { .. } | Probe::Unit { .. }))
}

/// Returns what of a profile was confirmed, runs, and has checks.
fn to_watch(profile: &Profile) -> Option<&Running> {
    match &profile.state {
        State::Steady { .. } | State::Fetching { .. } | State::Staged { .. } => {
            profile.running.as_ref().filter(|it| !it.checkup.health.checks.is_empty())
        }
        State::Starting
        | State::Switching { .. }
        | State::RebootPending { .. }
        | State::Confirming { .. }
        | State::RollingBack { .. }
        | State::Failed { .. } => None,
    }
}

fn note(logs: &mut [String], index: usize, check: Option<&Check>, tried: &Tried) {
    let Some((log, check)) = logs.get_mut(index).zip(check) else { return };
    log.clear();
    if let Err(problem) = &tried.outcome {
        *log = format!("{}: {problem}\n{}\n", check.name, tried.log);
    }
}

/// Puts the last output of all failing checks together, within bounds.
fn end_of(logs: &[String]) -> String {
    human::tail(&logs.concat(), MAX_LOG).trim_end().to_owned()
}
