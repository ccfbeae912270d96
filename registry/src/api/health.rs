//! Whether the server lives, and whether it can do its work.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use shared::problem::{Kind, Problem};

use super::error::ApiError;
use crate::app::App;

/// Answers that the process lives.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// Answers that files and database can be used, and that what is served is fresh.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    let asked = app.db.read(|db| Ok(db.query_row("SELECT 1", [], |row| row.get::<_, u32>(0))?));
    asked.await.map_err(|error| ApiError::internal(&error))?;
    let now = app.now();
    for realm in app.realms.values() {
        if realm.expires() <= now {
            let what = format!("the timestamp of realm `{}` has expired", realm.name());
            let problem = Problem::new(Kind::Runtime, "expired", what).fix("look into the log");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, problem));
        }
    }
    Ok("ok\n")
}
