//! The command line: every command is one file below `cli/`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::{
    problem::{Kind, Problem},
    trust::PublicKey,
};

use crate::{config::Settings, keys::KeyFolder, output::Output, signer};

mod audit;
mod backup;
mod cache;
mod closure_index;
mod completions;
mod config;
mod diff;
mod doctor;
#[cfg(test)]
mod examples;
mod group;
mod history;
mod host;
mod hosts;
mod init;
mod key;
mod manifest;
mod near;
mod place;
mod publish;
mod recover;
mod serve;
mod shown;
mod status;
mod team;
mod token;
mod trust;
mod verify;
mod watch;

/// Publishes signed desired state for groups of Nix machines, and collects their reports.
#[derive(Debug, Parser)]
#[command(name = "registry", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print data as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say only what is asked for, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice for all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colours; NO_COLOR and CLICOLOR_FORCE are heeded too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// Show no progress
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Never ask; fail instead, and say what would have answered
    #[arg(long, global = true)]
    pub(crate) no_input: bool,
    /// Read this configuration file, and no other
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the registry is
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) registry: Option<String>,
    /// The realm, that is, which root of trust
    #[arg(long, global = true, value_name = "REALM")]
    pub(crate) realm: Option<String>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Serve(serve::Args),
    #[command(subcommand)]
    Group(group::Command),
    #[command(subcommand)]
    Team(team::Command),
    #[command(subcommand)]
    Trust(trust::Command),
    #[command(subcommand)]
    Key(key::Command),
    #[command(subcommand)]
    Publish(publish::Command),
    #[command(subcommand)]
    Manifest(manifest::Command),
    Verify(verify::Args),
    Doctor(doctor::Args),
    Host(host::Args),
    #[command(subcommand)]
    Token(token::Command),
    Status(status::Args),
    Hosts(hosts::Args),
    Diff(diff::Args),
    History(history::Args),
    #[command(subcommand)]
    Audit(audit::Command),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Recover(recover::Args),
    Migrate(backup::Migrate),
    Gc(backup::Gc),
    #[command(subcommand)]
    Cache(cache::Command),
    ClosureIndex(closure_index::Args),
    #[command(subcommand)]
    Config(config::Command),
    Completions(completions::Args),
    CompleteNames(completions::Names),
}

impl Command {
    /// Returns what is logged unless the user asks for more: a server tells of its life.
    pub(crate) fn log_level(&self) -> tracing::Level {
        if matches!(self, Self::Serve(_)) { tracing::Level::INFO } else { tracing::Level::WARN }
    }
}

/// What every command gets beside its own arguments.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) output: &'a Output,
    pub(crate) settings: Settings,
}

/// Whether to ask before anything is signed.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Ask {
    /// Do not ask before signing
    #[arg(short, long)]
    yes: bool,
}

impl Ask {
    /// Asks, unless told not to; a no ends the command.
    pub(crate) fn confirm(self, question: &str, output: &Output) -> Result<(), Problem> {
        if self.yes || output.confirm(question, "--yes")? {
            return Ok(());
        }
        Err(Problem::new(Kind::Negative, "declined", "not signed").leaves("nothing changed"))
    }
}

/// Reads a public key, or finds it by its name in this signer's folder.
fn resolve_key(text: &str, folder: &KeyFolder) -> Result<PublicKey, Problem> {
    match PublicKey::from_hex(text) {
        Ok(key) => Ok(key),
        Err(_) if !folder.holds(text) && text.len() >= 40 => {
            let what = format!("`{text}` is no public key of 64 lower-case hexadecimal digits");
            Err(Problem::new(Kind::Usage, "key", what).leaves("nothing changed"))
        }
        Err(_) => folder.public(text).map_err(|error| signer::problem(&error)),
    }
}

/// Runs one command to its end.
pub(crate) fn run(cli: Cli, output: &Output) -> Result<(), Problem> {
    let settings = Settings::load(&cli.global)?;
    let context = Context { output, settings };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| {
        Problem::from_error(Kind::Runtime, "runtime", &error).leaves("nothing changed")
    })?;
    runtime.block_on(dispatch(cli.command, &context))
}

async fn dispatch(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Init(args) => init::run(args, context),
        Command::Serve(args) => serve::run(args, context).await,
        Command::Group(command) => group::run(command, context).await,
        Command::Team(command) => team::run(command, context).await,
        Command::Trust(command) => trust::run(command, context).await,
        Command::Key(command) => key::run(command, context),
        Command::Publish(command) => publish::run(command, context).await,
        Command::Manifest(command) => manifest::run(command, context).await,
        Command::Verify(args) => verify::run(args, context).await,
        Command::Host(args) => host::run(args, context).await,
        Command::Token(command) => token::run(command, context).await,
        Command::Status(args) => status::run(&args, context).await,
        Command::Hosts(args) => hosts::run(args, context).await,
        Command::Diff(args) => diff::run(args, context).await,
        Command::History(args) => history::run(args, context).await,
        Command::Doctor(args) => doctor::run(&args, context).await,
        Command::Audit(command) => audit::run(command, context).await,
        Command::Backup(args) => backup::backup(args, context).await,
        Command::Restore(args) => backup::restore(args, context).await,
        Command::Recover(args) => recover::run(args, context).await,
        Command::Migrate(args) => backup::migrate(&args, context),
        Command::Gc(args) => backup::gc(args, context).await,
        Command::Cache(command) => cache::run(command, context).await,
        Command::ClosureIndex(args) => closure_index::run(args, context).await,
        Command::Config(command) => config::run(&command, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::CompleteNames(args) => completions::names(&args, context).await,
    }
}
