//! `GET /teams` and `GET /keys`: who may sign what, with which keys, until when.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{Fence, Key, KeyRole, Page, Team},
    id::RawKey,
    time::Time,
    trust::{PublicKey, writer::Keyring},
};

use super::{
    error::ApiError,
    extract::{Path, Query},
    groups, limit,
};
use crate::{
    app::App,
    realm::{
        Realm,
        catalog::{Catalog, Role},
    },
};

/// Which part of a list is asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only those that begin so.
    q: Option<String>,
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Lists teams, their sub-roles and the owners of groups, by name.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/teams",
    tag = "teams and keys",
    params(("realm" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<Team>))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Team>>, ApiError> {
    let catalog = groups::catalog(app.realm(&realm)?).await?;
    let teams = catalog.roles.iter().map(|role| (role.name.clone(), role)).collect();
    let (roles, next_cursor) = page(teams, filter);
    let items = roles.into_iter().map(team).collect();
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}

/// Shows one team, sub-role, or owners of a group.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/teams/{team}",
    tag = "teams and keys",
    params(("realm" = String, Path), ("team" = String, Path)),
    responses((status = 200, description = "The team", body = Team))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path((realm, name)): Path<(String, String)>,
) -> Result<Json<Team>, ApiError> {
    let catalog = groups::catalog(app.realm(&realm)?).await?;
    let found = catalog.roles.iter().find(|role| role.name == name);
    found.map(|role| Json(team(role))).ok_or_else(|| ApiError::not_found("there is no such team"))
}

/// Lists the public keys of a realm, by their ids.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/keys",
    tag = "teams and keys",
    params(("realm" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<Key>))
)]
pub(crate) async fn keys(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Key>>, ApiError> {
    let realm = app.realm(&realm)?;
    let catalog = groups::catalog(realm).await?;
    let (items, next_cursor) = page(all_keys(realm, &catalog), filter);
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}

/// Shows one public key.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/keys/{key}",
    tag = "teams and keys",
    params(("realm" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "The key", body = Key))
)]
pub(crate) async fn key(
    State(app): State<Arc<App>>,
    Path((realm, id)): Path<(String, String)>,
) -> Result<Json<Key>, ApiError> {
    let realm = app.realm(&realm)?;
    let catalog = groups::catalog(realm).await?;
    let found = all_keys(realm, &catalog).remove(&id);
    found.map(Json).ok_or_else(|| ApiError::not_found("there is no such key"))
}

/// Cuts a page out of what is sorted by a word that is unique.
fn page<T>(all: BTreeMap<String, T>, filter: Filter) -> (Vec<T>, Option<String>) {
    let (begin, after) = (filter.q.unwrap_or_default(), filter.cursor.unwrap_or_default());
    let limit = limit(filter.limit);
    let mut found: Vec<(String, T)> = all
        .into_iter()
        .filter(|(word, _)| word.starts_with(&begin) && *word > after)
        .take(limit + 1)
        .collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|(word, _)| word.clone());
    (found.into_iter().map(|(_, item)| item).collect(), next_cursor)
}

fn team(role: &Role) -> Team {
    let signed = role.signed.as_ref();
    let header = signed.map(|signed| &signed.targets.header);
    Team {
        fence: fence(role),
        parent: role.parent.clone(),
        keys: role.ring.keys.iter().map(|key| key.key_id().to_string()).collect(),
        version: header.map(|header| header.version),
        signers: signed.map(|signed| signed.signers.clone()).unwrap_or_default(),
        expires: header.map(|header| header.expires),
        targets: role.listed().map(|it| (it.path.to_string(), it.digest)).collect(),
    }
}

fn fence(role: &Role) -> Fence {
    Fence {
        role: role.name.clone(),
        patterns: role.patterns.iter().map(ToString::to_string).collect(),
        threshold: role.ring.threshold,
    }
}

/// Returns every key that may sign anything, by its id.
fn all_keys(realm: &Realm, catalog: &Catalog) -> BTreeMap<String, Key> {
    let mut keys: BTreeMap<String, Key> = BTreeMap::new();
    let mut add = |ring: &Keyring, fence: &Fence, expires: Option<Time>| {
        for public in &ring.keys {
            let role = KeyRole { fence: fence.clone(), expires };
            let id = public.key_id().to_string();
            let key = |id: &str, public: &PublicKey| Key {
                id: id.to_owned(),
                public: RawKey(*public.as_bytes()),
                roles: Vec::new(),
            };
            let new = key(&id, public);
            keys.entry(id).or_insert(new).roles.push(role);
        }
    };
    let root = &catalog.root;
    let (_, timestamp) = realm.signed_for();
    for (role, ring, expires) in [
        ("root", &root.root, root.header.expires),
        ("targets", &root.targets, catalog.top.targets.header.expires),
        ("snapshot", &root.snapshot, realm.snapshot_expires()),
        ("timestamp", &root.timestamp, timestamp),
    ] {
        let fence =
            Fence { role: role.to_owned(), patterns: Vec::new(), threshold: ring.threshold };
        add(ring, &fence, Some(expires));
    }
    for role in &catalog.roles {
        let expires = role.signed.as_ref().map(|signed| signed.targets.header.expires);
        add(&role.ring, &fence(role), expires);
    }
    keys
}
