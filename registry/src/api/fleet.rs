//! `GET /fleet`: all of it at a glance, from kept counts and ends of indexes.

use std::sync::Arc;

use axum::{Json, extract::State};
use shared::{
    api::{Fleet, Freshness, GroupCounts, HostSummary},
    id::RealmName,
    state_word::StateWord,
};

use super::{error::ApiError, extract::Path, groups, hosts};
use crate::{
    app::App,
    db::{
        Db as _,
        hosts::{HostQuery, Sort},
    },
};

/// How many hosts that need attention are told.
const ATTENTION: usize = 20;
/// The states that do not end by themselves, the worst first.
const NEED_ATTENTION: [StateWord; 4] =
    [StateWord::Untrusted, StateWord::Failed, StateWord::RolledBack, StateWord::Stale];

/// Shows the fleet: how many hosts are in which state, who needs attention, how fresh this is.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/fleet",
    tag = "fleet",
    params(("realm" = String, Path)),
    responses((status = 200, description = "The fleet", body = Fleet))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
) -> Result<Json<Fleet>, ApiError> {
    let realm = app.realm(&realm)?;
    let failed = |error| ApiError::of_database(&error);
    let states = app.db.counts(realm.name().clone(), None).await.map_err(failed)?;
    let groups = groups::counts(&app, realm).await?.into_iter();
    let groups = groups
        .map(|(group, states)| GroupCounts { group, hosts: states.values().sum(), states })
        .collect();
    let (signed_at, expires) = realm.signed_for();
    let ahead = app.db.seen_ahead(realm.name().clone()).await.map_err(failed)?;
    let freshness = Freshness {
        root: realm.version("root"),
        snapshot: realm.version("snapshot"),
        timestamp: realm.version("timestamp"),
        signed_at,
        expires,
        oldest_report: app.db.oldest_report().await.map_err(failed)?,
        seen_ahead: ahead.map(|ahead| ahead.timestamp),
    };
    Ok(Json(Fleet {
        realm: realm.name().clone(),
        hosts: states.values().sum(),
        states,
        groups,
        needs_attention: needs_attention(&app, realm.name()).await?,
        freshness,
        as_of: app.time(),
    }))
}

async fn needs_attention(app: &App, realm: &RealmName) -> Result<Vec<HostSummary>, ApiError> {
    let first = HostQuery::first(realm.clone(), ATTENTION);
    let query = HostQuery { states: Some(NEED_ATTENTION.to_vec()), sort: Sort::State, ..first };
    let found = app.db.hosts(query).await.map_err(|error| ApiError::of_database(&error))?;
    Ok(found.rows.into_iter().map(hosts::summary).collect())
}
