//! `registry audit`: who signed, published, enrolled and revoked, what and when.

use std::path::PathBuf;

use serde_json::{Value, json};
use shared::{
    human,
    problem::{Kind, Problem},
};

use super::Context;
use crate::{
    db::{Db as _, DbError, Sqlite, events::Noted},
    table, trusted_realm,
};

/// Events that are read at once.
const PAGE: usize = 500;

/// See what happened
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Log(Log),
    /// Print what happened, one JSON object a line, oldest first
    Export(Log),
}

/// List what happened, oldest first
///
/// A plain table of the server's. What was published is proven by the signed files alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Log {
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Log(args) => {
            let events = events(&args, context).await?;
            let rows: Vec<[String; 4]> = events.iter().map(row).collect();
            let text = table::render(["AT", "WHAT", "ON", "DETAIL"], &rows);
            let json: Vec<Value> = events.iter().map(told).collect();
            context.output.data(&text, &json!({"schema": "audit-log.v1", "events": json}))
        }
        Command::Export(args) => {
            let lines: Vec<String> =
                events(&args, context).await?.iter().map(|it| format!("{}\n", told(it))).collect();
            context.output.bytes(lines.concat().as_bytes())
        }
    }
}

async fn events(args: &Log, context: &Context<'_>) -> Result<Vec<Noted>, Problem> {
    let data = args.data.clone().unwrap_or_else(|| context.settings.data.value.clone());
    let realm = trusted_realm::realm_name(&context.settings)?;
    let db = Sqlite::open(&data).map_err(|error| failed(&error))?;
    let mut events: Vec<Noted> = Vec::new();
    loop {
        let after = events.last().map_or(0, |last| last.number);
        let page = db.events(realm.clone(), after, PAGE).await.map_err(|error| failed(&error))?;
        if page.is_empty() {
            return Ok(events);
        }
        events.extend(page);
    }
}

fn row(noted: &Noted) -> [String; 4] {
    let event = &noted.event;
    [
        event.at.to_string(),
        event.what.word().to_owned(),
        human::plain(&event.subject),
        human::plain(&event.detail),
    ]
}

fn told(Noted { number, event }: &Noted) -> Value {
    json!({
        "number": number,
        "at": event.at,
        "what": event.what,
        "on": event.subject,
        "detail": event.detail,
    })
}

fn failed(error: &DbError) -> Problem {
    Problem::from_error(Kind::Runtime, "database", error).leaves("nothing changed")
}
