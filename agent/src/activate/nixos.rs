//! Activation of operating systems: NixOS's own `switch-to-configuration`, and the boot loader.
//!
//! Everything here runs in transient units of systemd: it may restart the agent, and it needs rights
//! that the agent does not have. The name of the unit is that of `nixos-rebuild`, so that only one of
//! the two is ever at work.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::nix::StorePath;
use shared::problem::chain;
use tokio_util::sync::CancellationToken;

use super::exec::{self, Command, Failed, Problem, Purpose};
use super::systemd::manager::{Manager, ManagerError};
use super::systemd::transient::{self, Leftovers, TransientError, Unit};
use super::{Failure, real_path};
use crate::state::{Code, Reason};
use crate::systems::loader::Call;

/// The unit that switches the system, whoever does it.
pub(super) const UNIT: &str = "nixos-rebuild-switch-to-configuration.service";

/// The unit that tells the boot loader what to start once.
const ONCE: &str = "shoal-boot-once.service";

/// The program of a system that puts it to work.
const PROGRAM: &str = "bin/switch-to-configuration";

/// How long a boot loader's own tool may take.
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// How long somebody else's switch is given before the next try.
const PAUSE: Duration = Duration::from_secs(2);

/// What a system replaces only by a reboot: links, and files that are compared as they are.
const BOOTED: [&str; 6] = [
    "kernel",
    "kernel-modules",
    "initrd",
    "systemd",
    "init-interface-version",
    "switch-inhibitors",
];

/// The unit by which the implementation of D-Bus, and its version, are known.
const DBUS: &str = "etc/systemd/system/dbus.service";

/// What `switch-to-configuration` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Boot loader, and activation.
    Switch,
    /// Boot loader alone: what is asked becomes the default.
    Boot,
    /// Activation alone, until the next boot.
    Test,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Boot => "boot",
            Self::Test => "test",
        }
    }
}

/// One run of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// The attempt.
    pub(crate) attempt: &'a str,
    /// The system whose program it is.
    pub(crate) system: &'a StorePath,
    /// What it is asked for.
    pub(crate) verb: Verb,
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// The store root.
    pub(crate) root: &'a Path,
    /// The agent's state folder.
    pub(crate) state_dir: &'a Path,
}

/// Why a run did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The system cannot be activated before a reboot; with the last lines of output.
    NeedsReboot(String),
    /// Somebody else is switching, and nothing was changed.
    Busy(String),
    /// This process shall end; the unit goes on.
    Left,
    /// It failed.
    Failed(Failure),
}

/// Runs it to its end; returns its last lines.
pub(crate) async fn run(run: &Run<'_>, stop: &CancellationToken) -> Result<String, Trouble> {
    let begun = tokio::time::Instant::now();
    loop {
        let ended = transient::run(&unit(run), &command(run), Leftovers::End, stop).await;
        match judge(run, ended) {
            // Its lock is held: nothing was changed, and it may be over soon.
            Err(Trouble::Busy(_)) if begun.elapsed() < run.timeout => {
                if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    return Err(Trouble::Left);
                }
            }
            judged => return judged,
        }
    }
}

/// Returns whether something that this attempt runs is at work, or has ended and was not read.
pub(crate) async fn is_at_work(attempt: &str) -> bool {
    let id = transient::id_of(UNIT).await;
    matches!(id, Ok(Some(id)) if id.split(' ').next() == Some(attempt))
}

fn unit(run: &Run<'_>) -> Unit {
    Unit {
        name: UNIT.to_owned(),
        id: format!("{} {} {}", run.attempt, run.verb.word(), run.system.base_name()),
        description: format!("{} of the system", run.verb.word()),
    }
}

