//! `agent activate-boot`: starts what ran when the host went down.

use clap::Args;
use shared::problem::{Kind, Problem};

use crate::cli::{Context, Host};

/// Start the units of every profile again after a boot; run by `shoal-boot.service`.
///
/// Asks no registry and needs no daemon: the last good generation of each profile is what its
/// journal and its link say. What was in the middle of a switch, the daemon goes on with.
#[derive(Debug, Args)]
pub(crate) struct ActivateBootArgs {}

/// Starts them; one profile's trouble keeps none of the others from it.
pub(crate) async fn run(_args: ActivateBootArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let mut failed = Vec::new();
    for (name, outcome) in host.converger.boot().await.map_err(|error| error.problem())? {
        match outcome {
            Ok(()) => context.output.talk(&format!("{name}: its units start")),
            Err(why) => {
                context.output.talk(&format!("{name}: {why}"));
                failed.push(name.to_string());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let what = format!("could not start the units of {}", failed.join(", "));
    Err(Problem::new(Kind::Partial, "boot", what).next("agent status"))
}
