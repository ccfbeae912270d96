//! `agent store …`.

use clap::Subcommand;
use shared::problem::Problem;

use crate::cli::Context;

/// Work with the local Nix store, with or without Nix.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Add a file or directory.
    Add {},
}

/// Runs it.
pub(crate) async fn run(_command: StoreCommand, _context: &Context) -> Result<(), Problem> {
    todo!()
}
