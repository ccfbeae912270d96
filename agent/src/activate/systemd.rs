//! Activation of systemd units: those of the root take over from those that are installed.
//!
//! A privileged profile's units are the host's. Any other's run in the manager of its own user, so
//! that no directive of theirs can make anything run as somebody else: what we did not give, that
//! manager cannot give on. Which units are taken, and what is started, says [`root`].

pub(crate) mod apply;
mod ask;
mod links;
pub(crate) mod look;
pub(super) mod manager;
mod plan;
mod root;
pub(crate) mod transient;
mod unit;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use shared::id::{ProfileName, UserName};
use shared::problem::chain;

pub(crate) use self::ask::HostUnits;
use self::manager::{Manager, ManagerError, Verb};
use self::transient::Leftovers;
use super::exec::{self, Failed};
use super::job;
use super::user::{Account, choose};
use super::{Failure, Place, Undone, Work, real_path};
use crate::files::{self, FileError};
use crate::state::{Code, Reason};

/// How long systemd may take to start or stop the manager of a user.
const MANAGER_LIMIT: Duration = Duration::from_secs(120);

/// How long the journal may take to tell why a unit failed.
const JOURNAL_LIMIT: Duration = Duration::from_secs(20);

/// Lines of the journal that go into the log of an attempt that failed.
const JOURNAL_LINES: u32 = 25;

/// In whose manager units are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The user that the policy names.
    pub(super) user: Option<UserName>,
    /// Whether the owners gave the profile root's rights.
    pub(super) privileged: bool,
    /// How long a step may take.
    pub(super) timeout: Duration,
}

/// Says why the units of a root cannot be installed, before anything is changed.
pub(crate) fn check(place: &Place<'_>, work: Work<'_>) -> Result<(), Reason> {
    let path = real_path(place.root, work.path);
    root::Units::read(place.root, &path, place.profile).map(drop).map_err(|error| {
        Reason::new(Code::UnitsRefused, format!("units of `{}`: {}", work.path, chain(&error)))
    })
}

impl Owner {
    /// Returns whether it is the same manager.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.user == other.user && self.privileged == other.privileged
    }
}

/// Lets the units of `new` take over in the manager of `owner`; none, if that is nothing.
pub(super) async fn take_over(
    place: &Place<'_>,
    owner: &Owner,
    new: Option<Work<'_>>,
) -> Result<String, Undone> {
    install(place, owner, new, false).await
}

/// Lets the units of `work` be started when their turn comes, on a host that boots.
pub(super) async fn start_at_boot(
    place: &Place<'_>,
    owner: &Owner,
    work: Work<'_>,
) -> Result<String, Undone> {
    install(place, owner, Some(work), true).await
}

async fn install(
    place: &Place<'_>,
    owner: &Owner,
    new: Option<Work<'_>>,
    is_boot: bool,
) -> Result<String, Undone> {
    let refused = |error: super::user::UserError| failure(Code::UserRefused, error.to_string());
    let account = choose(place.host, owner.user.as_ref(), owner.privileged).map_err(refused)?;
    if let Some(account) = account {
        lend_manager(place, account).await?;
    }
    let uid = account.map_or(place.host.uid, |account| account.uid);
    let runtime = (uid != 0).then(|| PathBuf::from(format!("/run/user/{uid}")));
    let begun = Timestamp::now();
    let done = run_apply(place, owner, new, account, runtime, is_boot).await;
    match (&done, account, new) {
        (Err(Undone::Failed(failed)), ..) => {
            let told = journal(place, uid, begun).await;
            let log = format!("{}\n{told}", failed.log);
            let log = log.trim().to_owned();
            return Err(Failure { reason: failed.reason.clone(), log }.into());
        }
        // Whatever else the user left behind ends with its manager.
        (Ok(_), Some(account), None) => end_manager(place, account).await?,
        (Err(Undone::Left) | Ok(_), ..) => {}
    }
    done
}

/// Runs `agent units` as whoever owns the manager.
async fn run_apply(
    place: &Place<'_>,
    owner: &Owner,
    new: Option<Work<'_>>,
    account: Option<Account>,
    runtime: Option<PathBuf>,
    is_boot: bool,
) -> Result<String, Undone> {
    let cannot = |error: std::io::Error| {
        failure(Code::ActivationFailed, format!("cannot find this program: {error}"))
    };
    let mut arguments: Vec<OsString> = vec!["units".into(), "--profile".into()];
    arguments.extend([place.profile.as_str().into(), "--store-root".into(), place.root.into()]);
    if let Some(work) = new {
        arguments.extend(["--new".into(), real_path(place.root, work.path).into_os_string()]);
    }
    if let Some(runtime) = &runtime {
        arguments.extend(["--user".into(), runtime.into()]);
    }
    if is_boot {
        arguments.push("--boot".into());
    }
    let command = exec::Command {
        purpose: exec::Purpose::Change,
        program: program().map_err(cannot)?,
        arguments,
        environment: vec![("PATH", exec::PATH.into())],
        account,
        state_dir: place.state_dir.to_owned(),
        timeout: owner.timeout,
    };
    let told = |failed: Failed| {
        let last = failed.log.lines().last().unwrap_or_default();
        let (code, text) = match &failed.problem {
            exec::Problem::Timeout(_) => {
                (Code::ActivationTimeout, format!("starting the units {}", failed.problem))
            }
            exec::Problem::Ended(_) if !last.is_empty() => {
                let text = last.strip_prefix("error[units]: ").unwrap_or(last);
                (Code::ActivationFailed, text.to_owned())
            }
            exec::Problem::Start(_) | exec::Problem::Ended(_) => {
                (Code::ActivationFailed, format!("starting the units {}", failed.problem))
            }
        };
        Failure { reason: Reason::new(code, text), log: failed.log }
    };
    let what = if new.is_some() { "install" } else { "uninstall" };
    job::change(place, what, &command, Leftovers::End, told).await
}

