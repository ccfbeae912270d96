//! Programs that only look, such as commands of health checks, as transient units.
//!
//! They run again and again, so they leave nothing: what they write comes to us and not to the journal,
//! which hears nothing of them at all; and a unit that has ended, well or not, is unloaded once we have
//! read how, or our connection has ended. Two may look for the same at once, so no name is used twice.

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;
use shared::id::ProfileName;
use shared::problem::chain;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{sleep, timeout};
use zbus::{Fd, Variant};

use super::manager::{Manager, ManagerError, Service, Verb};
use super::transient::{PAUSES, Property, problem, properties};
use crate::activate::exec::{self, Command, Failed, GRACE, Problem};

/// How many there were so far.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Runs a program to its end, or to its deadline; returns its last lines.
pub(crate) async fn run(profile: &ProfileName, command: &Command) -> Result<String, Failed> {
    let mut log = Vec::new();
    // systemd holds it to its time; this is for systemd itself.
    let limit = command.timeout.saturating_add(GRACE);
    let ended = timeout(limit, run_to_end(profile, command, &mut log)).await;
    let log = exec::shown(&log);
    match ended.unwrap_or(Err(Problem::Timeout(command.timeout))) {
        Ok(()) => Ok(log),
        Err(problem) => Err(Failed { problem, log }),
    }
}

async fn run_to_end(
    profile: &ProfileName,
    command: &Command,
    log: &mut Vec<u8>,
) -> Result<(), Problem> {
    exec::check_executable(command).map_err(Problem::Start)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("shoal-check-{profile}_{}-{count}.service", std::process::id());
    let mut properties =
        properties(format!("Shoal: looks after `{profile}`"), command).map_err(Problem::Start)?;
    let (reader, more) = read_by_us().map_err(Problem::Start)?;
    properties.extend(more);
    let mut reader = Receiver::from_owned_fd(reader.into()).map_err(Problem::Start)?;
    let unknown = |error: ManagerError| Problem::Start(io::Error::other(chain(&error)));
    let manager = Manager::of_host().await.map_err(unknown)?;
    manager.start_transient(&name, properties).await.map_err(unknown)?;
    let mut stopped = Stopped(Some(name.clone()));
    let mut buffer = [0_u8; 4096];
    let mut end = pin!(end(&manager, &name));
    let mut is_open = true;
    let service = loop {
        tokio::select! {
            ended = &mut end => break ended.map_err(unknown)?,
            read = reader.read(&mut buffer), if is_open => match read {
                Ok(length) if length > 0 => {
                    exec::keep(log, buffer.get(..length).unwrap_or_default());
                }
                Ok(_) | Err(_) => is_open = false,
            },
        }
    };
    stopped.0 = None;
    // All that it wrote is here by now.
    while let Ok(length) = reader.try_read(&mut buffer)
        && length > 0
    {
        exec::keep(log, buffer.get(..length).unwrap_or_default());
    }
    let gone = || Problem::Start(io::Error::other(format!("`{name}` has gone")));
    problem(&service.ok_or_else(gone)?, command).map_or(Ok(()), Err)
}

/// Makes what a unit writes come to us, and nothing of it stay.
fn read_by_us() -> io::Result<(PipeReader, Vec<Property>)> {
    let (reader, writer) = io::pipe()?;
    let (output, error) = (OwnedFd::from(writer.try_clone()?), OwnedFd::from(writer));
    let properties = vec![
        ("StandardOutputFileDescriptor", Variant::from(Fd::from(output))),
        ("StandardErrorFileDescriptor", Variant::from(Fd::from(error))),
        // Neither it nor systemd says anything of it in the journal.
        ("LogLevelMax", Variant::from(0_i32)),
        ("KillSignal", Variant::from(Signal::KILL.as_raw())),
        // It is there for as long as we are.
        ("AddRef", Variant::from(true)),
        ("CollectMode", Variant::from("inactive-or-failed".to_owned())),
    ];
    Ok((reader, properties))
}

/// Waits until a unit has ended.
async fn end(manager: &Manager, name: &str) -> Result<Option<Service>, ManagerError> {
    let mut pause = PAUSES.0;
    loop {
        match manager.service(name).await? {
            Some(service) if !service.is_ended() => {}
            ended => return Ok(ended),
        }
        sleep(pause).await;
        pause = pause.saturating_mul(2).min(PAUSES.1);
    }
}

/// A unit that is stopped with the value, if there is any: nobody waits for it any more.
struct Stopped(Option<String>);

impl Drop for Stopped {
    fn drop(&mut self) {
        // Where nothing can be asked any more, it ends by its deadline.
        if let (Some(name), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let stopped = async { Manager::of_host().await?.run(Verb::Stop, [&*name]).await };
                if let Err(error) = stopped.await {
                    tracing::debug!(unit = name, "cannot stop: {}", chain(&error));
                }
            });
        }
    }
}
