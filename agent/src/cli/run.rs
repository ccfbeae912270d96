//! `agent run`: the daemon.

use clap::Args;
use shared::problem::{Kind, Problem};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Context, Host};
use crate::daemon;

/// Converge for ever: poll, verify, substitute, switch, report.
///
/// Stops on SIGTERM and SIGINT, after a switch that is under way has come to its end.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {}

/// Runs the daemon until a signal comes.
pub(crate) async fn run(_args: RunArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let cancel = CancellationToken::new();
    let failed = |error| Problem::from_error(Kind::Runtime, "signal", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = cancel.clone();
    let signals = tokio::spawn(async move {
        // Cancel safe: a signal that is not taken stays.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    let result = daemon::run(&host.settings, &cancel).await;
    signals.abort();
    result
}
