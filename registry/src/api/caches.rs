//! `GET /caches` and `GET /coverage`: which caches policies name, and what publishers found there.
//!
//! The registry asks no cache itself: whoever may sign a policy could make it ask any address.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{CacheCoverage, CacheUse, Coverage, Page, Root},
    closure::ClosureIndex,
    hints::Hints,
    id::{GroupName, ProfileName},
    manifest::{Entry, Manifest},
    policy::Policy,
    version::SoftwareVersion,
};

use super::{
    blocking, diff,
    error::ApiError,
    extract::{Path, Query},
    groups,
};
use crate::{
    app::App,
    blobs::{Blobs, FileName},
    realm::catalog::Catalog,
};

/// The most roots whose closures are looked at for one answer.
const MOST_ROOTS: usize = 16;

/// Lists the caches that policies in force name, by their addresses.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/caches",
    tag = "caches",
    params(("realm" = String, Path)),
    responses((status = 200, description = "All of them", body = Page<CacheUse>))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
) -> Result<Json<Page<CacheUse>>, ApiError> {
    let realm = app.realm(&realm)?;
    let catalog = groups::catalog(realm).await?;
    let reading = Arc::clone(realm);
    let policies = blocking(move || {
        let policy = |group: &GroupName| reading.policy(group);
        catalog.groups().iter().filter_map(policy).collect::<Vec<Policy>>()
    });
    let mut caches: BTreeMap<String, BTreeMap<GroupName, u32>> = BTreeMap::new();
    for policy in policies.await? {
        for cache in policy.caches {
            caches.entry(cache.url).or_default().insert(policy.group.clone(), cache.priority);
        }
    }
    let items = caches.into_iter().map(|(url, groups)| CacheUse { url, groups }).collect();
    Ok(Json(Page { items, next_cursor: None, as_of: app.time() }))
}

/// Whose closures are looked at.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// The group.
    group: GroupName,
    /// Only this profile.
    profile: Option<ProfileName>,
}

/// Tells of the roots in force of a group where their paths are; of the first 16 different ones.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/coverage",
    tag = "caches",
    params(("realm" = String, Path), Filter),
    responses((status = 200, description = "The roots in force", body = Page<Coverage>))
)]
pub(crate) async fn coverage(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<Coverage>>, ApiError> {
    let realm = app.realm(&realm)?;
    let (catalog, policy) = groups::of_group(realm, &filter.group).await?;
    let _turn = diff::turn().await?;
    let blobs = realm.blobs().clone();
    let look = move || look(&blobs, &catalog, policy.as_ref(), &filter);
    let items = blocking(look).await?;
    Ok(Json(Page { items, next_cursor: None, as_of: app.time() }))
}

fn look(
    blobs: &Blobs,
    catalog: &Catalog,
    policy: Option<&Policy>,
    asked: &Filter,
) -> Vec<Coverage> {
    let mut roots: Vec<(ProfileName, Entry)> = Vec::new();
    for listed in catalog.group(&asked.group) {
        let Some(profile) = listed.path.profile().cloned() else { continue };
        if asked.profile.as_ref().is_some_and(|wanted| *wanted != profile) {
            continue;
        }
        let name = FileName::Target { path: listed.path.clone(), digest: listed.digest };
        let bytes = blobs.read(&name).ok().flatten().unwrap_or_default();
        let manifest = Manifest::parse(&bytes, SoftwareVersion::current()).ok();
        for entry in diff::entries(blobs, manifest, None) {
            let known = roots.iter().any(|(of, it)| *of == profile && it.closure == entry.closure);
            if !known && roots.len() < MOST_ROOTS {
                roots.push((profile.clone(), entry));
            }
        }
    }
    let told = roots.into_iter().filter_map(|(profile, entry)| {
        let (caches, missing) = covered(blobs, &entry, policy)?;
        let (group, root) = (asked.group.clone(), diff::root(&entry));
        Some(Coverage { group, profile, root, caches, missing })
    });
    told.collect()
}

/// Counts the paths of a root that its hints know in each cache, and those in none.
fn covered(
    blobs: &Blobs,
    entry: &Entry,
    policy: Option<&Policy>,
) -> Option<(Vec<CacheCoverage>, u64)> {
    let Root { closure, .. } = diff::root(entry);
    let index = blobs.read(&FileName::Closure(closure)).ok()??;
    let index = ClosureIndex::parse_named(&index, closure).ok()?;
    let hints = blobs.read(&FileName::Hints(closure)).ok().flatten();
    let hints = hints.and_then(|bytes| Hints::parse(&bytes, closure).ok()).unwrap_or_default();
    let mut caches: BTreeMap<u32, CacheCoverage> = hints
        .caches()
        .map(|(number, url)| {
            let allowed = policy.into_iter().flat_map(|policy| &policy.caches);
            let is_allowed = allowed.into_iter().any(|cache| hints.is_at(number, &cache.url));
            let url = url.to_owned();
            (number, CacheCoverage { url, is_allowed, paths: 0, file_size: 0 })
        })
        .collect();
    let mut missing = 0;
    for path in index.entries() {
        // One path may be in a cache under several compressions: it counts once, by the smallest.
        let mut places: BTreeMap<u32, u64> = BTreeMap::new();
        for nar in hints.get(path.path()).into_iter().flat_map(|known| &known.nars) {
            let size = places.entry(nar.cache).or_insert(nar.file_size);
            *size = nar.file_size.min(*size);
        }
        if places.is_empty() {
            missing += 1;
        }
        for (number, size) in places {
            if let Some(cache) = caches.get_mut(&number) {
                cache.paths += 1;
                cache.file_size = cache.file_size.saturating_add(size);
            }
        }
    }
    Some((caches.into_values().collect(), missing))
}
