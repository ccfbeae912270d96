//! `agent run`: the daemon.

use clap::Args;
use shared::problem::Problem;

use crate::cli::{Context, Host};
use crate::{daemon, stop};

/// Converge for ever: poll, verify, substitute, switch, report.
///
/// Stops on SIGTERM and SIGINT, after a switch that is under way has come to its end; at once on
/// the second one.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {}

/// Runs the daemon until a signal comes.
pub(crate) async fn run(_args: RunArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let stop = stop::on_signal_of_daemon()?;
    daemon::run(&host.settings, &stop).await
}
