//! `registry audit`: who signed, published, enrolled and revoked, what and when.

use std::path::PathBuf;

use serde_json::{Value, json};
use shared::{
    human,
    problem::{Kind, Problem},
};

use super::Context;
use crate::{
    audit::{self, Replayed},
    blobs::Blobs,
    db::{Db as _, DbError, Sqlite, events::Noted},
    table, trusted_realm,
};

/// Events that are read at once.
const PAGE: usize = 500;

/// See what happened, and whether the signed files bear it out
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Log(Log),
    /// Print what happened, one JSON object a line, oldest first
    Export(Log),
    /// Replay every version of every role from the signed files
    ///
    /// Each is judged by the code that hosts have, against the keys and fences of its own time.
    /// Ends with 1 if one is refused, or missing in the table of what happened.
    Verify(Log),
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
        Command::Verify(args) => verify(&args, context).await,
    }
}

async fn verify(args: &Log, context: &Context<'_>) -> Result<(), Problem> {
    let data = args.data.clone().unwrap_or_else(|| context.settings.data.value.clone());
    let realm = trusted_realm::realm_name(&context.settings)?;
    let blobs = Blobs::new(crate::realm::folder(&data, &realm));
    let replayed = audit::replay(&realm, blobs).map_err(|error| {
        Problem::from_error(Kind::Runtime, "data", &error).leaves("nothing changed")
    })?;
    let db = Sqlite::open(&data).map_err(|error| failed(&error))?;
    let roles = replayed.iter().filter(|it| !["root", "snapshot"].contains(&it.role.as_str()));
    let roles = roles.map(|it| (it.role.clone(), it.version)).collect();
    let untold = db.missing_roles(realm, roles).await.map_err(|error| failed(&error))?;
    let is_untold = |it: &Replayed| untold.contains(&(it.role.clone(), it.version));
    let rows: Vec<[String; 4]> = replayed
        .iter()
        .map(|it| {
            let short = |key: &String| key.chars().take(8).collect::<String>();
            let (keys, verdict) = match &it.outcome {
                Ok(keys) => (keys.iter().map(short).collect::<Vec<_>>().join(","), "good"),
                Err(why) => (String::new(), why.as_str()),
            };
            let verdict = if is_untold(it) {
                format!("{verdict}, not in the log")
            } else {
                verdict.to_owned()
            };
            [it.role.clone(), it.version.to_string(), keys, human::plain(&verdict)]
        })
        .collect();
    let json: Vec<Value> = replayed
        .iter()
        .map(|it| {
            json!({
                "role": it.role,
                "version": it.version,
                "signers": it.outcome.as_ref().ok(),
                "refused": it.outcome.as_ref().err(),
                "logged": !is_untold(it),
            })
        })
        .collect();
    let text = table::render(["ROLE", "VERSION", "KEYS", "VERDICT"], &rows);
    context.output.data(&text, &json!({"schema": "audit-verify.v1", "roles": json}))?;
    let bad = replayed.iter().filter(|it| it.outcome.is_err() || is_untold(it)).count();
    if bad == 0 {
        return Ok(());
    }
    let what = format!("{} of the past cannot be borne out", human::count(bad, "version"));
    Err(Problem::new(Kind::Negative, "audit", what)
        .leaves("nothing changed")
        .fix("compare with a backup or a mirror from before"))
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
