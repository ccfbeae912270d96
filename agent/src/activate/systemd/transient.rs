//! Programs that systemd runs for us: transient service units, outside of our own cgroup.
//!
//! So they live on when we are restarted, by them or by anybody. A unit stays until its end has been
//! read, and has the id of what it is run for: whoever runs the same again finds it, and waits for it
//! instead. systemd itself holds it to its time limit, and the journal keeps what it says. What runs
//! as somebody else than root is kept from all that the daemon's own unit is kept from, and more.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use shared::problem::chain;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use zbus::Variant;

use super::manager::{Manager, ManagerError, Service, Verb};
use super::{JOURNAL_LINES, journalctl};
use crate::activate::exec::{self, Command, Failed, GRACE, Problem};

/// What the descriptions of our units begin with.
const OURS: &str = "Shoal: ";

/// Between two looks at a unit: at first, and at most.
pub(super) const PAUSES: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(500));

/// How long systemd or the bus may be away: both may be replaced by what the unit does.
const AWAY: Duration = Duration::from_secs(60);

/// In a second.
const MICROSECONDS: u64 = 1_000_000;

/// How systemd numbers the ways in which a process ends, as `waitid` does.
const CLD_EXITED: i32 = 1;

/// What systemd is told of a unit.
pub(super) type Property = (&'static str, Variant<'static>);

/// Which unit runs a program, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its whole name, such as `shoal-web.service`.
    pub(crate) name: String,
    /// What it is run for, such as an attempt and its step: the same id is never run twice at once.
    pub(crate) id: String,
    /// What it does, for people.
    pub(crate) description: String,
}

/// Why a program has not ended well, or not at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransientError {
    /// It did not start, took too long, or ended otherwise than with 0.
    #[error("it {}", .0.problem)]
    Failed(Failed),
    /// Somebody else's unit has the name, and does not end.
    #[error("`{unit}` is still at work for somebody else: {description}")]
    Busy { unit: String, description: String },
    /// It was given up or forgotten by somebody else before its end was read.
    #[error("`{0}` has gone before its end was read")]
    Gone(String),
    /// We are asked to end, and the unit goes on and is found again; or the machine goes down.
    #[error("it goes on after this process has ended")]
    Left,
    /// systemd cannot be asked.
    #[error(transparent)]
    Manager(#[from] ManagerError),
}

/// Whether a unit whose program ended well is given up at once, with what it left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// They end with it.
    End,
    /// The unit stays for as long as anything of it runs.
    Stay,
}

/// Runs a program to its end in a unit of the host's manager; returns its last lines.
///
/// One that runs for the same id already is waited for. Other work of ours under that name is
/// ended first; anybody else's is waited for, for as long as the program itself may take. When
/// `stop` is cancelled, the unit goes on without us.
pub(crate) async fn run(
    unit: &Unit,
    command: &Command,
    leftovers: Leftovers,
    stop: &CancellationToken,
) -> Result<String, TransientError> {
    let start = |problem| TransientError::Failed(Failed { problem, log: String::new() });
    let mut watch = Watch::new();
    let begun = Instant::now();
    loop {
        let service = watch.look(&unit.name, stop).await?;
        match service {
            None => {
                exec::check_executable(command).map_err(|error| start(Problem::Start(error)))?;
                let mut properties = properties(unit.full_description(), command)
                    .map_err(|error| start(Problem::Start(error)))?;
                properties.extend(until_read());
                match watch.manager().await?.start_transient(&unit.name, properties).await {
                    // Somebody was quicker.
                    Err(error) if error.is_taken() => watch.rest(stop).await?,
                    Err(error) if error.is_too_late() => return Err(TransientError::Left),
                    started => {
                        started?;
                        break;
                    }
                }
            }
            Some(service) if unit.is(&service) => break,
            Some(service) if service.is_ended() => watch.forget(&unit.name, &service).await?,
            Some(service) if service.description.starts_with(OURS) => {
                let manager = watch.manager().await?;
                manager.run(Verb::Stop, [unit.name.as_str()]).await?;
                manager.reset_failed(&unit.name).await;
            }
            Some(Service { description, .. }) => {
                if begun.elapsed() > command.timeout {
                    return Err(TransientError::Busy { unit: unit.name.clone(), description });
                }
                watch.rest(stop).await?;
            }
        }
    }
    let service = watch.wait(&unit.name, stop).await?;
    let service = service.ok_or_else(|| TransientError::Gone(unit.name.clone()))?;
    let problem = problem(&service, command);
    if problem.is_some() && watch.manager().await?.is_stopping().await? {
        // It was ended with everything else, which is no fault of its own.
        return Err(TransientError::Left);
    }
    let log = said(&unit.name, &service, command).await;
    let stays = problem.is_none()
        && leftovers == Leftovers::Stay
        && watch.manager().await?.has_processes(&unit.name).await?;
    if !stays {
        watch.forget(&unit.name, &service).await?;
    }
    match problem {
        None => Ok(log),
        Some(problem) => Err(TransientError::Failed(Failed { problem, log })),
    }
}

