//! `agent config show`: what holds on this host, and where it was written.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use shared::problem::{Kind, Problem};

use crate::cli::Context;
use crate::config::{self, Config, ConfigError};

/// Look at this host's configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every value and where it was written.
    Show,
}

/// Runs it.
pub(crate) fn run(command: &ConfigCommand, context: &Context) -> Result<(), Problem> {
    match command {
        ConfigCommand::Show => show(context),
    }
}

/// Returns where the configuration is.
pub(crate) fn path(context: &Context) -> PathBuf {
    context.config.clone().unwrap_or_else(|| Path::new(config::DEFAULT_PATH).to_owned())
}

/// Reads the configuration that holds.
pub(crate) fn load(context: &Context) -> Result<Config, Problem> {
    config::load(&path(context)).map_err(|error| problem(&error))
}

/// Tells why there is no configuration.
pub(crate) fn problem(error: &ConfigError) -> Problem {
    let kind = match error {
        ConfigError::Read { .. } => Kind::Runtime,
        ConfigError::Absent { .. }
        | ConfigError::Parse { .. }
        | ConfigError::UnknownKey { .. }
        | ConfigError::Invalid { .. } => Kind::Usage,
    };
    let problem = Problem::from_error(kind, "config", error).leaves("nothing changed");
    match error {
        ConfigError::Absent { .. } => {
            problem.next("agent enroll URL --group GROUP --token-file FILE --trust FINGERPRINT")
        }
        ConfigError::UnknownKey { .. } => {
            problem.fix("correct the key, or take it out").next("agent config show")
        }
        ConfigError::Read { .. } => problem.fix("let the user that runs the agent read it"),
        ConfigError::Parse { .. } | ConfigError::Invalid { .. } => {
            problem.fix("correct it there").next("agent config show")
        }
    }
}

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    values: Vec<Value>,
}

#[derive(Serialize)]
struct Value {
    key: String,
    value: toml::Value,
    origin: String,
}

fn show(context: &Context) -> Result<(), Problem> {
    let config = load(context)?;
    let values: Vec<Value> = config
        .values
        .into_iter()
        .map(|(key, value, origin)| Value { key, value, origin: origin.to_string() })
        .collect();
    if context.output.is_json() {
        return context.output.json(&Shown { schema: "config.v1", values });
    }
    let lines: Vec<String> =
        values.iter().map(|value| format!("{} = {}", value.key, value.value)).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    for (line, value) in lines.iter().zip(&values) {
        context.output.data(&format!("{line:width$}  # {}", value.origin))?;
    }
    Ok(())
}
