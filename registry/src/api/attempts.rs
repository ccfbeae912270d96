//! `GET /hosts/{host}/attempts` and `/generations`: what became of a host's switches.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{HostAttempt, HostGeneration, Page, Phase},
    human,
    id::{GroupName, ProfileName, RealmName},
    report::{Attempt, ProfileReport},
};

use super::{
    error::ApiError,
    extract::{Path, Query, refuse},
    hosts, limit,
};
use crate::{
    app::App,
    db::{
        Db as _,
        attempts::{AttemptQuery, AttemptRow},
        hosts::HostRow,
    },
};

/// Bytes of a log that a list shows; one attempt alone has all of it.
const TAIL: usize = 4096;

/// Which attempts are asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only of this target, `group/profile`.
    target: Option<String>,
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Lists what became of a host's attempts, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/hosts/{host}/attempts",
    tag = "hosts",
    params(("realm" = String, Path), ("host" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<HostAttempt>))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path((realm, host)): Path<(String, String)>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<HostAttempt>>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let before = filter.cursor.as_deref().map(str::parse).transpose();
    let before = before.map_err(|_| refuse("the cursor is none of ours"))?;
    let host = hosts::find(&app, &realm, &host).await?.certificate.host;
    let limit = limit(filter.limit);
    let query = AttemptQuery {
        target: filter.target,
        before,
        ..AttemptQuery::latest(realm, host, limit + 1)
    };
    let found = app.db.attempts(query).await;
    let mut rows = found.map_err(|error| ApiError::internal(&error))?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|last| last.key.to_string());
    let items = rows.into_iter().filter_map(|row| told(row, Some(TAIL))).collect();
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}

/// Shows one attempt of a host, with all that is kept of its output.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/hosts/{host}/attempts/{attempt}",
    tag = "hosts",
    params(("realm" = String, Path), ("host" = String, Path), ("attempt" = String, Path)),
    responses((status = 200, description = "The attempt", body = HostAttempt))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path((realm, host, attempt)): Path<(String, String, String)>,
) -> Result<Json<HostAttempt>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let host = hosts::find(&app, &realm, &host).await?.certificate.host;
    let query = AttemptQuery { attempt: Some(attempt), ..AttemptQuery::latest(realm, host, 1) };
    let found = app.db.attempts(query).await.map_err(|error| ApiError::internal(&error))?;
    let told = found.into_iter().find_map(|row| told(row, None));
    told.map(Json).ok_or_else(|| ApiError::not_found("the host has told of no such attempt"))
}

/// Lists the generations that a host told of, by profile, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/hosts/{host}/generations",
    tag = "hosts",
    params(("realm" = String, Path), ("host" = String, Path)),
    responses((status = 200, description = "All of them", body = Page<HostGeneration>))
)]
pub(crate) async fn generations(
    State(app): State<Arc<App>>,
    Path((realm, host)): Path<(String, String)>,
) -> Result<Json<Page<HostGeneration>>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let host = hosts::find(&app, &realm, &host).await?;
    let items = generations_of(&app, realm, host).await?;
    Ok(Json(Page { items, next_cursor: None, as_of: app.time() }))
}

async fn generations_of(
    app: &App,
    realm: RealmName,
    host: HostRow,
) -> Result<Vec<HostGeneration>, ApiError> {
    let query = AttemptQuery::latest(realm, host.certificate.host, super::MAX_LIMIT);
    let found = app.db.attempts(query).await.map_err(|error| ApiError::internal(&error))?;
    let attempts = found.into_iter().map(|row| (row.told_at, row.profile, false));
    let reported_at = host.reported_at.unwrap_or(host.enrolled_at);
    let now = host.report.into_iter().flat_map(|report| report.profiles);
    let now = now.map(|profile| (reported_at, profile, true));
    let mut known: BTreeMap<(GroupName, ProfileName, std::cmp::Reverse<u64>), HostGeneration> =
        BTreeMap::new();
    // The latest first: what is met again was heard of earlier.
    for (told_at, profile, is_running) in now.chain(attempts) {
        let ProfileReport { group, profile, running: Some(generation), .. } = profile else {
            continue;
        };
        let place = (group.clone(), profile.clone(), std::cmp::Reverse(generation.generation));
        known
            .entry(place)
            .and_modify(|known| known.told_at = known.told_at.min(told_at))
            .or_insert(HostGeneration { group, profile, generation, told_at, is_running });
    }
    Ok(known.into_values().collect())
}

/// Puts an attempt as it was told into the form of the API.
fn told(row: AttemptRow, most: Option<usize>) -> Option<HostAttempt> {
    let AttemptRow { mut profile, told_at, .. } = row;
    hosts::keep_what_is_ours(&mut profile);
    let Attempt { id, phases, log } = profile.attempt?;
    let shown = most.map_or(log.as_str(), |most| human::tail(&log, most));
    Some(HostAttempt {
        id,
        group: profile.group,
        profile: profile.profile,
        state: profile.state,
        since: profile.since,
        reason: profile.reason,
        next: profile.next,
        wanted: profile.wanted,
        running: profile.running,
        phases: phases
            .into_iter()
            .map(|(phase, began, seconds)| Phase { phase, began, seconds })
            .collect(),
        log_is_cut: shown.len() < log.len(),
        log: shown.to_owned(),
        told_at,
    })
}
