//! `GET /groups/{group}/diff`: what changes for hosts from one version of a manifest to another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{EntryDiff, ManifestDiff, ManifestVersion, Publication, Root},
    closure::ClosureIndex,
    diff::{self, Closure, Diff},
    id::{Digest, GroupName, HostName, ProfileName},
    manifest::{Entry, HostFacts, Manifest, Selector},
    shard,
    version::{SoftwareVersion, VersionNumber},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    blocking,
    error::ApiError,
    extract::{Path, Query, refuse},
    groups, hosts, manifests,
};
use crate::{
    app::App,
    blobs::{Blobs, FileName},
    db::{Db as _, publications},
    realm::{Realm, catalog::Catalog},
};

/// How many differences are worked out at once: each may read closures of many MiB.
static ROOM: Semaphore = Semaphore::const_new(2);
/// The most changes that are told.
const MOST_CHANGES: usize = 200;
/// The most pairs of closures whose packages are compared for one answer.
const MOST_PAIRS: usize = 8;

/// What is compared.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// The profile; may be left out where the group has one alone.
    profile: Option<ProfileName>,
    /// The version before; the one published before `to`, if it is left out.
    from: Option<VersionNumber>,
    /// The version after; the one in force, if it is left out.
    to: Option<VersionNumber>,
    /// Only what changes for this host.
    host: Option<HostName>,
}

/// Tells what changes from one version of a manifest to another.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups/{group}/diff",
    tag = "manifests",
    params(("realm" = String, Path), ("group" = String, Path), Filter),
    responses((status = 200, description = "What changes", body = ManifestDiff))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path((realm, group)): Path<(String, GroupName)>,
    Query(filter): Query<Filter>,
) -> Result<Json<ManifestDiff>, ApiError> {
    let realm = app.realm(&realm)?;
    let catalog = groups::catalog(realm).await?;
    let profile = profile(&catalog, &group, filter.profile)?;
    let place = (group, profile);
    let to = match filter.to {
        Some(version) => manifests::published(&app, realm, &place, version, None).await?,
        None => latest(&app, realm, &place, &catalog).await?,
    };
    let from = match filter.from {
        Some(version) => Some(manifests::published(&app, realm, &place, version, None).await?),
        None => before(&app, realm, &place, &to).await?,
    };
    let facts = match &filter.host {
        None => None,
        Some(name) => Some(facts(&app, realm, name).await?),
    };
    let old = match &from {
        Some(from) => manifest(realm, from).await?,
        None => None,
    };
    let new = manifest(realm, &to).await?;
    let _turn = turn().await?;
    let blobs = realm.blobs().clone();
    let compared = blocking(move || {
        let old = entries(&blobs, old, facts.as_ref());
        compare(&blobs, &old, &entries(&blobs, new, facts.as_ref()))
    });
    let Compared { changes, same, more } = compared.await?;
    Ok(Json(ManifestDiff {
        group: place.0,
        profile: place.1,
        from: from.as_ref().map(version),
        to: version(&to),
        host: filter.host,
        changes,
        same,
        more,
        as_of: app.time(),
    }))
}

/// Waits for a turn to read whole closures.
pub(super) async fn turn() -> Result<SemaphorePermit<'static>, ApiError> {
    ROOM.acquire().await.map_err(|error| ApiError::internal(&error))
}

fn version(publication: &Publication) -> ManifestVersion {
    let Publication { epoch, version, digest, .. } = publication;
    ManifestVersion { epoch: *epoch, version: *version, digest: *digest }
}

/// Returns the profile that is meant.
fn profile(
    catalog: &Catalog,
    group: &GroupName,
    named: Option<ProfileName>,
) -> Result<ProfileName, ApiError> {
    if let Some(named) = named {
        return Ok(named);
    }
    let listed = catalog.group(group);
    let mut profiles: Vec<&ProfileName> =
        listed.iter().filter_map(|listed| listed.path.profile()).collect();
    match (profiles.pop(), profiles.is_empty()) {
        (Some(only), true) => Ok(only.clone()),
        (Some(_), false) => Err(refuse("the group has several profiles: say which, `profile=`")),
        (None, _) => Err(ApiError::not_found(format!("nothing is in force for group `{group}`"))),
    }
}

/// Returns the publication in force.
async fn latest(
    app: &App,
    realm: &Realm,
    (group, profile): &(GroupName, ProfileName),
    catalog: &Catalog,
) -> Result<Publication, ApiError> {
    let digest = catalog.manifest(group, profile).map(|listed| listed.digest);
    let found = app.db.latest_publications(realm.name().clone(), group.clone()).await;
    let found = found.map_err(|error| ApiError::of_database(&error))?;
    let found = found.into_iter().find(|it| Some(it.digest) == digest);
    found.ok_or_else(|| ApiError::not_found(format!("nothing is in force for `{group}/{profile}`")))
}

