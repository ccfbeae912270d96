//! `registry token`: who may read what a closed registry knows.

use serde_json::{Value, json};
use shared::{
    human,
    id::TokenName,
    problem::{Kind, Problem},
};

use super::{
    Context,
    place::{Place, failed, fresh_token, lifetime, now},
};
use crate::{
    db::{
        Db as _,
        tokens::{self, ReadToken},
    },
    table,
};

/// Make tokens with which a closed registry can be read; see and revoke them
///
/// They count where `[access]` of the server's configuration says `reads = "token"` or
/// `"proxy-header"`. Whoever has one may read its realm and the metrics, and change nothing. The
/// commands run where the server's folder is. Tokens live in the database, and by its backups.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Print a token with which the API can be read; only its hash is kept
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Whose it is, such as `grafana`
    #[arg(value_name = "NAME")]
    name: TokenName,
    /// How long it lasts: a number and `s`, `m`, `h` or `d`
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = lifetime)]
    ttl: i64,
    #[command(flatten)]
    place: Place,
}

/// List read tokens by name, also those that have ended
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
}

/// Let nobody read with a token any more; streams of events that it opened end within a minute
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// Whose it is
    #[arg(value_name = "NAME")]
    name: TokenName,
    #[command(flatten)]
    place: Place,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Create(args) => create(args, context).await,
        Command::List(args) => list(&args, context).await,
        Command::Revoke(args) => revoke(args, context).await,
    }
}

async fn create(args: Create, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let (token, created_at) = (fresh_token()?, now());
    let expires_at = created_at.plus(args.ttl);
    let kept = ReadToken { realm: realm.clone(), name: args.name.clone(), created_at, expires_at };
    let added = db.add_read_token(tokens::hash(&token), kept).await;
    if !added.map_err(|error| failed(&error))? {
        let what = format!("there is a read token `{}` already", args.name);
        return Err(Problem::new(Kind::Conflict, "token_exists", what)
            .leaves("nothing changed")
            .fix("choose another name, or revoke that one first")
            .next(format!("registry token revoke {}", args.name)));
    }
    let lasts = human::span(jiff::SignedDuration::from_secs(args.ttl));
    context.output.say(&format!("For {} to read realm {realm}, for {lasts}:", args.name));
    let json = json!({
        "schema": "read-token.v1",
        "token": token,
        "name": args.name,
        "realm": realm,
        "expires_at": expires_at,
    });
    context.output.data(&format!("{token}\n"), &json)
}

async fn list(args: &List, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let all = db.read_tokens(realm).await.map_err(|error| failed(&error))?;
    let now = now();
    let state = |it: &ReadToken| if it.expires_at <= now { "ended" } else { "good" };
    let rows: Vec<[String; 4]> = all
        .iter()
        .map(|it| {
            let (made, until) = (it.created_at.to_string(), it.expires_at.to_string());
            [it.name.to_string(), state(it).to_owned(), made, until]
        })
        .collect();
    let mut text = table::render(["NAME", "STATE", "MADE", "UNTIL"], &rows);
    if all.is_empty() {
        text = String::new();
        context.output.say("There is no read token.");
        context.output.say("Next: registry token create NAME");
    }
    let json: Vec<Value> = all
        .iter()
        .map(|it| {
            json!({
                "name": it.name,
                "state": state(it),
                "created_at": it.created_at,
                "expires_at": it.expires_at,
            })
        })
        .collect();
    context.output.data(&text, &json!({"schema": "read-token-list.v1", "tokens": json}))
}

async fn revoke(args: Revoke, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let known = db.revoke_read_token(realm, args.name.clone(), now()).await;
    if !known.map_err(|error| failed(&error))? {
        let what = format!("there is no read token `{}`", args.name);
        return Err(Problem::new(Kind::Negative, "no_token", what)
            .leaves("nothing changed")
            .next("registry token list"));
    }
    let text = format!("Nobody reads with the token of {} any more.\n", args.name);
    let json = json!({"schema": "read-token-revoke.v1", "name": args.name});
    context.output.data(&text, &json)
}