/// Returns this program's file; after an upgrade in place, what is there by now.
fn program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(replaced.map_or(path.clone(), PathBuf::from))
}

/// Starts the manager of a user, and lets it run without anybody being logged in.
async fn lend_manager(place: &Place<'_>, account: Account) -> Result<(), Failure> {
    let lent = lent(place, account);
    let work = async {
        let host = Manager::of_host().await?;
        if !host.lingers(account.uid).await? {
            // Written down before it is done: of two who let it linger, one is the operator.
            files::replace(&lent, b"")?;
            host.set_linger(account.uid, true).await?;
        }
        host.run(Verb::Start, [manager_of(account).as_str()]).await?;
        Ok(())
    };
    in_time(account, work).await
}

/// Ends the manager of a user with all that is left in it; one that lingered before us starts anew.
async fn end_manager(place: &Place<'_>, account: Account) -> Result<(), Failure> {
    let lent = lent(place, account);
    let work = async {
        let host = Manager::of_host().await?;
        let is_lent = lent.exists();
        if is_lent {
            host.set_linger(account.uid, false).await?;
        }
        let verb = if is_lent { Verb::Stop } else { Verb::Restart };
        host.run(verb, [manager_of(account).as_str()]).await?;
        match std::fs::remove_file(&lent) {
            Err(error) if is_lent => Err(LendError::Note { path: lent.clone(), source: error }),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    in_time(account, work).await
}

/// Why the manager of a user was not lent.
#[derive(Debug, thiserror::Error)]
enum LendError {
    #[error(transparent)]
    Manager(#[from] ManagerError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot remove `{}`", path.display())]
    Note { path: PathBuf, source: std::io::Error },
}

/// Names the file that says that a user lingers because of us.
fn lent(place: &Place<'_>, account: Account) -> PathBuf {
    place.state_dir.join("lingers").join(account.uid.to_string())
}

fn manager_of(account: Account) -> String {
    format!("user@{}.service", account.uid)
}

async fn in_time(
    account: Account,
    work: impl Future<Output = Result<(), LendError>>,
) -> Result<(), Failure> {
    let failed = |why: String| {
        let text = format!("the manager of the profile's user, `{}`: {why}", manager_of(account));
        failure(Code::ActivationFailed, text)
    };
    match tokio::time::timeout(MANAGER_LIMIT, work).await {
        Ok(done) => done.map_err(|error| failed(chain(&error))),
        Err(_) => Err(failed(format!("took longer than {} s", MANAGER_LIMIT.as_secs()))),
    }
}

/// Returns the last words of the profile's units since `begun`, as far as the journal tells.
///
/// Not by `--boot`: in a container, a unit with `ProtectKernelTunables=` sees the id of another.
async fn journal(place: &Place<'_>, uid: u32, begun: Timestamp) -> String {
    let lines = format!("--lines={JOURNAL_LINES}");
    let since = format!("--since=@{}", begun.as_second());
    let mut arguments =
        ["--quiet", "--no-pager", "--output=cat", &since, &lines].map(ToOwned::to_owned).to_vec();
    if uid == 0 {
        arguments.extend(patterns(place.profile).map(|pattern| format!("--unit={pattern}")));
    } else {
        arguments.push(format!("_UID={uid}"));
    }
    // First of all, whatever they said must have arrived.
    drop(journalctl(place.state_dir, vec!["--sync".to_owned()]).await);
    journalctl(place.state_dir, arguments).await.unwrap_or_default()
}

async fn journalctl(state_dir: &Path, arguments: Vec<String>) -> Option<String> {
    let command = exec::Command {
        purpose: exec::Purpose::Look,
        program: exec::find("journalctl")?,
        arguments: arguments.into_iter().map(Into::into).collect(),
        environment: vec![("PATH", exec::PATH.into())],
        account: None,
        state_dir: state_dir.to_owned(),
        timeout: JOURNAL_LIMIT,
    };
    let told = exec::run(&command).await.inspect_err(|failed| {
        tracing::warn!(log = failed.log, "the journal does not tell: it {}", failed.problem);
    });
    told.ok()
}

/// Returns patterns that all units of a profile fit, and no others: a name holds nothing that means
/// something in a pattern.
fn patterns(profile: &ProfileName) -> [String; 3] {
    [format!("{profile}.*"), format!("{profile}_*"), format!("{profile}@*")]
}

fn failure(code: Code, text: String) -> Failure {
    Failure { reason: Reason::new(code, text), log: String::new() }
}
