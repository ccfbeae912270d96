//! `agent recover`: what the dead man runs.

use clap::Args;
use shared::problem::{Kind, Problem};
use shared::state_word::StateWord;

use crate::cli::{Context, Host};
use crate::state::Profile;
use crate::stop;

/// Undo a switch that nobody confirmed; without an attempt, watch over those that are under way.
///
/// A timer runs it with the id of an attempt, and a unit without one at each boot. It changes
/// nothing if the attempt has ended, or if somebody has moved the profile's link on since.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Undo this attempt now.
    #[arg(long, value_name = "ID")]
    attempt: Option<String>,
}

/// Undoes, or watches.
pub(crate) async fn run(args: RecoverArgs, context: &Context) -> Result<(), Problem> {
    let stop = stop::on_signal()?;
    let host = Host::open(context)?;
    let Some(id) = args.attempt else {
        let watched = host.converger.watch_again().map_err(|error| error.problem())?;
        for profile in &watched {
            context.output.talk(&format!("watches over the switch of `{}`", profile.name));
        }
        return Ok(());
    };
    let expired = host.converger.expire(&id, &stop).await.map_err(|error| error.problem())?;
    match expired {
        None => {
            context.output.talk(&format!("attempt {id} has ended: nothing to do"));
            Ok(())
        }
        Some(profile) => tell(&profile, context),
    }
}

fn tell(profile: &Profile, context: &Context) -> Result<(), Problem> {
    let explained = profile.explain(jiff::Timestamp::now());
    let reason = explained.reason.map(|reason| reason.text).unwrap_or_default();
    context.output.talk(&format!("`{}` is {}: {reason}", profile.name, explained.word));
    if explained.word != StateWord::Failed {
        return Ok(());
    }
    let what = format!("`{}` failed, and so did its rollback", profile.name);
    let problem = Problem::new(Kind::Failed, "rollback_failed", what).because(reason);
    Err(problem.next(format!("agent retry {}", profile.name)))
}