/// Returns the names of the units that fit a pattern, at work or ended.
pub(crate) async fn find(pattern: &str) -> Result<Vec<String>, ManagerError> {
    let states = Manager::of_host().await?.states(&[pattern]).await?;
    Ok(states.into_keys().collect())
}

/// Waits until nothing of ours is at work in units of these names.
pub(crate) async fn wait_out(
    patterns: &[&str],
    stop: &CancellationToken,
) -> Result<(), TransientError> {
    let mut watch = Watch::new();
    for name in watch.ask(stop, async |manager| manager.states(patterns).await).await?.into_keys() {
        let Some(service) = watch.look(&name, stop).await? else { continue };
        if service.description.starts_with(OURS) && !service.is_ended() {
            tracing::info!(unit = name, "waits for a program that an earlier agent began");
            watch.wait(&name, stop).await?;
        }
    }
    Ok(())
}

/// Ends what of ours is still at work in units of these names, unless `keep` wants them, and lets go
/// of those that have ended and left nothing behind.
pub(crate) async fn tidy(pattern: &str, keep: impl Fn(&str) -> bool) -> Result<(), ManagerError> {
    let manager = Manager::of_host().await?;
    for name in manager.states(&[pattern]).await?.into_keys().filter(|name| !keep(name)) {
        let Some(service) = manager.service(&name).await? else { continue };
        if !service.description.starts_with(OURS)
            || service.is_ended() && manager.has_processes(&name).await?
        {
            continue;
        }
        if !service.is_ended() {
            tracing::warn!(unit = name, "ends what nobody waits for any more");
        }
        manager.run(Verb::Stop, [name.as_str()]).await?;
        manager.reset_failed(&name).await;
    }
    Ok(())
}

/// Returns for which id the unit of this name is there, at work or ended, if it is one of ours.
pub(crate) async fn id_of(name: &str) -> Result<Option<String>, ManagerError> {
    let service = Manager::of_host().await?.service(name).await?;
    let id = |service: Service| {
        let description = service.description.strip_prefix(OURS)?;
        Some(description.strip_suffix(']')?.rsplit_once(" [")?.1.to_owned())
    };
    Ok(service.and_then(id))
}

impl Unit {
    fn full_description(&self) -> String {
        format!("{OURS}{} [{}]", self.description, self.id)
    }

    fn is(&self, service: &Service) -> bool {
        service.description.starts_with(OURS)
            && service.description.ends_with(&format!(" [{}]", self.id))
    }
}

/// Looks at units again and again, also when the bus or systemd was away in between.
struct Watch {
    manager: Option<Manager>,
    away: Option<Instant>,
    pause: Duration,
}

impl Watch {
    const fn new() -> Self {
        Self { manager: None, away: None, pause: PAUSES.0 }
    }

    async fn manager(&mut self) -> Result<&Manager, ManagerError> {
        if self.manager.is_none() {
            self.manager = Some(Manager::of_host().await?);
        }
        self.manager.as_ref().ok_or(ManagerError::Gone)
    }

    /// Returns a unit, once somebody is there to tell.
    async fn look(
        &mut self,
        name: &str,
        stop: &CancellationToken,
    ) -> Result<Option<Service>, TransientError> {
        self.ask(stop, async |manager| manager.service(name).await).await
    }

