//! Programs: in units of their own where systemd runs them, else as children of ours. Those of an attempt
//! are found again by whoever goes on with it.

use shared::id::ProfileName;
use shared::problem::chain;
use tokio_util::sync::CancellationToken;

use super::exec::{self, Command, Failed};
use super::systemd::look;
use super::systemd::transient::{self, Leftovers, TransientError, Unit};
use super::{Failure, Job, Place, Undone, nixos};
use crate::state::{Code, Reason};

/// Runs a program that changes the host; `told` makes a failure of how it ended.
pub(super) async fn change(
    place: &Place<'_>,
    what: &str,
    command: &Command,
    leftovers: Leftovers,
    told: impl FnOnce(Failed) -> Failure,
) -> Result<String, Undone> {
    match place.job {
        Some(job) => job.run(place.profile, what, command, leftovers, told).await,
        None => exec::run(command).await.map_err(|failed| told(failed).into()),
    }
}

/// Runs a program that only looks, as a unit if systemd runs programs here.
pub(crate) async fn look(
    profile: &ProfileName,
    command: &Command,
    has_units: bool,
) -> Result<String, Failed> {
    if has_units { look::run(profile, command).await } else { exec::run(command).await }
}

/// Waits until no program is at work for one of these profiles.
pub(crate) async fn wait_out(
    profiles: &[ProfileName],
    leave: &CancellationToken,
) -> Result<(), TransientError> {
    let mut patterns: Vec<String> =
        profiles.iter().map(|profile| format!("{}*.service", prefix(profile))).collect();
    if profiles.iter().any(ProfileName::is_system) {
        patterns.push(nixos::UNIT.to_owned());
    }
    transient::wait_out(&patterns.iter().map(String::as_str).collect::<Vec<_>>(), leave).await
}

impl Job {
    async fn run(
        &self,
        profile: &ProfileName,
        what: &str,
        command: &Command,
        leftovers: Leftovers,
        told: impl FnOnce(Failed) -> Failure,
    ) -> Result<String, Undone> {
        let unit = Unit {
            name: format!("{}{what}.service", self.prefix(profile)),
            id: format!("{} {what}", self.id),
            description: format!("{what} `{profile}`"),
        };
        match transient::run(&unit, command, leftovers, &self.leave).await {
            Ok(log) => Ok(log),
            Err(TransientError::Left) => Err(Undone::Left),
            Err(TransientError::Failed(failed)) => Err(told(failed).into()),
            Err(
                error @ (TransientError::Busy { .. }
                | TransientError::Gone(_)
                | TransientError::Manager(_)),
            ) => Err(failure(format!("`{}`: {}", unit.name, chain(&error))).into()),
        }
    }

    /// Ends what an earlier job of this profile's has at work: nobody waits for it any more.
    pub(super) async fn tidy(&self, profile: &ProfileName) -> Result<(), Failure> {
        let (pattern, own) = (format!("{}*.service", prefix(profile)), self.prefix(profile));
        let tidied = transient::tidy(&pattern, |name| name.starts_with(&own)).await;
        tidied.map_err(|error| failure(format!("cannot tidy up `{pattern}`: {}", chain(&error))))
    }

    /// Returns whether a program of this job is at work, or its end waits to be read.
    pub(crate) async fn is_there(&self, profile: &ProfileName) -> bool {
        let pattern = format!("{}*.service", self.prefix(profile));
        transient::find(&pattern).await.is_ok_and(|found| !found.is_empty())
    }

    fn prefix(&self, profile: &ProfileName) -> String {
        format!("{}{}_", prefix(profile), self.id.replace(' ', "_"))
    }
}

/// Returns what the units of a profile's jobs begin with, and of no other's: no name holds a `_`.
fn prefix(profile: &ProfileName) -> String {
    format!("shoal-job-{profile}_")
}

fn failure(text: String) -> Failure {
    Failure { reason: Reason::new(Code::ActivationFailed, text), log: String::new() }
}
