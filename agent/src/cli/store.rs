//! `agent store …`: the local Nix store, with or without Nix.

mod add;
mod archive;
mod ls;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use shared::problem::{Kind, Problem};
use store::local::LocalStore;
use tokio_util::sync::CancellationToken;

use crate::{cli::Context, stop};

/// Work with the local Nix store, with or without Nix.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    Add(add::AddArgs),
    Dump(archive::DumpArgs),
    Restore(archive::RestoreArgs),
    Ls(ls::LsArgs),
    Verify(verify::VerifyArgs),
}

/// Which store.
#[derive(Debug, Clone, Args)]
pub(crate) struct RootArgs {
    /// Use the store below this directory, as Nix does with `local?root=DIR`.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
}

impl RootArgs {
    fn open(&self) -> Result<LocalStore, Problem> {
        LocalStore::open(&self.root).map_err(|error| error.problem())
    }

    /// Opens the store as far as we may: whoever cannot write can still read.
    fn open_for_reading(&self) -> Result<LocalStore, Problem> {
        LocalStore::open_for_reading(&self.root).map_err(|error| error.problem())
    }
}

impl StoreCommand {
    /// Returns the root of the store that the command writes to.
    pub(crate) fn writes_to(&self) -> Option<&std::path::Path> {
        match self {
            Self::Add(args) => Some(&args.root.root),
            Self::Dump(_) | Self::Restore(_) | Self::Ls(_) | Self::Verify(_) => None,
        }
    }
}

/// Runs it, on a thread that may block.
pub(crate) async fn run(command: StoreCommand, context: &Context) -> Result<(), Problem> {
    let output = context.output.clone();
    let stop = match command {
        StoreCommand::Add(_) => stop::on_signal()?,
        // Ended in the middle, these leave nothing in a store.
        StoreCommand::Dump(_)
        | StoreCommand::Restore(_)
        | StoreCommand::Ls(_)
        | StoreCommand::Verify(_) => CancellationToken::new(),
    };
    let work = tokio::task::spawn_blocking(move || match command {
        StoreCommand::Add(args) => add::run(&args, &output, &stop),
        StoreCommand::Dump(args) => archive::dump(&args, &output),
        StoreCommand::Restore(args) => archive::restore(&args),
        StoreCommand::Ls(args) => ls::run(&args, &output),
        StoreCommand::Verify(args) => verify::run(&args, &output),
    });
    work.await.map_err(|error| Problem::from_error(Kind::Runtime, "internal", &error))?
}
