//! `registry serve`: the server.

use shared::problem::Problem;

use super::Context;

/// Serve the published files and the API
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the server until it is told to stop.
pub(crate) async fn run(_args: Args, _context: &Context<'_>) -> Result<(), Problem> {
    todo!()
}
