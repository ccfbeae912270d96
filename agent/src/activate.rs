//! Putting a generation to work, and taking it out of work.
//!
//! Four kinds: `none` is the profile link alone, `exec` runs programs of the root, `systemd` starts
//! its units, `nixos` switches the whole machine. Nothing of a team runs as root unless the owners
//! said so.

mod exec;
mod job;
mod leftover;
pub(crate) mod nixos;
mod systemd;
mod user;

use std::path::{Path, PathBuf};

use shared::id::{GroupName, ProfileName};
use shared::nix::StorePath;
use tokio_util::sync::CancellationToken;

use crate::state::{Activation, Code, EpochVersion, Reason};

pub(crate) use self::exec::{Command, Failed, PATH, Purpose};
pub(crate) use self::job::{look, wait_out};
pub(crate) use self::leftover::end as end_leftover;
pub(crate) use self::systemd::apply::{Request as UnitsRequest, apply as apply_units};
use self::systemd::transient::Leftovers;
pub(crate) use self::systemd::transient::TransientError;
pub(crate) use self::systemd::{HostUnits, check as check_units};
pub(crate) use self::user::{Account, Host, choose};

/// Something that was, or is to be, at work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    /// Its root.
    pub(crate) path: &'a StorePath,
    /// How it is put to work.
    pub(crate) activation: &'a Activation,
    /// Its version, if it is known.
    pub(crate) version: Option<EpochVersion>,
}

/// Where all of it happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The store root.
    pub(crate) root: &'a Path,
    /// The agent's state folder.
    pub(crate) state_dir: &'a Path,
    /// The profile's link.
    pub(crate) link: &'a Path,
    /// The group, if one is followed.
    pub(crate) group: Option<&'a GroupName>,
    /// The profile.
    pub(crate) profile: &'a ProfileName,
    /// Who we are and who else is here.
    pub(crate) host: &'a Host,
    /// For what, where systemd runs all programs; without it they are our children.
    pub(crate) job: Option<&'a Job>,
}

/// What programs are run for by systemd, so that whoever does the same again finds them.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// The attempt, and the step of it.
    pub(crate) id: String,
    /// When to leave them to the next one who does the same.
    pub(crate) leave: CancellationToken,
}

/// Why a generation could not be put to work, and the last lines that it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) reason: Reason,
    /// The last lines of output.
    pub(crate) log: String,
}

/// Why nothing was put to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undone {
    /// It did not go well.
    Failed(Failure),
    /// It goes on without us, and is found again.
    Left,
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Which program of a root is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Activate,
    Deactivate,
}

impl Program {
    const fn file(self) -> &'static str {
        match self {
            Self::Activate => "bin/activate",
            Self::Deactivate => "bin/deactivate",
        }
    }

    const fn failure(self) -> Code {
        match self {
            Self::Activate => Code::ActivationFailed,
            Self::Deactivate => Code::DeactivationFailed,
        }
    }
}

/// Puts `new` to work where `old` was; either may be nothing. Returns the last lines of output.
///
/// A root that is activated by `exec` or `systemd` takes over from one of its kind itself. One that
/// has no such successor is taken out of work first.
pub(crate) async fn put_to_work(
    place: &Place<'_>,
    old: Option<Work<'_>>,
    new: Option<Work<'_>>,
) -> Result<String, Undone> {
    if let Some(job) = place.job {
        job.tidy(place.profile).await?;
    }
    let units = |work: Option<Work<'_>>| work.and_then(|work| units_of(work.activation));
    let is_exec = |work: &Work<'_>| matches!(work.activation, Activation::Exec { .. });
    let mut log = String::new();
    if let Some(owner) = units(old).filter(|owner| !units(new).is_some_and(|it| it.is_same(owner)))
    {
        log = systemd::take_over(place, &owner, None).await?;
    }
    if let Some(work) = old.filter(is_exec)
        && new.filter(is_exec).is_none()
        && has_program(place, work, Program::Deactivate)
    {
        log = start(place, work, Program::Deactivate, old, new).await?;
    }
    if let Some(work) = new.filter(is_exec) {
        log = start(place, work, Program::Activate, old, new).await?;
    } else if let Some(owner) = units(new) {
        log = systemd::take_over(place, &owner, new).await?;
    }
    Ok(log)
}

/// Starts the units of what ran when the host went down; others start nothing at boot.
pub(crate) async fn start_at_boot(place: &Place<'_>, work: Work<'_>) -> Result<String, Undone> {
    match units_of(work.activation) {
        Some(owner) => systemd::start_at_boot(place, &owner, work).await,
        None => Ok(String::new()),
    }
}

/// Returns in whose manager something's units are, if it has any.
fn units_of(activation: &Activation) -> Option<systemd::Owner> {
    match activation {
        Activation::Systemd { timeout, user, privileged } => Some(systemd::Owner {
            user: user.clone(),
            privileged: *privileged,
            timeout: std::time::Duration::from_secs((*timeout).into()),
        }),
        Activation::None | Activation::Exec { .. } | Activation::Nixos { .. } => None,
    }
}

async fn start(
    place: &Place<'_>,
    work: Work<'_>,
    program: Program,
    old: Option<Work<'_>>,
    new: Option<Work<'_>>,
) -> Result<String, Undone> {
    let Activation::Exec { timeout, user, privileged } = work.activation else {
        return Ok(String::new());
    };
    let account = choose(place.host, user.as_ref(), *privileged).map_err(|error| Failure {
        reason: Reason::new(Code::UserRefused, error.to_string()),
        log: String::new(),
    })?;
    let physical = |work: Option<Work<'_>>| {
        work.map(|work| real_path(place.root, work.path)).unwrap_or_default()
    };
    let environment = vec![
        ("PATH", exec::PATH.into()),
        ("SHOAL_GROUP", place.group.map(GroupName::as_str).unwrap_or_default().into()),
        ("SHOAL_PROFILE", place.profile.as_str().into()),
        (
            "SHOAL_VERSION",
            work.version.map(|version| version.version.to_string()).unwrap_or_default().into(),
        ),
        ("SHOAL_OLD", physical(old).into_os_string()),
        ("SHOAL_NEW", physical(new).into_os_string()),
        ("SHOAL_ROOT", place.root.into()),
    ];
    let command = exec::Command {
        purpose: exec::Purpose::Change,
        program: real_path(place.root, work.path).join(program.file()),
        arguments: vec![place.link.into()],
        environment,
        account,
        state_dir: place.state_dir.to_owned(),
        timeout: std::time::Duration::from_secs((*timeout).into()),
    };
    let name = format!("`{}` of `{}`", program.file(), work.path);
    let failed = |failed: Failed| {
        let code = match (&failed.problem, program) {
            (exec::Problem::Timeout(_), Program::Activate) => Code::ActivationTimeout,
            (
                exec::Problem::Timeout(_) | exec::Problem::Start(_) | exec::Problem::Ended(_),
                program,
            ) => program.failure(),
        };
        let text = format!("{name} {}", failed.problem);
        Failure { reason: Reason::new(code, text), log: failed.log }
    };
    let what = if program == Program::Activate { "activate" } else { "deactivate" };
    job::change(place, what, &command, Leftovers::Stay, failed).await
}

fn has_program(place: &Place<'_>, work: Work<'_>, program: Program) -> bool {
    real_path(place.root, work.path).join(program.file()).symlink_metadata().is_ok()
}

/// Returns where a store path lies below the store root.
pub(crate) fn real_path(root: &Path, path: &StorePath) -> PathBuf {
    root.join(shared::nix::STORE_DIR.trim_start_matches('/')).join(path.base_name())
}
