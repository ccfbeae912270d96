//! `GET /hosts`: what is known of hosts, from their own reports.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use shared::{
    api::{HostCounts, HostDetail, HostSummary, Page},
    id::{GroupName, IdError, LabelName, LabelValue, RealmName},
    report::{ProfileReport, Reason},
    state_word::StateWord,
    time::Time,
};

use super::{
    error::ApiError,
    extract::{Path, Query, refuse},
    limit,
};
use crate::{
    app::App,
    db::{
        Db as _,
        hosts::{HostPage, HostQuery, HostRow, Place, Revocation, Sort, Standing},
    },
};

/// Which hosts are asked for.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only hosts of this group.
    group: Option<GroupName>,
    /// State words, comma-separated; all are meant where none is given.
    state: Option<String>,
    /// Only hosts with this label, `name:value`.
    label: Option<String>,
    /// Only hosts whose names begin so.
    q: Option<String>,
    /// In which order: by `name`, the worst `state` first, or whoever was `seen` longest ago first.
    #[param(inline)]
    sort: Option<Sort>,
    /// The most items, up to 500.
    limit: Option<usize>,
    /// Where the page before ended.
    cursor: Option<String>,
}

/// Lists hosts. A page may have fewer than asked for, or none, and yet a next one.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/hosts",
    tag = "hosts",
    params(("realm" = String, Path), Filter),
    responses((status = 200, description = "A part of the list", body = Page<HostSummary>))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<HostSummary>>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let states = filter.state.as_deref().map(parse_states).transpose()?;
    let label = filter.label.as_deref().map(parse_label).transpose()?;
    let after = filter.cursor.as_deref().map_or_else(|| Ok(Place::default()), parse_cursor)?;
    let query = HostQuery {
        group: filter.group,
        states,
        label,
        begin: filter.q,
        sort: filter.sort.unwrap_or_default(),
        after,
        ..HostQuery::first(realm, limit(filter.limit))
    };
    let listing = app.db.hosts(query).await;
    let HostPage { rows, next } = listing.map_err(|error| ApiError::of_database(&error))?;
    let next_cursor = next.map(|Place { part, at, name, key }| format!("{part}.{at}.{name}.{key}"));
    let items = rows.into_iter().map(summary).collect();
    Ok(Json(Page { items, next_cursor, as_of: app.time() }))
}

/// Shows one host.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/hosts/{host}",
    tag = "hosts",
    params(("realm" = String, Path), ("host" = String, Path)),
    responses((status = 200, description = "The host", body = HostDetail))
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path((realm, name)): Path<(String, String)>,
) -> Result<Json<HostDetail>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let row = find(&app, &realm, &name).await?;
    let (enrolled_at, not_after) = (row.enrolled_at, row.certificate.not_after);
    let mut report = row.report.clone();
    report.iter_mut().flat_map(|report| &mut report.profiles).for_each(keep_what_is_ours);
    let summary = summary(row);
    Ok(Json(HostDetail { summary, enrolled_at, not_after, report, as_of: app.time() }))
}

/// Finds a host by its name or id.
pub(super) async fn find(app: &App, realm: &RealmName, name: &str) -> Result<HostRow, ApiError> {
    let found = app.db.host(realm.clone(), name.to_owned()).await;
    let found = found.map_err(|error| ApiError::internal(&error))?;
    found.ok_or_else(|| {
        let name: String = name.chars().take(80).flat_map(char::escape_default).collect();
        ApiError::not_found(format!("there is no host `{name}`")).fix("`registry hosts` lists them")
    })
}

/// Which hosts are counted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Counted {
    /// Only hosts of this group.
    group: Option<GroupName>,
}

/// Counts hosts by their states.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/counts",
    tag = "fleet",
    params(("realm" = String, Path), Counted),
    responses((status = 200, description = "How many hosts are in each state", body = HostCounts))
)]
pub(crate) async fn counts(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(counted): Query<Counted>,
) -> Result<Json<HostCounts>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let states = app.db.counts(realm, counted.group).await;
    let states = states.map_err(|error| ApiError::internal(&error))?;
    Ok(Json(HostCounts { hosts: states.values().sum(), states, as_of: app.time() }))
}

fn parse_states(text: &str) -> Result<Vec<StateWord>, ApiError> {
    let words = text.split(',').map(str::parse);
    words.collect::<Result<_, _>>().map_err(|error| ApiError::malformed(&error))
}

