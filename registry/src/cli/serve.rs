//! `registry serve`: the server.

use std::{net::SocketAddr, path::PathBuf};

use jiff::Timestamp;
use serde_json::json;
use shared::problem::{Kind, Problem};
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::{
    db::DbError,
    files::{self, Existing, Readers},
    realm::RealmError,
    serve::{Limits, Options, ServeError, Server},
};

/// Serve the published files and the API
///
/// Prints the address as its first line, so that port 0 can be asked for. Stops on SIGTERM.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server's folder; `registry init` makes it
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8420")]
    listen: SocketAddr,
    /// Serve this folder as a binary cache below /cache/
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Write the address to this file once the server listens
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Seconds after which a host that has not reported is stale: three polls
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    stale_after: u32,
}

/// Runs the server until it is told to stop.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let options = Options {
        data: args.data.unwrap_or_else(|| context.settings.data.value.clone()),
        listen: args.listen,
        cache: args.cache,
        stale_after: args.stale_after,
        retention: context.settings.retention,
        access: context.settings.access.clone(),
        limits: Limits::of_process(),
    };
    let server = Server::start(&options, Timestamp::now).await.map_err(|error| problem(&error))?;
    let address = server.address().map_err(|error| problem(&error))?;
    let url = format!("http://{address}");
    let stopper = server.stopper();
    let failed = |error| Problem::from_error(Kind::Runtime, "signal", &error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stopping = tokio::spawn(async move {
        tokio::select! {
            _signal = terminate.recv() => {}
            _signal = interrupt.recv() => {}
            () = stopper.cancelled() => {}
        }
        stopper.cancel();
    });
    context.output.data(&format!("{url}\n"), &json!({"schema": "serve.v1", "url": url}))?;
    if let Some(path) = &args.ready_file {
        let line = format!("{url}\n");
        files::write(path, line.as_bytes(), Readers::All, Existing::Replace)
            .map_err(|error| Problem::from_error(Kind::Runtime, "ready_file", &error))?;
    }
    tracing::info!(url, data = %options.data.display(), "serving");
    server.run().await;
    stopping.abort();
    tracing::info!("stopped");
    Ok(())
}

fn problem(error: &ServeError) -> Problem {
    let (kind, code, fix) = match error {
        ServeError::NoRealm(_) => (Kind::Usage, "no_realm", Some("make one")),
        ServeError::Locked(_) => (Kind::Conflict, "locked", Some("stop the other one")),
        ServeError::Listen { .. } => (Kind::Runtime, "listen", Some("choose another --listen")),
        ServeError::Data { .. } => (Kind::Runtime, "data", None),
        ServeError::Realm(
            RealmError::Damaged { .. } | RealmError::Refused { .. } | RealmError::OtherKey { .. },
        ) => (Kind::Trust, "realm", None),
        ServeError::Realm(_) => (Kind::Runtime, "realm", None),
        ServeError::Db(DbError::Newer { .. }) => {
            (Kind::Conflict, "newer_database", Some("run the newer program, or restore a backup"))
        }
        ServeError::Db(_) => (
            Kind::Runtime,
            "database",
            Some(
                "restore a backup; or move db.sqlite away: it is made anew of the files and the \
                 next reports, without tokens and revocations",
            ),
        ),
        ServeError::Enrolment(_) => (Kind::Runtime, "enrolment_key", None),
        ServeError::Io(_) => (Kind::Runtime, "server", None),
    };
    let mut problem = Problem::from_error(kind, code, error).leaves("nothing is served");
    if let Some(fix) = fix {
        problem = problem.fix(fix);
    }
    if matches!(error, ServeError::NoRealm(_)) {
        problem = problem.next("registry init");
    }
    problem
}
