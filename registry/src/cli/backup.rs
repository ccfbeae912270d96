//! `registry backup`, `restore`, `migrate` and `gc`: what keeps a server's folder well.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;
use shared::{
    human,
    problem::{Kind, Problem},
    time::Time,
};

use super::Context;
use crate::{
    backup::{self, BackupError, Note},
    db::{
        Db as _, DbError, Sqlite,
        sqlite::{self, Migrated},
    },
    serve::ServeError,
};

/// Copy all that a server has, while it runs
///
/// The copy is checked as it is made. It holds the server's own keys: keep it as you keep those.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// Where the copy goes: a folder that is not there yet; else one below the server's `backups`
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Make a server of a backup
///
/// The server must not run. What was published since the backup was made is not in it: hosts go on
/// with what they have, and `registry recover` brings the versions above those that they have seen.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// What `registry backup` made
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Move what is in the server's folder to its `backups` instead of refusing
    #[arg(long)]
    replace: bool,
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Bring the database to the schema of this program
///
/// Every command that opens it does so, and keeps a copy of the older one in `backups`; there is no
/// way back but that copy and the older program.
#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Delete what is older than the configuration says
///
/// A server does so by itself every hour: `[retention]` with `attempts`, `hosts` and `tokens`, in
/// seconds. What was published is never deleted.
#[derive(Debug, clap::Args)]
pub(crate) struct Gc {
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Makes a backup.
pub(crate) async fn backup(args: Backup, context: &Context<'_>) -> Result<(), Problem> {
    let data = folder(args.data.as_deref(), context);
    let now = Time::of(Timestamp::now());
    let to = args.to.unwrap_or_else(|| data.join("backups").join(backup::file_time(now)));
    let note = backup::make(&data, &to, now).await.map_err(|error| problem(&error))?;
    if let Err(error) = backup::note_made(&data, &note) {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "the server's metrics will not know of this backup");
    }
    context.output.say(&format!("Backed up {}.", told(&note)));
    context.output.say(&format!("Next: registry restore {} --data DIR", to.display()));
    let json = json!({"schema": "backup.v1", "backup": to, "note": note});
    context.output.data(&format!("{}\n", to.display()), &json)
}

/// Makes a server of a backup.
pub(crate) async fn restore(args: Restore, context: &Context<'_>) -> Result<(), Problem> {
    let data = folder(args.data.as_deref(), context);
    let now = Time::of(Timestamp::now());
    let note = backup::restore(&args.backup, &data, args.replace, now).await;
    let note = note.map_err(|error| problem(&error))?;
    let text = format!("Restored {} as it was at {}.\n", told(&note), note.made_at);
    let data = data.display().to_string();
    context.output.say("What was published since then is not in it.");
    context.output.say("Next: registry serve; then registry recover, once hosts have reported");
    context.output.data(&text, &json!({"schema": "restore.v1", "data": data, "note": note}))
}

fn told(note: &Note) -> String {
    let realms: Vec<String> = note
        .realms
        .iter()
        .map(|(name, version)| format!("realm {name} at timestamp {version}"))
        .collect();
    realms.join(", ")
}

/// Brings the database to our schema.
pub(crate) fn migrate(args: &Migrate, context: &Context<'_>) -> Result<(), Problem> {
    let data = folder(args.data.as_deref(), context);
    if !sqlite::file(&data).exists() {
        let what = format!("there is no database in `{}`", data.display());
        return Err(Problem::new(Kind::Usage, "no_data", what)
            .leaves("nothing changed")
            .fix("give the server's folder with --data DIR"));
    }
    let (_, migrated) = sqlite::connect(&data).map_err(|error| problem(&error.into()))?;
    let known = sqlite::KNOWN;
    let (text, json) = match migrated {
        Migrated::No => (
            format!("The database has schema {known} already.\n"),
            json!({"schema": "migrate.v1", "from": known, "to": known}),
        ),
        Migrated::From { schema, backup } => (
            format!("Schema {schema} → {known}; as it was it lies at {}.\n", backup.display()),
            json!({"schema": "migrate.v1", "from": schema, "to": known, "backup": backup}),
        ),
    };
    context.output.data(&text, &json)
}

/// Deletes what is too old.
pub(crate) async fn gc(args: Gc, context: &Context<'_>) -> Result<(), Problem> {
    let data = folder(args.data.as_deref(), context);
    let db = Sqlite::open(&data).map_err(|error| problem(&error.into()))?;
    let pruned = db.prune(context.settings.retention, Time::of(Timestamp::now())).await;
    let pruned = pruned.map_err(|error| problem(&error.into()))?;
    let text = format!(
        "Deleted {}, {}, {}.\n",
        human::count(pruned.attempts, "attempt"),
        human::count(pruned.hosts, "host"),
        human::count(pruned.tokens, "token")
    );
    let json = json!({
        "schema": "gc.v1",
        "attempts": pruned.attempts, "hosts": pruned.hosts, "tokens": pruned.tokens,
    });
    context.output.data(&text, &json)
}

fn folder(given: Option<&Path>, context: &Context<'_>) -> PathBuf {
    given.map_or_else(|| context.settings.data.value.clone(), Path::to_owned)
}

/// Tells what went wrong with a server's folder.
pub(crate) fn problem(error: &BackupError) -> Problem {
    let (kind, code, fix) = match error {
        BackupError::None(_) => {
            (Kind::Usage, "no_backup", Some("name what registry backup printed"))
        }
        BackupError::Exists(_) => {
            (Kind::Conflict, "exists", Some("name another folder; restore can --replace one"))
        }
        BackupError::Serve(ServeError::Locked(_)) => {
            (Kind::Conflict, "locked", Some("stop the server first"))
        }
        BackupError::Db(DbError::Newer { .. }) => {
            (Kind::Conflict, "newer_database", Some("run the newer program"))
        }
        BackupError::Realm(_) => (Kind::Trust, "realm", Some("registry verify tells more")),
        BackupError::Db(_) => (Kind::Runtime, "database", None),
        BackupError::File { .. } | BackupError::Write(_) | BackupError::Serve(_) => {
            (Kind::Runtime, "data", None)
        }
    };
    let problem = Problem::from_error(kind, code, error).leaves("nothing was replaced");
    match fix {
        Some(fix) => problem.fix(fix),
        None => problem,
    }
}
