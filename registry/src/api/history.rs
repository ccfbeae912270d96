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
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only this profile.
    profile: Option<ProfileName>,
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<usize>,
}

/// Lists publications, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups/{group}/history",
    tag = "groups",
    params(("realm" = String, Path), ("group" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<Publication>))
)]
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
