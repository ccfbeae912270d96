//! `agent run`: the daemon.

use clap::Args;
use shared::problem::{Kind, Problem};
use tokio::signal::unix::Signal;

use crate::cli::{Context, config};
use crate::config::Settings;
use crate::gc::line;
use crate::{daemon, service, stop};

/// Converge for ever: poll, verify, substitute, switch, report.
///
/// Stops on SIGTERM and SIGINT, after a switch that is under way has come to its end; at once on
/// the second one. Reads its configuration again on SIGHUP; what cannot be used changes nothing.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {}

/// Runs the daemon until a signal comes.
pub(crate) async fn run(_args: RunArgs, context: &Context) -> Result<(), Problem> {
    let mut settings = config::load(context)?.settings;
    let process = stop::on_signal_of_daemon()?;
    let mut hangups = stop::hangups()?;
    // What to go back to if those settings turn out to be of no use.
    let mut before = None;
    loop {
        let this = process.child_token();
        let ended = {
            let running = daemon::run(&settings, &this, &process);
            tokio::pin!(running);
            // Cancel safe: a signal that is not taken stays, and the daemon goes on below.
            tokio::select! {
                ended = &mut running => Err(ended),
                next = next_settings(&mut hangups, &settings, context) => {
                    this.cancel();
                    Ok((running.await, next))
                }
            }
        };
        match ended {
            _ if process.is_cancelled() => return Ok(()),
            Ok((Ok(()), next)) => before = Some(std::mem::replace(&mut settings, next)),
            Ok((Err(problem), _)) | Err(Err(problem)) => {
                // They did not even begin to work; a daemon that has begun ends only if told to.
                settings = before.take().ok_or_else(|| problem.clone())?;
                refuse(&problem);
            }
            Err(Ok(())) => return Ok(()),
        }
    }
}

/// Tells that other settings are of no use, and that those of before hold.
fn refuse(problem: &Problem) {
    tracing::error!(
        "the configuration cannot be used, and that of before holds: {}",
        line(problem)
    );
}

/// Waits for a signal after which there are other settings that can be used.
async fn next_settings(hangups: &mut Signal, current: &Settings, context: &Context) -> Settings {
    loop {
        if hangups.recv().await.is_none() {
            return std::future::pending().await;
        }
        let next = config::load(context).map(|config| config.settings);
        match next.and_then(|next| replaceable(current, next)) {
            Ok(next) => {
                tracing::info!("the configuration was read again");
                return next;
            }
            Err(problem) => {
                refuse(&problem);
                service::kept_configuration();
            }
        }
    }
}

/// Refuses to move what a running process stands on.
fn replaceable(current: &Settings, next: Settings) -> Result<Settings, Problem> {
    let fixed = [
        ("state_dir", current.state_dir == next.state_dir),
        ("store.root", current.store.root == next.store.root),
        ("realm", current.realm == next.realm),
    ];
    match fixed.into_iter().find(|(_, same)| !same) {
        None => Ok(next),
        Some((key, _)) => {
            let what = format!("`{key}` cannot change while the agent runs");
            Err(Problem::new(Kind::Conflict, "restart_needed", what)
                .next("systemctl restart shoal-agent"))
        }
    }
}
