//! Whether the server lives, and whether it can do its work.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use shared::problem::{Kind, Problem};

use super::error::ApiError;
use crate::{app::App, db::Db as _};

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

/// Answers that files and database can be used, and that what is served is fresh.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "the server",
    responses((status = 200, description = "It serves", body = String, content_type = "text/plain; charset=utf-8"))
)]
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<String, ApiError> {
    app.db.ping().await.map_err(|error| ApiError::internal(&error))?;
    let now = app.now();
    let mut notes = "ok\n".to_owned();
    for realm in app.realms.values() {
        if realm.expires() <= now {
            let what = format!("the timestamp of realm `{}` has expired", realm.name());
            let problem = Problem::new(Kind::Runtime, "expired", what).fix("look into the log");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, problem));
        }
        let ahead = app.db.seen_ahead(realm.name().clone()).await;
        if let Some(ahead) = ahead.map_err(|error| ApiError::internal(&error))? {
            // It serves; who looks at it is told all the same.
            notes.push_str(&format!(
                "realm {}: {} of its hosts have seen newer files, up to timestamp {}; these may be \
                 of an old backup: registry recover\n",
                realm.name(),
                ahead.hosts,
                ahead.timestamp
            ));
        }
    }
    Ok(notes)
}
