//! Signals that ask the process to end.

use shared::problem::{Kind, Problem};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns what is cancelled by SIGTERM or SIGINT. A second signal ends the process at once, as a
/// crash would, which the next run puts right.
pub(crate) fn on_signal() -> Result<CancellationToken, Problem> {
    let failed = |error| Problem::from_error(Kind::Runtime, "signal", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    // Never joined: it ends with the process.
    drop(tokio::spawn(async move {
        loop {
            // Cancel safe: a signal that is not taken stays.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if told.is_cancelled() {
                exit();
            }
            told.cancel();
        }
    }));
    Ok(stop)
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