/// Returns the publication before this one.
async fn before(
    app: &App,
    realm: &Realm,
    (group, profile): &(GroupName, ProfileName),
    to: &Publication,
) -> Result<Option<Publication>, ApiError> {
    let mut query = publications::Query {
        realm: realm.name().clone(),
        group: group.clone(),
        profile: Some(profile.clone()),
        version: None,
        limit: super::MAX_LIMIT,
        skip: 0,
    };
    let place = |it: &Publication| (it.epoch, it.version);
    loop {
        let found = app.db.publications(query.clone()).await;
        let found = found.map_err(|error| ApiError::of_database(&error))?;
        let whole = found.len() == query.limit;
        let older = found.into_iter().find(|it| place(it) < place(to));
        if older.is_some() || !whole {
            return Ok(older);
        }
        query.skip += query.limit;
    }
}

/// Returns by what a manifest chooses the entry of a host.
async fn facts(app: &App, realm: &Realm, name: &HostName) -> Result<HostFacts, ApiError> {
    let row = hosts::find(app, realm.name(), name.as_str()).await?;
    let report = row.report.ok_or_else(|| {
        let what = format!("`{name}` has not reported what system it is");
        ApiError::not_found(what).fix("look at its agent: agent status")
    })?;
    Ok(HostFacts { name: name.clone(), system: report.system, labels: report.labels })
}

async fn manifest(realm: &Arc<Realm>, it: &Publication) -> Result<Option<Manifest>, ApiError> {
    let bytes = manifests::target(realm, &it.target, it.digest).await?;
    let parse = |bytes: Vec<u8>| Manifest::parse(&bytes, SoftwareVersion::current());
    bytes.map(parse).transpose().map_err(|error| ApiError::malformed(&error))
}

/// Returns the entries of a manifest: all, or the one of a host.
pub(super) fn entries(
    blobs: &Blobs,
    manifest: Option<Manifest>,
    facts: Option<&HostFacts>,
) -> Vec<Entry> {
    let Some(mut manifest) = manifest else { return Vec::new() };
    if let Some(shards) = manifest.shards.clone() {
        let wanted = match facts {
            Some(facts) => shards.index_of(&facts.name)..shards.index_of(&facts.name) + 1,
            None => 0..shards.digests.len(),
        };
        let read = wanted.filter_map(|index| {
            let digest = shards.digests.get(index)?;
            let bytes = blobs.read(&FileName::Shard(*digest)).ok()??;
            shards.read(index, &bytes).ok()
        });
        manifest.entries = shard::join(read.collect()).unwrap_or_default();
    }
    match facts {
        None => manifest.entries,
        Some(facts) => manifest.select(facts).cloned().into_iter().collect(),
    }
}

/// What came of a comparison.
struct Compared {
    changes: Vec<EntryDiff>,
    same: u64,
    more: u64,
}

fn compare(blobs: &Blobs, old: &[Entry], new: &[Entry]) -> Compared {
    let find = |entries: &[Entry]| -> BTreeMap<String, Entry> {
        // By what it is written as: a selector has no order of its own.
        let key = |selector: &Selector| serde_json::to_string(selector).unwrap_or_default();
        entries.iter().rev().map(|entry| (key(&entry.selector), entry.clone())).collect()
    };
    let (old, new) = (find(old), find(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut compared = Compared { changes: Vec::new(), same: 0, more: 0 };
    let mut closures = Closures { blobs, pairs: BTreeMap::new() };
    for key in keys {
        let (before, after) = (old.get(key), new.get(key));
        let roots = |entry: Option<&Entry>| entry.map(|entry| (entry.path.clone(), entry.closure));
        if roots(before) == roots(after) {
            compared.same += 1;
            continue;
        }
        if compared.changes.len() == MOST_CHANGES {
            compared.more += 1;
            continue;
        }
        let Some(Entry { selector, .. }) = after.or(before).cloned() else { continue };
        let Selector { system, hosts, labels } = selector;
        let diff = closures.diff(before.map(|it| it.closure), after.map(|it| it.closure));
        let (before, after) = (before.map(root), after.map(root));
        compared.changes.push(EntryDiff { system, hosts, labels, before, after, diff });
    }
    compared
}

pub(super) fn root(entry: &Entry) -> Root {
    let Entry { path, closure, paths, nar_size, .. } = entry;
    Root { path: path.clone(), closure: *closure, paths: *paths, nar_size: *nar_size }
}

/// The pairs of closures that were compared already.
struct Closures<'a> {
    blobs: &'a Blobs,
    pairs: BTreeMap<(Option<Digest>, Option<Digest>), Option<Diff>>,
}

impl Closures<'_> {
    fn diff(&mut self, before: Option<Digest>, after: Option<Digest>) -> Option<Diff> {
        if let Some(known) = self.pairs.get(&(before, after)) {
            return known.clone();
        }
        if self.pairs.len() == MOST_PAIRS {
            return None;
        }
        let diff = self.weights(before).zip(self.weights(after));
        let diff = diff.map(|(before, after)| diff::diff(&before, &after));
        self.pairs.insert((before, after), diff.clone());
        diff
    }

    /// Returns the paths of a closure; none if its index cannot be read.
    fn weights(&self, digest: Option<Digest>) -> Option<Closure> {
        let Some(digest) = digest else { return Some(Closure::new()) };
        let bytes = self.blobs.read(&FileName::Closure(digest)).ok()??;
        let index = ClosureIndex::parse_named(&bytes, digest).ok()?;
        Some(diff::weights(&index))
    }
}
