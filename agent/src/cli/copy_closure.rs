//! `agent copy-closure`.

use clap::Args;
use shared::problem::Problem;

use crate::cli::Context;

/// copy-closure
#[derive(Debug, Args)]
pub(crate) struct CopyClosureArgs {}

/// Runs it.
pub(crate) async fn run(_args: CopyClosureArgs, _context: &Context) -> Result<(), Problem> {
    todo!()
}
