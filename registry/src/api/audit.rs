//! `GET /audit`: who published, enrolled, revoked, what and when.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::api::{AuditEntry, Page};

use super::{
    error::ApiError,
    extract::{Path, Query, refuse},
    limit,
};
use crate::{
    app::App,
    db::{
        Db as _,
        events::{Event, Noted},
    },
};

/// Which part of the log is asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended: the number of its last entry.
    cursor: Option<String>,
}

/// Lists what happened, oldest first.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/audit",
    tag = "audit",
    params(("realm" = String, Path), Filter),
    responses((status = 200, description = "A part of the log", body = Page<AuditEntry>))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<AuditEntry>>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let after = filter.cursor.as_deref().map_or(Ok(0), str::parse::<u32>);
    let after = after.map_err(|_| refuse("the cursor is none of ours"))?;
    let limit = limit(filter.limit);
    let found = app.db.events(realm, after.into(), limit + 1).await;
    let mut found = found.map_err(|error| ApiError::of_database(&error))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|last| last.number.to_string());
    let items = found.into_iter().map(entry).collect();
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}

/// Puts an event into the form of the API.
pub(super) fn entry(Noted { number, event }: Noted) -> AuditEntry {
    let Event { at, what, subject, detail, .. } = event;
    AuditEntry { number, at, what: what.word().to_owned(), subject, detail }
}
