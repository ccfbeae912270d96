//! `GET /groups/{group}/manifests`: what is in force, each version there was, and the signed bytes.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{Files, ManifestDetail, ManifestSummary, Page, Publication},
    id::{Digest, GroupName, ProfileName, RealmName, TargetPath},
    nix::Sha256,
    policy::Policy,
    version::VersionNumber,
};

use super::{
    blocking,
    error::ApiError,
    extract::{Path, Query, refuse},
    groups, limit,
};
use crate::{
    app::App,
    blobs::FileName,
    db::{Db as _, publications},
    realm::{Realm, catalog::Catalog},
};

/// Lists the manifest in force of each profile of a group.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups/{group}/manifests",
    tag = "manifests",
    params(("realm" = String, Path), ("group" = String, Path)),
    responses((status = 200, description = "All of them", body = Page<ManifestSummary>))
)]
pub(crate) async fn in_force(
    State(app): State<Arc<App>>,
    Path((realm, group)): Path<(String, GroupName)>,
) -> Result<Json<Page<ManifestSummary>>, ApiError> {
    let realm = app.realm(&realm)?;
    let (catalog, policy) = groups::of_group(realm, &group).await?;
    let mut items = of_group(&app, realm, &group, &catalog, policy.as_ref()).await?;
    items.retain(|item| item.publication.target.profile().is_some());
    Ok(Json(Page { items, next_cursor: None, as_of: app.time() }))
}

/// Which versions are asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Lists the versions of a profile's manifest, the latest first.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups/{group}/manifests/{profile}",
    tag = "manifests",
    params(("realm" = String, Path), ("group" = String, Path), ("profile" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<ManifestSummary>))
)]
pub(crate) async fn versions(
    State(app): State<Arc<App>>,
    Path((realm, group, profile)): Path<(String, GroupName, ProfileName)>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<ManifestSummary>>, ApiError> {
    let realm = app.realm(&realm)?;
    let limit = limit(filter.limit);
    let skip = filter.cursor.as_deref().map_or(Ok(0), str::parse);
    let skip = skip.map_err(|_| refuse("the cursor is none of ours"))?;
    let query = publications::Query {
        realm: realm.name().clone(),
        group: group.clone(),
        profile: Some(profile),
        version: None,
        limit: limit + 1,
        skip,
    };
    let found = app.db.publications(query).await;
    let mut found = found.map_err(|error| ApiError::of_database(&error))?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = more.then(|| (skip + limit).to_string());
    let (catalog, policy) = groups::of_group(realm, &group).await?;
    let told = |publication| summary(realm.name(), publication, &catalog, policy.as_ref());
    let items = found.into_iter().map(told).collect();
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}

/// Which of several versions of one number is asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Epoch {
    /// The epoch; the latest that has the version, if it is left out.
    epoch: Option<u32>,
}

/// Shows one version of a manifest, with its content.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups/{group}/manifests/{profile}/{version}",
    tag = "manifests",
    params(("realm" = String, Path), ("group" = String, Path), ("profile" = String, Path), ("version" = u32, Path), Epoch),
    responses((status = 200, description = "The manifest", body = ManifestDetail))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path((realm, group, profile, version)): Path<(String, GroupName, ProfileName, VersionNumber)>,
    Query(Epoch { epoch }): Query<Epoch>,
) -> Result<Json<ManifestDetail>, ApiError> {
    let realm = app.realm(&realm)?;
    let place = (group, profile);
    let found = published(&app, realm, &place, version, epoch).await?;
    let (catalog, policy) = groups::of_group(realm, &place.0).await?;
    let bytes = target(realm, &found.target, found.digest).await?;
    // Read as any JSON: it is shown, not followed.
    let manifest = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let summary = summary(realm.name(), found, &catalog, policy.as_ref());
    Ok(Json(ManifestDetail { summary, manifest, as_of: app.time() }))
}

/// Finds the publication of a version.
pub(super) async fn published(
    app: &App,
    realm: &Realm,
    (group, profile): &(GroupName, ProfileName),
    version: VersionNumber,
    epoch: Option<u32>,
) -> Result<Publication, ApiError> {
    let query = publications::Query {
        realm: realm.name().clone(),
        group: group.clone(),
        profile: Some(profile.clone()),
        version: Some(version),
        limit: super::MAX_LIMIT,
        skip: 0,
    };
    let found = app.db.publications(query).await.map_err(|error| ApiError::of_database(&error))?;
    let found = found.into_iter().find(|it| epoch.is_none_or(|epoch| it.epoch == epoch));
    found.ok_or_else(|| {
        let what = format!("version {version} of `{group}/{profile}` was never published");
        ApiError::not_found(what).fix("`registry history` lists what was")
    })
}

/// Reads the bytes of a manifest or policy.
pub(super) async fn target(
    realm: &Arc<Realm>,
    path: &TargetPath,
    digest: Digest,
) -> Result<Option<Vec<u8>>, ApiError> {
    let name = FileName::Target { path: path.clone(), digest };
    file(realm, name).await
}

/// Reads any file of a realm.
pub(super) async fn file(realm: &Arc<Realm>, name: FileName) -> Result<Option<Vec<u8>>, ApiError> {
    let blobs = realm.blobs().clone();
    let read = blocking(move || blobs.read(&name)).await?;
    read.map_err(|error| ApiError::internal(&error))
}

/// Returns what is in force for a group, its policy included, by path.
pub(super) async fn of_group(
    app: &App,
    realm: &Realm,
    group: &GroupName,
    catalog: &Catalog,
    policy: Option<&Policy>,
) -> Result<Vec<ManifestSummary>, ApiError> {
    let latest = app.db.latest_publications(realm.name().clone(), group.clone()).await;
    let latest = latest.map_err(|error| ApiError::of_database(&error))?;
    let told = latest.into_iter().map(|it| summary(realm.name(), it, catalog, policy));
    Ok(told.filter(|it| it.in_force).collect())
}

fn summary(
    realm: &RealmName,
    publication: Publication,
    catalog: &Catalog,
    policy: Option<&Policy>,
) -> ManifestSummary {
    let Publication { target, digest, role, role_version, .. } = &publication;
    let listed = catalog.group(target.group());
    let in_force = listed.iter().any(|it| it.path == *target && it.digest == *digest);
    let rule = policy.zip(target.profile());
    let rule = rule.and_then(|(policy, profile)| policy.profiles.get(profile));
    let file = target.file_name(&Sha256::from(*digest));
    let files = Files {
        target: format!("/r/{realm}/targets/{file}"),
        role: format!("/r/{realm}/metadata/{role_version}.{role}.json"),
    };
    ManifestSummary { take: rule.map(|rule| rule.take), in_force, files, publication }
}