    /// Returns the answer to a question, once somebody is there to give it.
    async fn ask<T>(
        &mut self,
        stop: &CancellationToken,
        question: impl AsyncFn(&Manager) -> Result<T, ManagerError>,
    ) -> Result<T, TransientError> {
        loop {
            let answer = match self.manager().await {
                Ok(manager) => question(manager).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => {
                    self.away = None;
                    return Ok(answer);
                }
                Err(error) => {
                    self.manager = None;
                    if self.away.get_or_insert_with(Instant::now).elapsed() > AWAY {
                        return Err(error.into());
                    }
                    tracing::debug!("cannot look at units: {}", chain(&error));
                    self.rest(stop).await?;
                }
            }
        }
    }

    /// Waits until a unit has ended, or has gone.
    async fn wait(
        &mut self,
        name: &str,
        stop: &CancellationToken,
    ) -> Result<Option<Service>, TransientError> {
        self.pause = PAUSES.0;
        loop {
            match self.look(name, stop).await? {
                Some(service) if !service.is_ended() => self.rest(stop).await?,
                ended => return Ok(ended),
            }
        }
    }

    /// Lets a little time go by, each time more.
    async fn rest(&mut self, stop: &CancellationToken) -> Result<(), TransientError> {
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(PAUSES.1);
        match stop.run_until_cancelled(sleep(pause)).await {
            Some(()) => Ok(()),
            None => Err(TransientError::Left),
        }
    }

    /// Lets go of a unit that has ended: its name is free again.
    async fn forget(&mut self, name: &str, service: &Service) -> Result<(), TransientError> {
        let manager = self.manager().await?;
        if service.is_active() {
            manager.run(Verb::Stop, [name]).await?;
        }
        manager.reset_failed(name).await;
        Ok(())
    }
}

/// Says to systemd what to run, and by which rules.
pub(super) fn properties(description: String, command: &Command) -> io::Result<Vec<Property>> {
    let program = text(command.program.as_os_str())?;
    let mut line = vec![program.clone()];
    for argument in &command.arguments {
        line.push(text(argument)?);
    }
    let mut environment = Vec::new();
    for (name, value) in &command.environment {
        environment.push(format!("{name}={}", text(value)?));
    }
    // Nothing in them stands for anything else.
    let start = vec![(program, line, vec!["no-env-expand".to_owned()])];
    let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut properties = vec![
        ("Description", Variant::from(description)),
        ("Type", Variant::from("exec".to_owned())),
        ("ExecStartEx", Variant::from(start)),
        ("Environment", Variant::from(environment)),
        ("RuntimeMaxUSec", Variant::from(microseconds(command.timeout))),
        ("TimeoutStopUSec", Variant::from(microseconds(GRACE))),
        ("StandardInput", Variant::from("null".to_owned())),
    ];
    if let Some(account) = command.account {
        properties.push(("User", Variant::from(account.uid.to_string())));
        properties.push(("Group", Variant::from(account.gid.to_string())));
        properties.extend(confinement());
    }
    Ok(properties)
}

/// What lets a unit stay, and the journal keep what it says, until we have read how it ended.
fn until_read() -> [Property; 4] {
    [
        ("RemainAfterExit", Variant::from(true)),
        ("StandardOutput", Variant::from("journal".to_owned())),
        ("StandardError", Variant::from("journal".to_owned())),
        // Its last lines tell why it failed.
        ("LogRateLimitIntervalUSec", Variant::from(0_u64)),
    ]
}

