//! `agent once`: one round, to its end.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use shared::problem::{Kind, Problem};
use shared::state_word::StateWord;

use crate::cli::{Context, Host, status};
use crate::client::News;
use crate::converge::{ConvergeError, Stop};
use crate::progress::Progress;
use crate::report::{Outbox, Reporter, SendError};
use crate::rounds::{Round, Rounds};
use crate::status::Status;
use crate::stop;

/// Poll once, take every profile as far as it gets, and report.
///
/// Ends with 0 if all is converged; else the exit code says what is not. Stops on SIGTERM, SIGINT
/// and SIGHUP, after a switch that is under way has come to its end; at once on the second one.
#[derive(Debug, Args)]
pub(crate) struct OnceArgs {
    /// End with 77 if nothing was new and everything had converged before.
    #[arg(long)]
    unchanged_exit_77: bool,
}

/// Goes round once.
pub(crate) async fn run(args: OnceArgs, context: &Context) -> Result<(), Problem> {
    let stop = stop::on_signal()?;
    let host = Host::open(context)?;
    let mut rounds = Rounds::new(&host.settings)?;
    rounds.converger().recover().await.map_err(|error| error.problem())?;
    let before = host.status()?;
    let progress = Progress::new(&context.output);
    // Dropped where it is: a round commits what it has verified, or nothing.
    let round =
        stop.run_until_cancelled(rounds.round(Duration::ZERO, &|_| progress.observer())).await;
    let round = round.ok_or_else(stop::interrupted)?.map_err(|error| error.problem())?;
    let closures = rounds.client().closures();
    let converger = rounds.converger();
    let stops = Stop::on(&stop);
    let converged = round.orders.iter().map(|order| async {
        let profile = converger.converge(order, &closures, &stops).await?;
        // What was confirmed in an earlier run is looked at again.
        let look = converger.look(&profile);
        stop.run_until_cancelled(look).await.unwrap_or(Err(ConvergeError::Stopped))
    });
    let outcomes = progress.watch(join_all(converged)).await;
    progress.done_if_any();
    if let Some(Err(error)) = stop.run_until_cancelled(send(&host, &rounds)).await {
        context.output.detail(&format!("not reported: {error}"));
    }
    for outcome in outcomes {
        outcome.map_err(|error| error.problem())?;
    }
    let after = host.status()?;
    status::show(&after, false, context)?;
    if args.unchanged_exit_77 && is_unchanged(&round, &before, &after) {
        return Err(Problem::new(Kind::Unchanged, "unchanged", "nothing was new"));
    }
    verdict(&round, &after)
}

/// A source that was no good is the answer, unless a profile has a worse one.
fn verdict(round: &Round, after: &Status) -> Result<(), Problem> {
    let trouble = round.trouble.as_ref().map(|trouble| trouble.problem());
    match (trouble, status::verdict(after)) {
        (Some(trouble), Ok(())) => Err(trouble),
        (Some(trouble), Err(problem)) if problem.kind == Kind::Negative => Err(trouble),
        (_, verdict) => {
            verdict?;
            match after.registry.groups.first() {
                Some((group, reason)) => Err(Problem::new(
                    Kind::Trust,
                    &reason.code,
                    format!("nothing of group `{group}` can be used"),
                )
                .because(reason.text.clone())
                .leaves("this host keeps what it runs")
                .next(format!("registry verify {group}/_policy"))),
                None => Ok(()),
            }
        }
    }
}

fn is_unchanged(round: &Round, before: &Status, after: &Status) -> bool {
    let converged = |status: &Status| {
        status.profiles.iter().all(|profile| profile.state == StateWord::Converged)
    };
    round.news == News::None && round.trouble.is_none() && converged(before) && converged(after)
}

async fn send(host: &Host, rounds: &Rounds) -> Result<(), SendError> {
    let profiles = host.converger.profiles().unwrap_or_default();
    let reporter = match Reporter::new(&host.settings, rounds.client().sources()) {
        // Whoever did not enrol chose so, and was told.
        Err(SendError::NotEnrolled(_)) => return Ok(()),
        reporter => reporter?,
    };
    let facts = rounds.client().record().facts;
    let mut outbox = Outbox::of(&host.settings.state_dir);
    let noted = reporter.note(&mut outbox, &profiles, facts.as_ref());
    // Also what a full disk keeps in memory alone can be sent.
    reporter.send(&mut outbox).await.and(noted)
}
