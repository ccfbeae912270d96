//! The command line: one file a command, one line here for each.

mod activate_boot;
mod completions;
mod config;
mod copy_closure;
mod diff;
mod doctor;
mod enroll;
mod gc;
mod generations;
mod health;
mod history;
mod host;
mod once;
mod pin;
mod plan;
mod recover;
mod run;
mod status;
mod store;
mod tuf_client;
mod units;

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::problem::Problem;

use crate::output::{Life, Output};

pub(crate) use self::host::Host;

/// How commands end, as `Kind::exit_code` has it.
const EXIT_CODES: &str = "Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 input or output, \
    4 trust, 5 conflict, 6 unreachable, 7 timeout, 8 failed and rolled back, 9 failed, 10 partial, \
    77 unchanged (if asked for), 130 interrupted.";

/// Converges this host towards the desired state that its registry publishes.
#[derive(Debug, Parser)]
#[command(name = "agent", version, max_term_width = 100, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, subcommand_required = true, after_help = EXIT_CODES)]
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
    /// Print one JSON object (or JSON lines) instead of text; what takes long prints lines of
    /// progress.v1 first (README).
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
    Run(run::RunArgs),
    Once(once::OnceArgs),
    Status(status::StatusArgs),
    Plan(plan::PlanArgs),
    Generations(generations::GenerationsArgs),
    Diff(diff::DiffArgs),
    Rollback(pin::RollbackArgs),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Retry(pin::RetryArgs),
    Recover(recover::RecoverArgs),
    Confirm(pin::ConfirmArgs),
    Health(health::HealthArgs),
    Doctor(doctor::DoctorArgs),
    History(history::HistoryArgs),
    Logs(history::LogsArgs),
    CopyClosure(copy_closure::CopyClosureArgs),
    Gc(gc::GcArgs),
    #[command(subcommand)]
    Store(store::StoreCommand),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    ActivateBoot(activate_boot::ActivateBootArgs),
    #[command(hide = true)]
    Units(units::UnitsArgs),
    #[command(hide = true)]
    TufClient(tuf_client::TufClientArgs),
}

impl Command {
    /// Returns how long the command is meant to run.
    pub(crate) const fn life(&self) -> Life {
        if matches!(self, Self::Run(_)) { Life::Daemon } else { Life::Command }
    }

    /// Returns the root of the store that the command writes to, if it writes to one.
    pub(crate) fn writes_to(&self, context: &Context) -> Result<Option<PathBuf>, Problem> {
        match self {
            Self::Store(command) => Ok(command.writes_to().map(Path::to_owned)),
            Self::CopyClosure(args) => Ok(Some(args.root.clone())),
            Self::Gc(args) => args.writes_to(context),
            Self::Run(_) | Self::Once(_) => Ok(Some(config::load(context)?.settings.store.root)),
            Self::Enroll(_)
            | Self::Status(_)
            | Self::Plan(_)
            | Self::Generations(_)
            | Self::Diff(_)
            | Self::Rollback(_)
            | Self::Pin(_)
            | Self::Unpin(_)
            | Self::Retry(_)
            | Self::Recover(_)
            | Self::Confirm(_)
            | Self::Health(_)
            | Self::Doctor(_)
            | Self::History(_)
            | Self::Logs(_)
            | Self::Config(_)
            | Self::Completions(_)
            | Self::ActivateBoot(_)
            | Self::Units(_)
            | Self::TufClient(_) => Ok(None),
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
        Command::Run(args) => run::run(args, context).await,
        Command::Once(args) => once::run(args, context).await,
        Command::Status(args) => status::run(&args, context).await,
        Command::Plan(args) => plan::run(args, context).await,
        Command::Generations(args) => generations::run(&args, context),
        Command::Diff(args) => diff::run(&args, context),
        Command::Rollback(args) => pin::rollback(args, context).await,
        Command::Pin(args) => pin::pin(args, context).await,
        Command::Unpin(args) => pin::unpin(args, context).await,
        Command::Retry(args) => pin::retry(args, context).await,
        Command::Confirm(args) => pin::confirm(args, context).await,
        Command::Health(args) => health::run(args, context).await,
        Command::Recover(args) => recover::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::History(args) => history::history(&args, context),
        Command::Logs(args) => history::logs(&args, context),
        Command::CopyClosure(args) => copy_closure::run(args, context).await,
        Command::Gc(args) => gc::run(args, context).await,
        Command::Store(command) => store::run(command, context).await,
        Command::Config(command) => config::run(&command, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::ActivateBoot(args) => activate_boot::run(args, context).await,
        Command::Units(args) => units::run(args, context).await,
        Command::TufClient(args) => tuf_client::run(args, context).await,
    }
}