fn command(run: &Run<'_>) -> Command {
    let mut environment: Vec<(&'static str, OsString)> =
        vec![("PATH", exec::PATH.into()), ("NIXOS_INSTALL_BOOTLOADER", "0".into())];
    // Of what `nixos-rebuild` hands on, all that a daemon has.
    environment.extend(std::env::var_os("LOCALE_ARCHIVE").map(|it| ("LOCALE_ARCHIVE", it)));
    Command {
        purpose: Purpose::Change,
        program: real_path(run.root, run.system).join(PROGRAM),
        arguments: vec![run.verb.word().into()],
        environment,
        account: None,
        state_dir: run.state_dir.to_owned(),
        timeout: run.timeout,
    }
}

/// Says what the end of a run means.
fn judge(run: &Run<'_>, ended: Result<String, TransientError>) -> Result<String, Trouble> {
    let Run { system, verb, .. } = run;
    let name = format!("`switch-to-configuration {}` of `{system}`", verb.word());
    let Failed { problem, log } = match ended {
        Ok(log) => return Ok(log),
        Err(TransientError::Left) => return Err(Trouble::Left),
        Err(error @ TransientError::Busy { .. }) => return Err(Trouble::Busy(error.to_string())),
        Err(error @ (TransientError::Gone(_) | TransientError::Manager(_))) => {
            let text = format!("{name}: {}", chain(&error));
            return Err(Trouble::Failed(failure(Code::ActivationFailed, text)));
        }
        Err(TransientError::Failed(failed)) => failed,
    };
    let code = match &problem {
        Problem::Ended(status) => status.code(),
        Problem::Start(_) | Problem::Timeout(_) => None,
    };
    let meaning = match code {
        Some(100) => return Err(Trouble::NeedsReboot(log)),
        Some(11) => return Err(Trouble::Busy(format!("{name}: another one is at work"))),
        Some(1) => ": it refused before anything was activated, or the boot loader failed",
        Some(2) => ": its activation script failed",
        Some(3) => ": systemd could not read its units again",
        Some(4) => ": units of it did not come up",
        Some(_) | None => "",
    };
    let code = match &problem {
        Problem::Timeout(_) => Code::ActivationTimeout,
        Problem::Start(_) | Problem::Ended(_) => Code::ActivationFailed,
    };
    let reason = Reason::new(code, format!("{name} {problem}{meaning}"));
    Err(Trouble::Failed(Failure { reason, log }))
}

/// Tells the boot loader what to start once, or that it is nothing any more.
pub(crate) async fn set_once(
    attempt: &str,
    call: &Call,
    state_dir: &Path,
    stop: &CancellationToken,
) -> Result<(), Trouble> {
    let Call { program, arguments } = call;
    let failed = |text: String, log| {
        let reason = Reason::new(Code::ActivationFailed, text);
        Trouble::Failed(Failure { reason, log })
    };
    let found = exec::find(program)
        .ok_or_else(|| failed(format!("this host has no `{program}`"), String::new()))?;
    let unit = Unit {
        name: ONCE.to_owned(),
        id: format!("{attempt} {}", arguments.join(" ")),
        description: "says what is booted once".to_owned(),
    };
    let command = Command {
        purpose: Purpose::Change,
        program: found,
        arguments: arguments.iter().map(Into::into).collect(),
        environment: vec![("PATH", exec::PATH.into())],
        account: None,
        state_dir: state_dir.to_owned(),
        timeout: TOOL_LIMIT,
    };
    match transient::run(&unit, &command, Leftovers::End, stop).await {
        Ok(_) => Ok(()),
        Err(TransientError::Left) => Err(Trouble::Left),
        Err(TransientError::Failed(Failed { problem, log })) => {
            Err(failed(format!("`{program}` {problem}"), log))
        }
        Err(error) => Err(failed(format!("`{program}`: {}", chain(&error)), String::new())),
    }
}

/// Asks for a reboot, as `systemctl reboot` does: services are stopped, inhibitors are heard.
pub(crate) async fn reboot() -> Result<(), ManagerError> {
    Manager::of_host().await?.reboot().await
}

/// Returns what of a system takes the place of the booted one's only by a reboot.
pub(crate) fn needs_reboot(booted: &Path, system: &Path) -> Option<&'static str> {
    let differs = |name: &&str| identity(booted, name) != identity(system, name);
    BOOTED.iter().chain([&DBUS]).find(|name| differs(name)).map(|name| match *name {
        DBUS => "dbus",
        name => name,
    })
}

/// Returns what tells a part of a system from another's: where its link leads, or what it says.
fn identity(system: &Path, name: &str) -> Option<Result<PathBuf, Vec<u8>>> {
    let path = system.join(name);
    let real = fs::canonicalize(&path).ok()?;
    if real.starts_with(fs::canonicalize(system).ok()?) {
        return Some(Err(fs::read(&real).ok()?));
    }
    Some(Ok(real))
}

