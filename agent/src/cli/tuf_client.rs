//! `agent tuf-client`.

use clap::Args;
use shared::problem::Problem;

use crate::cli::Context;

/// tuf-client
#[derive(Debug, Args)]
pub(crate) struct TufClientArgs {}

/// Runs it.
pub(crate) async fn run(_args: TufClientArgs, _context: &Context) -> Result<(), Problem> {
    todo!()
}
