//! Signals that ask the process to end.

use futures_util::future::select_all;
use shared::problem::{Kind, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns what is cancelled by SIGTERM, SIGINT, or the end of the terminal that a command was typed
/// in. A second signal ends the process at once, as a crash would, which the next run puts right.
pub(crate) fn on_signal() -> Result<CancellationToken, Problem> {
    // Who says `nohup` wants it to go on.
    let heard = if ignores_hangup() { &DAEMON[..] } else { &COMMAND };
    cancelled_by(heard)
}

/// Does the same for the daemon, which has no terminal that could end.
pub(crate) fn on_signal_of_daemon() -> Result<CancellationToken, Problem> {
    cancelled_by(&DAEMON)
}

const COMMAND: [SignalKind; 3] =
    [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
const DAEMON: [SignalKind; 2] = [SignalKind::terminate(), SignalKind::interrupt()];

/// Returns whether this process was started with SIGHUP ignored.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

fn cancelled_by(signals: &[SignalKind]) -> Result<CancellationToken, Problem> {
    let failed = |error| Problem::from_error(Kind::Runtime, "signal", &error);
    let mut heard = Vec::new();
    for kind in signals {
        heard.push(signal(*kind).map_err(failed)?);
    }
    let stop = CancellationToken::new();
    let told = stop.clone();
    // Never joined: it ends with the process.
    drop(tokio::spawn(async move {
        loop {
            // Cancel safe: a signal that is not taken stays.
            select_all(heard.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
            if told.is_cancelled() {
                exit();
            }
            told.cancel();
        }
    }));
    Ok(stop)
}

/// Returns the signals that ask the process to read its configuration again.
pub(crate) fn hangups() -> Result<Signal, Problem> {
    signal(SignalKind::hangup())
        .map_err(|error| Problem::from_error(Kind::Runtime, "signal", &error))
}

#[expect(clippy::exit, reason = "asked for twice, and everything here survives it")]
fn exit() -> ! {
    std::process::exit(Kind::Interrupted.exit_code().into())
}

/// The end of a command that was stopped.
pub(crate) fn interrupted() -> Problem {
    Problem::new(Kind::Interrupted, "interrupted", "stopped by a signal")
        .leaves("what is valid is whole, and the next run goes on from there")
}