fn parse_label(text: &str) -> Result<(LabelName, LabelValue), ApiError> {
    let (name, value) = text.split_once(':').ok_or_else(|| refuse("a label is `name:value`"))?;
    let name = name.parse().map_err(|error: IdError| refuse(&error.to_string()))?;
    Ok((name, value.parse().map_err(|error: IdError| refuse(&error.to_string()))?))
}

/// A cursor is the place of the last host that was looked at.
fn parse_cursor(cursor: &str) -> Result<Place, ApiError> {
    let mut parts = cursor.splitn(4, '.');
    let mut next = || parts.next().unwrap_or_default();
    let (part, at, name, key) = (next().parse(), next().parse(), next().to_owned(), next().parse());
    match (part, at, key) {
        (Ok(part), Ok(at), Ok(key)) => Ok(Place { part, at, name, key }),
        _ => Err(refuse("the cursor is none of ours")),
    }
}

/// Returns whether an agent of ours may name this as the next command.
fn is_ours(command: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" /-".contains(&byte);
    let told = ["agent ", "registry verify "].iter().any(|ours| command.starts_with(ours));
    (told || command == "systemctl reboot") && command.bytes().all(plain)
}

/// Drops a next command that no agent of ours would name: what is shown to operators, they may paste.
pub(super) fn keep_what_is_ours(profile: &mut ProfileReport) {
    profile.next.take_if(|next| !is_ours(next));
}

/// Puts what a host said, or that it says nothing, into one word.
pub(super) fn summary(row: HostRow) -> HostSummary {
    let HostRow { certificate, enrolled_at, reported_at, mut report, shown, standing, .. } = row;
    report.iter_mut().flat_map(|report| &mut report.profiles).for_each(keep_what_is_ours);
    let told = told(report.as_ref(), reported_at);
    let told = match standing {
        Standing::Revoked(Revocation { at, why }) => {
            ended("revoked", format!("revoked at {at}: {why}"), at)
        }
        Standing::Replaced => {
            let text = "another key has enrolled under its name".to_owned();
            ended("replaced", text, reported_at.unwrap_or(enrolled_at))
        }
        Standing::Good if shown == StateWord::Stale && told.state > StateWord::Stale => {
            silence(reported_at, enrolled_at, &certificate.name)
        }
        Standing::Good => told,
    };
    HostSummary {
        host: certificate.host,
        name: certificate.name,
        groups: certificate.groups,
        labels: certificate.labels,
        state: told.state,
        reason: told.reason,
        since: told.since,
        next: told.next,
        reported_at,
        agent: report.as_ref().map(|report| report.agent),
        profiles: report.map(|report| report.profiles).unwrap_or_default(),
    }
}

/// A state with all that must stand beside it.
struct Told {
    state: StateWord,
    reason: Option<Reason>,
    since: Option<Time>,
    next: Option<String>,
}

/// What the host itself said last.
fn told(report: Option<&shared::report::Report>, reported_at: Option<Time>) -> Told {
    let profiles = report.map(|report| report.profiles.as_slice()).unwrap_or_default();
    match profiles.iter().min_by_key(|profile| profile.state) {
        Some(profile) => Told {
            state: profile.state,
            reason: profile.reason.clone(),
            since: Some(profile.since),
            next: profile.next.clone(),
        },
        None => Told {
            state: StateWord::Converged,
            reason: Some(Reason {
                code: "no_profiles".to_owned(),
                text: "its groups want nothing of it".to_owned(),
            }),
            since: reported_at,
            next: None,
        },
    }
}

/// A host whose reports do not count any more.
fn ended(code: &str, text: String, since: Time) -> Told {
    Told {
        state: StateWord::Stale,
        reason: Some(Reason { code: code.to_owned(), text }),
        since: Some(since),
        next: Some("registry host list".to_owned()),
    }
}

fn silence(reported_at: Option<Time>, enrolled_at: Time, name: &shared::id::HostName) -> Told {
    let (code, text) = match reported_at {
        Some(at) => ("no_report", format!("no report since {at}")),
        None => ("never_seen", format!("enrolled at {enrolled_at}, never reported")),
    };
    Told {
        state: StateWord::Stale,
        reason: Some(Reason { code: code.to_owned(), text }),
        since: Some(reported_at.unwrap_or(enrolled_at)),
        next: Some(format!("on {name}: agent status")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_of_ours_are_passed_on() {
        for ours in ["agent retry web-1", "registry verify eu/web", "systemctl reboot"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in
            ["curl evil", "agent status; curl evil", "agent $(evil)", "systemctl reboot now"]
        {
            assert!(!is_ours(other), "{other}");
        }
    }
}