/// What keeps whoever is not root from becoming so, as `deploy/systemd/shoal-agent.service` has it.
fn confinement() -> impl Iterator<Item = Property> {
    let yes = [
        "NoNewPrivileges",
        "LockPersonality",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let families = words(&["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]);
    let calls = ["@clock", "@cpu-emulation", "@debug", "@module", "@obsolete", "@raw-io"];
    let calls = [words(&calls), words(&["@reboot", "@swap"])].concat();
    let others = [
        ("CapabilityBoundingSet", Variant::from(0_u64)),
        ("KeyringMode", Variant::from("private".to_owned())),
        ("RestrictAddressFamilies", Variant::from((true, families))),
        // None at all.
        ("RestrictNamespaces", Variant::from(0_u64)),
        ("SystemCallArchitectures", Variant::from(words(&["native"]))),
        ("SystemCallErrorNumber", Variant::from(rustix::io::Errno::PERM.raw_os_error())),
        ("SystemCallFilter", Variant::from((false, calls))),
    ];
    yes.into_iter().map(|name| (name, Variant::from(true))).chain(others)
}

fn text(value: &OsStr) -> io::Result<String> {
    let unreadable = || io::Error::other(format!("{} is no UTF-8", value.display()));
    value.to_str().map(ToOwned::to_owned).ok_or_else(unreadable)
}

/// Returns what went wrong with a unit that has ended.
pub(super) fn problem(service: &Service, command: &Command) -> Option<Problem> {
    let status = match (service.code, service.status) {
        (CLD_EXITED, code) => ExitStatus::from_raw((code & 0xff) << 8),
        (_, signal) => ExitStatus::from_raw(signal & 0x7f),
    };
    match service.result.as_str() {
        "success" => None,
        "timeout" => Some(Problem::Timeout(command.timeout)),
        "exit-code" | "signal" | "core-dump" => Some(Problem::Ended(status)),
        other => Some(Problem::Start(io::Error::other(format!("systemd says `{other}`")))),
    }
}

/// Returns the last lines that the unit wrote this time, as far as the journal tells.
///
/// Not by its invocation: of a program that ends at once, the journal learns only the unit.
async fn said(unit: &str, service: &Service, command: &Command) -> String {
    // First of all, whatever it said must have arrived.
    drop(journalctl(&command.state_dir, vec!["--sync".to_owned()]).await);
    let lines = format!("--lines={JOURNAL_LINES}");
    let (seconds, rest) = (service.started / MICROSECONDS, service.started % MICROSECONDS);
    let since = format!("--since=@{seconds}.{rest:06}");
    let unit = format!("_SYSTEMD_UNIT={unit}");
    let arguments = ["--quiet", "--no-pager", "--output=cat", &lines, &since, &unit];
    journalctl(&command.state_dir, arguments.map(ToOwned::to_owned).to_vec())
        .await
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activate::exec::Purpose;

    fn service(result: &str, code: i32, status: i32) -> Service {
        Service {
            description: "Shoal: tries [a1 switch]".to_owned(),
            active: "failed".to_owned(),
            sub: "failed".to_owned(),
            has_job: false,
            result: result.to_owned(),
            code,
            status,
            started: 0,
        }
    }

    fn told(service: &Service) -> String {
        let command = Command {
            purpose: Purpose::Change,
            program: "/bin/true".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            account: None,
            state_dir: "/nonexistent".into(),
            timeout: Duration::from_secs(9),
        };
        problem(service, &command).map_or_else(|| "well".to_owned(), |it| it.to_string())
    }

    #[test]
    fn the_end_of_a_unit_is_told_as_that_of_a_child() {
        assert_eq!(told(&service("success", 1, 0)), "well");
        assert_eq!(told(&service("exit-code", 1, 100)), "ended with 100");
        assert_eq!(told(&service("signal", 2, 9)), "was ended by signal 9");
        assert_eq!(told(&service("timeout", 2, 15)), "took longer than 9 s");
        assert_eq!(told(&service("oom-kill", 2, 9)), "could not be run: systemd says `oom-kill`");
    }

    #[test]
    fn a_unit_is_known_by_what_it_is_run_for() {
        let unit = |id: &str| Unit {
            name: "x.service".to_owned(),
            id: id.to_owned(),
            description: "tries".to_owned(),
        };
        assert!(unit("a1 switch").is(&service("success", 1, 0)));
        assert!(!unit("1 switch").is(&service("success", 1, 0)));
        let foreign = Service { description: "x [a1 switch]".to_owned(), ..service("", 0, 0) };
        assert!(!unit("a1 switch").is(&foreign));
    }
}
