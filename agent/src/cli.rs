//! The command line: one file a command, one line here for each.

mod completions;
mod config;
mod copy_closure;
mod enroll;
mod store;
mod tuf_client;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::problem::Problem;

use crate::output::Output;

/// Converges this host towards the desired state that its registry publishes.
#[derive(Debug, Parser)]
#[command(name = "agent", version, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Print one JSON object (or JSON lines) instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say less: only data and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to colour the output; NO_COLOR is heard too.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,
    /// Draw no progress bars.
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Never ask; fail where an answer would be needed.
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// Read this configuration instead of /etc/shoal/agent.toml.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// When to colour the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Enroll(enroll::EnrollArgs),
    CopyClosure(copy_closure::CopyClosureArgs),
    #[command(subcommand)]
    Store(store::StoreCommand),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    TufClient(tuf_client::TufClientArgs),
}

impl Command {
    /// Returns the root of the store that the command writes to, where the command line says it.
    pub(crate) fn writes_to(&self) -> Option<&Path> {
        match self {
            Self::Store(command) => command.writes_to(),
            Self::CopyClosure(args) => Some(&args.root),
            Self::Enroll(_) | Self::Config(_) | Self::Completions(_) | Self::TufClient(_) => None,
        }
    }
}

/// What every command gets besides its own arguments.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Where data, talk, progress and problems go.
    pub(crate) output: Output,
    /// The `--config` flag, as given.
    pub(crate) config: Option<PathBuf>,
}

/// Runs one command.
///
/// A command whose answer is no returns a problem of kind `Negative`; every other problem means
/// that it has no answer.
pub(crate) async fn run(command: Command, context: &Context) -> Result<(), Problem> {
    match command {
        Command::Enroll(args) => enroll::run(args, context).await,
        Command::CopyClosure(args) => copy_closure::run(args, context).await,
        Command::Store(command) => store::run(command, context).await,
        Command::Config(command) => config::run(&command, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::TufClient(args) => tuf_client::run(args, context).await,
    }
}
