//! `registry config show`: every setting, and where it comes from.

use serde_json::json;
use shared::problem::Problem;

use super::Context;

/// Show the configuration
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print every setting and where it comes from
    Show,
}

/// Runs one of the commands.
pub(crate) fn run(command: &Command, context: &Context<'_>) -> Result<(), Problem> {
    let Command::Show = command;
    let rows = context.settings.rows();
    let text: String = rows
        .iter()
        .map(|row| format!("{} = {:?}  # {}\n", row.key, row.value, row.origin))
        .collect();
    let json: Vec<_> = rows
        .iter()
        .map(|row| json!({"key": row.key, "value": row.value, "origin": row.origin}))
        .collect();
    context.output.data(&text, &json!({"schema": "config.v1", "settings": json}))
}
