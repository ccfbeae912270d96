//! `registry closure-index`: prints the closure of a path as caches tell it.

use shared::problem::Problem;

use super::Context;

/// Print the closure index of a store path, made from a cache's narinfos
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints the index, an empty line and the hints.
pub(crate) async fn run(_args: Args, _context: &Context<'_>) -> Result<(), Problem> {
    todo!()
}
