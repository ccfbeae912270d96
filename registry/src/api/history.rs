//! `GET /groups/{group}/history`: what was published for a group.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{Page, Publication},
    id::{GroupName, ProfileName},
};

use super::{
    error::ApiError,
    extract::{Path, Query},
    limit,
};
use crate::{
    app::App,
    db::{Db as _, publications},
};

/// Which part of the history is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    profile: Option<ProfileName>,
    limit: Option<usize>,
    cursor: Option<usize>,
}

/// Lists publications, the latest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path((realm, group)): Path<(String, GroupName)>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Publication>>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let (limit, skip) = (limit(filter.limit), filter.cursor.unwrap_or(0));
    let query = publications::Query {
        realm,
        group,
        profile: filter.profile,
        version: None,
        limit: limit + 1,
        skip,
    };
    let listing = app.db.publications(query).await;
    let mut items = listing.map_err(|error| ApiError::internal(&error))?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = more.then(|| (skip + limit).to_string());
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}
