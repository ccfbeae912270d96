//! After a boot: starts again what ran before it, without registry or daemon.

use std::sync::Arc;

use shared::id::ProfileName;
use shared::problem::chain;

use super::session::{Session, work_of_running, work_of_target};
use super::{ConvergeError, Converger, Inner};
use crate::activate::Work;
use crate::state::{Activation, Link, Profile, State};

/// What became of one profile; the text says why not.
type Outcome = (ProfileName, Result<(), String>);

impl Converger {
    /// Starts the units of every profile that has some.
    pub(crate) async fn boot(&self) -> Result<Vec<Outcome>, ConvergeError> {
        let mut outcomes = Vec::new();
        for name in self.inner.journal.names()? {
            let (inner, profile) = (Arc::clone(&self.inner), name.clone());
            let started = tokio::task::spawn_blocking(move || boot(inner, profile)).await;
            match started.map_err(ConvergeError::Worker)? {
                Ok(true) => outcomes.push((name, Ok(()))),
                Ok(false) => {}
                Err(why) => outcomes.push((name, Err(why))),
            }
        }
        Ok(outcomes)
    }
}

/// Starts one; returns whether it has units.
fn boot(inner: Arc<Inner>, name: ProfileName) -> Result<bool, String> {
    // Without a wait for others: what is at work may be what starts us, and nothing is switched here.
    let session = Session::open(inner, name, None).map_err(|error| chain(&error))?;
    let link = session.link().map_err(|error| chain(&error))?;
    let mut profile = session.profile.clone();
    let Some(work) = to_start(&mut profile, link.as_ref()) else { return Ok(false) };
    let Activation::Systemd { .. } = work.activation else { return Ok(false) };
    session.start_at_boot(work).map_err(|error| chain(&error))??;
    Ok(true)
}

/// Returns what is to run until the daemon goes on.
fn to_start<'a>(profile: &'a mut Profile, link: Option<&Link>) -> Option<Work<'a>> {
    if let State::Starting
    | State::Steady { .. }
    | State::Fetching { .. }
    | State::Staged { .. }
    | State::Failed { .. } = &profile.state
    {
        profile.observe(link);
    }
    match &profile.state {
        // Activated already, and to be checked next: what is checked must run.
        State::Confirming { attempt, .. } | State::RebootPending { attempt, .. } => {
            work_of_target(&attempt.target)
        }
        // Nobody knows how far it came; the last good one is good.
        State::Switching { attempt } | State::RollingBack { attempt, .. } => {
            attempt.from.as_ref().map(work_of_running)
        }
        State::Starting
        | State::Steady { .. }
        | State::Fetching { .. }
        | State::Staged { .. }
        | State::Failed { .. } => profile.running.as_ref().map(work_of_running),
    }
}
