//! `agent units`: what the agent runs as the user in whose manager a profile's units are.

use std::path::PathBuf;

use clap::Args;
use shared::id::ProfileName;
use shared::problem::{Kind, Problem, chain};

use crate::activate::{UnitsRequest, apply_units};
use crate::cli::Context;

/// Let the units of a root take over in one manager of systemd's; the agent's own tool.
///
/// Changes nothing but that manager and the links in its folder, and needs no configuration.
#[derive(Debug, Args)]
pub(crate) struct UnitsArgs {
    /// The profile, whose name the units bear.
    #[arg(long)]
    profile: ProfileName,
    /// The store root.
    #[arg(long, value_name = "DIR")]
    store_root: PathBuf,
    /// The root whose units take over; without it, none do.
    #[arg(long, value_name = "DIR")]
    new: Option<PathBuf>,
    /// The runtime folder of this user, in whose manager it happens; else in the host's.
    #[arg(long, value_name = "DIR")]
    user: Option<PathBuf>,
    /// Ask for the units and do not wait, because the host is still booting.
    #[arg(long)]
    boot: bool,
}

/// Lets the units take over.
pub(crate) async fn run(args: UnitsArgs, context: &Context) -> Result<(), Problem> {
    let request = UnitsRequest {
        profile: args.profile,
        store_root: args.store_root,
        new: args.new,
        user: args.user,
        is_boot: args.boot,
    };
    let say = |line: &str| context.output.talk(line);
    let done = apply_units(&request, &say).await;
    // One line, which becomes the reason of the attempt's failure.
    done.map_err(|error| Problem::new(Kind::Failed, "units", chain(&error)))
}
