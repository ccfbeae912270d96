//! `registry cache`: writes binary caches.

use shared::problem::Problem;

use super::Context;

/// Write binary caches
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Copy store paths with their closures into a binary cache
    Push,
}

/// Runs one of the commands.
pub(crate) async fn run(_command: Command, _context: &Context<'_>) -> Result<(), Problem> {
    todo!()
}
