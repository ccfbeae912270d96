//! `GET /groups`: which groups there are, what their owners decided, what is in force.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{Fence, GroupCounts, GroupDetail, GroupRules, GroupSummary, Page},
    id::{GroupName, ProfileName},
    policy::Policy,
    state_word::StateWord,
};

use super::{
    blocking,
    error::ApiError,
    extract::{Path, Query},
    limit, manifests,
};
use crate::{
    app::App,
    db::Db as _,
    realm::{Realm, catalog::Catalog},
};

/// Which part of the list is asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only those whose names begin so.
    q: Option<String>,
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Lists groups by name: those that somebody may publish for, and those that have hosts.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups",
    tag = "groups",
    params(("realm" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<GroupSummary>))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<GroupSummary>>, ApiError> {
    let realm = app.realm(&realm)?;
    let catalog = catalog(realm).await?;
    let counts = counts(&app, realm).await?;
    let (begin, after) = (filter.q.unwrap_or_default(), filter.cursor.unwrap_or_default());
    let mut names: Vec<GroupName> = catalog.groups();
    names.extend(counts.keys().cloned());
    names.sort();
    names.dedup();
    names.retain(|name| name.as_str().starts_with(&begin) && name.as_str() > after.as_str());
    let limit = limit(filter.limit);
    let more = names.len() > limit;
    names.truncate(limit);
    let next_cursor = names.last().filter(|_| more).map(ToString::to_string);
    let reading = Arc::clone(realm);
    let items = blocking(move || {
        let summary = |name| {
            let states = counts.get(&name).cloned().unwrap_or_default();
            let policy = reading.policy(&name);
            summary(&catalog, name, states, policy.as_ref())
        };
        names.into_iter().map(summary).collect()
    });
    Ok(Json(Page { items: items.await?, next_cursor, as_of: app.time() }))
}

/// Shows one group.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/groups/{group}",
    tag = "groups",
    params(("realm" = String, Path), ("group" = String, Path)),
    responses((status = 200, description = "The group", body = GroupDetail))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path((realm, group)): Path<(String, GroupName)>,
) -> Result<Json<GroupDetail>, ApiError> {
    let realm = app.realm(&realm)?;
    let (catalog, policy) = of_group(realm, &group).await?;
    let states = app.db.counts(realm.name().clone(), Some(group.clone())).await;
    let states = states.map_err(|error| ApiError::of_database(&error))?;
    if states.is_empty() && !catalog.groups().contains(&group) {
        let what = format!("there is no group `{group}`");
        return Err(ApiError::not_found(what).fix("`registry group create` makes one"));
    }
    let mut manifests = manifests::of_group(&app, realm, &group, &catalog, policy.as_ref()).await?;
    let own = manifests.iter().position(|it| it.publication.target.profile().is_none());
    let own = own.map(|at| manifests.remove(at));
    let rules = policy.as_ref().zip(own).map(|(policy, own)| GroupRules {
        policy: own,
        profiles: policy.profiles.clone(),
        caches: policy.caches.clone(),
        builders: policy.builders.iter().map(ToString::to_string).collect(),
        enrolment: policy.enrolment.clone(),
        windows: policy.windows.clone(),
    });
    let may_sign = fences(&catalog, &group);
    let summary = summary(&catalog, group, states, policy.as_ref());
    Ok(Json(GroupDetail { summary, rules, manifests, may_sign, as_of: app.time() }))
}

/// Returns what is in force in a realm.
pub(super) async fn catalog(realm: &Arc<Realm>) -> Result<Arc<Catalog>, ApiError> {
    let realm = Arc::clone(realm);
    let catalog = blocking(move || realm.catalog()).await?;
    catalog.map_err(|error| ApiError::internal(&error))
}

/// Returns what is in force, and the policy of one group.
pub(super) async fn of_group(
    realm: &Arc<Realm>,
    group: &GroupName,
) -> Result<(Arc<Catalog>, Option<Policy>), ApiError> {
    let (realm, group) = (Arc::clone(realm), group.clone());
    let read = blocking(move || (realm.catalog(), realm.policy(&group))).await?;
    Ok((read.0.map_err(|error| ApiError::internal(&error))?, read.1))
}

/// Counts the hosts of each group.
pub(super) async fn counts(
    app: &App,
    realm: &Realm,
) -> Result<BTreeMap<GroupName, BTreeMap<StateWord, u64>>, ApiError> {
    let counts = app.db.counts_by_group(realm.name().clone()).await;
    counts.map_err(|error| ApiError::of_database(&error))
}

fn summary(
    catalog: &Catalog,
    group: GroupName,
    states: BTreeMap<StateWord, u64>,
    policy: Option<&Policy>,
) -> GroupSummary {
    let listed = catalog.group(&group);
    let profiles: Vec<ProfileName> =
        listed.iter().filter_map(|listed| listed.path.profile().cloned()).collect();
    let counts = GroupCounts { group, hosts: states.values().sum(), states };
    GroupSummary { counts, policy: policy.map(|policy| policy.version), profiles }
}

/// Returns who may sign anything of a group.
fn fences(catalog: &Catalog, group: &GroupName) -> Vec<Fence> {
    let begins = format!("{group}/");
    let roles = catalog.roles.iter().filter_map(|role| {
        let patterns = role.patterns.iter().map(ToString::to_string);
        let patterns: Vec<String> =
            patterns.filter(|it| it.starts_with(&begins) || it.starts_with("*/")).collect();
        let fence = Fence { role: role.name.clone(), patterns, threshold: role.ring.threshold };
        (!fence.patterns.is_empty()).then_some(fence)
    });
    roles.collect()
}
