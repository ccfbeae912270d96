//! Whether the server lives, whether it can do its work, and what monitoring asks of it.
//!
//! `/readyz` is as Kubernetes has it: the status decides, `?verbose` tells each check, and
//! `?exclude=NAME` leaves one out. A cache that is away is no reason to be not ready: hosts ask it
//! by themselves, and what is served here is as good without it.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
};
use jiff::Timestamp;
use serde::Serialize;
use shared::{api::OPEN_METRICS, human, problem, version::SoftwareVersion};
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use super::{blocking, error::ApiError};
use crate::{
    app::App,
    db::Db as _,
    files,
    metrics::{FleetError, Seen},
};

/// Room on the disk below which nothing more is sure to be written: a publication of the largest
/// size, and the log of the database beside it.
const ROOM: u64 = 256 * 1024 * 1024;

/// How long before its end signed metadata counts as not fresh: it should have been signed anew for
/// days, and a server that cannot do that is soon of no use to any host.
const NEAR_END: i64 = 3600;

/// How long a database may take to answer. Longer than any load balancer waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers that the process lives.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "the server",
    responses((status = 200, description = "It lives", body = String, content_type = "text/plain; charset=utf-8"))
)]
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// The version of the program.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    /// Always `version.v1`.
    schema: &'static str,
    /// Three numbers with dots.
    #[schema(value_type = String)]
    version: SoftwareVersion,
}

/// Answers with the version of the program.
#[utoipa::path(
    get,
    path = "/version",
    tag = "the server",
    responses((status = 200, description = "The version", body = Version))
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { schema: "version.v1", version: SoftwareVersion::current() })
}

/// Answers with what is counted and how the fleet is, as OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "the server",
    responses((
        status = 200,
        description = "The metrics",
        body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    ))
)]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
) -> Result<([(HeaderName, HeaderValue); 1], String), ApiError> {
    let seen = Seen::look(&app).await.map_err(|error| match &error {
        FleetError::Db(database) => ApiError::of_database(database),
        FleetError::Realm(_) | FleetError::Files(_) => ApiError::internal(&error),
    })?;
    let text = app.metrics.text(&app, &seen).map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS))], text))
}

/// A thing that must be as it should for the server to do its work.
struct Check {
    name: String,
    /// What is wrong; told to whoever asks, so it names no file.
    failure: Option<String>,
}

/// How readiness is asked for.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "a description; one name may be given several times, or no value")]
struct Asked {
    /// Tell each check; with any value, or none.
    verbose: Option<String>,
    /// Leave out the check of this name; may be given several times.
    exclude: Option<String>,
}

/// Answers whether the server can do its work.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "the server",
    params(Asked),
    responses(
        (status = 200, description = "It serves", body = String, content_type = "text/plain; charset=utf-8"),
        (status = 503, description = "It does not; each check is told", body = String, content_type = "text/plain; charset=utf-8"),
    )
)]
pub(crate) async fn ready(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    let (mut verbose, mut excluded) = (false, Vec::new());
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*key {
            "verbose" => verbose = true,
            "exclude" => excluded.push(value.into_owned()),
            _ => {}
        }
    }
    let mut checks = checks(&app).await;
    checks.retain(|check| !excluded.contains(&check.name));
    let fails = checks.iter().any(|check| check.failure.is_some());
    let mut text = String::new();
    if verbose || fails {
        for Check { name, failure } in &checks {
            // Writing to a string does not fail.
            let _written = match failure {
                None => writeln!(text, "[+]{name} ok"),
                Some(failure) => writeln!(text, "[-]{name} failed: {}", human::plain(failure)),
            };
        }
    }
    if fails {
        text.push_str("readyz check failed\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    text.push_str(if verbose { "readyz check passed\n" } else { "ok\n" });
    text.push_str(&notes(&app).await);
    (StatusCode::OK, text)
}

async fn checks(app: &Arc<App>) -> Vec<Check> {
    let now = app.now();
    let check =
        |name: &str, done: Result<(), String>| Check { name: name.to_owned(), failure: done.err() };
    let stopping =
        if app.stopping.is_cancelled() { Err("the server stops".to_owned()) } else { Ok(()) };
    let mut checks = vec![check("ping", Ok(())), check("shutdown", stopping)];
    let (read, written) = tokio::join!(
        tokio::time::timeout(PATIENCE, app.db.ping()),
        tokio::time::timeout(PATIENCE, app.db.check_writer())
    );
    for (name, done) in [("database-read", read), ("database-write", written)] {
        let done = done.map_err(|_elapsed| "it does not answer".to_owned());
        let done = done.and_then(|done| done.map_err(|error| logged(name, &error)));
        checks.push(check(name, done));
    }
    checks.push(check("disk-room", room(app).await));
    for realm in app.realms.values() {
        for (role, expires) in
            [("timestamp", realm.expires()), ("snapshot", realm.snapshot_expires().into())]
        {
            checks.push(check(&format!("{role}/{}", realm.name()), fresh(expires, now)));
        }
    }
    checks
}

/// Tells what is wrong to the log, and that it is wrong to whoever asks.
fn logged(check: &str, error: &(dyn std::error::Error + 'static)) -> String {
    tracing::warn!(check, error = problem::chain(error), "the server is not ready");
    "the registry's log says why".to_owned()
}

async fn room(app: &App) -> Result<(), String> {
    let data = app.data.clone();
    match blocking(move || files::free(&data)).await {
        Ok(Ok(free)) if free < ROOM => {
            Err(format!("{} free, {} needed", human::size(free), human::size(ROOM)))
        }
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(logged("disk-room", &error)),
        Err(_logged) => Err("the registry's log says why".to_owned()),
    }
}

fn fresh(expires: Timestamp, now: Timestamp) -> Result<(), String> {
    let left = expires.as_second() - now.as_second();
    if left <= 0 {
        return Err(format!("it has expired at {expires}"));
    }
    if left < NEAR_END {
        return Err(format!("it expires at {expires} and was not signed anew"));
    }
    Ok(())
}

/// What is no reason not to serve, but to look.
async fn notes(app: &App) -> String {
    let mut notes = String::new();
    for realm in app.realms.values() {
        if let Ok(Some(ahead)) = app.db.seen_ahead(realm.name().clone()).await {
            let _written = writeln!(
                notes,
                "realm {}: {} of its hosts have seen newer files, up to timestamp {}; these may be \
                 of an old backup: registry recover",
                realm.name(),
                ahead.hosts,
                ahead.timestamp
            );
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_that_nobody_signs_anew_is_not_fresh_before_it_has_expired() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        assert_eq!(fresh(at(10_000), at(0)), Ok(()));
        assert!(fresh(at(10_000), at(7000)).unwrap_err().contains("not signed anew"));
        assert!(fresh(at(10_000), at(10_000)).unwrap_err().contains("has expired"));
    }
}