/// Returns how many bytes kernel and initial ramdisk of a system take on a boot partition that has
/// them not yet, because the booted one's are others.
pub(crate) fn boot_size(booted: &Path, system: &Path) -> u64 {
    let new = ["kernel", "initrd"]
        .into_iter()
        .filter(|name| identity(booted, name) != identity(system, name));
    new.filter_map(|name| Some(fs::metadata(system.join(name)).ok()?.len())).sum()
}

/// Says why something is no system that could be activated.
pub(crate) fn check(system: &Path) -> Result<(), String> {
    if system.join(PROGRAM).is_file() {
        return Ok(());
    }
    Err(format!("`{}` is no NixOS system: it has no `{PROGRAM}`", system.display()))
}

fn failure(code: Code, text: String) -> Failure {
    Failure { reason: Reason::new(code, text), log: String::new() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn told(code: i32) -> String {
        let system = "9a455acx720hx0zfwn0q7gn8y2jrvllr-nixos-system";
        let system = StorePath::from_base_name(system).unwrap();
        let run = Run {
            attempt: "a1",
            system: &system,
            verb: Verb::Test,
            timeout: Duration::from_secs(9),
            root: Path::new("/"),
            state_dir: Path::new("/nonexistent"),
        };
        let problem = Problem::Ended(ExitStatus::from_raw(code << 8));
        let ended = Err(TransientError::Failed(Failed { problem, log: "log".to_owned() }));
        match judge(&run, ended) {
            Ok(_) => "well".to_owned(),
            Err(Trouble::NeedsReboot(_)) => "reboot".to_owned(),
            Err(Trouble::Busy(_)) => "busy".to_owned(),
            Err(Trouble::Left) => "left".to_owned(),
            Err(Trouble::Failed(Failure { reason, .. })) => {
                let (_, told) = reason.text.split_once("nixos-system` ").unwrap();
                format!("{}: {told}", reason.code)
            }
        }
    }

    #[test]
    fn every_exit_code_has_its_meaning() {
        assert_eq!(told(100), "reboot");
        assert_eq!(told(11), "busy");
        assert_eq!(
            told(1),
            "activation_failed: ended with 1: it refused before anything was activated, or the \
             boot loader failed"
        );
        assert_eq!(told(2), "activation_failed: ended with 2: its activation script failed");
        assert_eq!(told(4), "activation_failed: ended with 4: units of it did not come up");
        assert_eq!(told(7), "activation_failed: ended with 7");
    }

    /// A system with the parts that are compared, and others that are not.
    fn system(folder: &Path, name: &str, changed: &str) -> PathBuf {
        let system = folder.join(name);
        let part = |part: &str| {
            let version = if part == changed { "2" } else { "1" };
            let target = folder.join(format!("{part}-{version}"));
            fs::write(&target, "bytes").unwrap();
            target
        };
        fs::create_dir_all(system.join("etc/systemd/system")).unwrap();
        for name in ["kernel", "kernel-modules", "initrd", "systemd", "sw"] {
            symlink(part(name), system.join(name)).unwrap();
        }
        symlink(part("dbus"), system.join(DBUS)).unwrap();
        for name in ["init-interface-version", "nixos-version", "init"] {
            fs::write(system.join(name), if name == changed { "2" } else { "1" }).unwrap();
        }
        system
    }

    #[test]
    fn a_reboot_is_needed_for_what_is_replaced_only_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let old = system(folder.path(), "old", "");
        for changed in ["kernel", "kernel-modules", "initrd", "systemd", "dbus"] {
            let new = system(folder.path(), changed, changed);
            assert_eq!(needs_reboot(&old, &new), Some(changed));
            let size = if ["kernel", "initrd"].contains(&changed) { 5 } else { 0 };
            assert_eq!(boot_size(&old, &new), size, "{changed}");
        }
        let new = system(folder.path(), "interface", "init-interface-version");
        assert_eq!(needs_reboot(&old, &new), Some("init-interface-version"));
        for changed in ["sw", "init", "nixos-version"] {
            let new = system(folder.path(), changed, changed);
            assert_eq!(needs_reboot(&old, &new), None, "{changed}");
        }
    }
}
