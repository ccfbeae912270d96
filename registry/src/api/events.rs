//! `GET /events`: what changes, as it changes, as server-sent events or JSON Lines.
//!
//! Whoever follows reads from one bounded stream in the database at their own pace: what they do not
//! take is not kept for them, and whoever was away for too long is told to look at everything anew.
//! All is read at most twice a second, and a host is told once for each time, as it is by then.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use shared::{
    api::{HostSummary, StreamEvent},
    id::{GroupName, RealmName},
};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::{
    audit,
    error::ApiError,
    extract::{Path, Query, refuse},
    hosts,
};
use crate::{
    app::App,
    db::{
        Db as _, DbError,
        events::What,
        stream::{Change, Changed, Known},
    },
};

/// How often the server looks for changes.
const LOOK: Duration = Duration::from_millis(500);
/// After how much silence it says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long it waits for somebody who takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many may follow at once.
static ROOM: Semaphore = Semaphore::const_new(1024);
/// Changes that are read at once.
const BATCH: usize = 200;
/// Events that wait for one who follows.
const WAITING: usize = 16;
const EVENT_STREAM: &str = "text/event-stream";
/// JSON Lines.
pub(crate) const JSON_LINES: &str = "application/x-ndjson";
/// The kinds of answers that end only when somebody hangs up.
pub(crate) const KINDS: [&str; 2] = [EVENT_STREAM, JSON_LINES];

/// What is followed.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only events of these types, comma-separated; `host.*` is all that begin with `host.`.
    types: Option<String>,
    /// Only what is of this group.
    group: Option<GroupName>,
    /// The number of the last event that is known; the header `Last-Event-ID` outranks it.
    after: Option<u64>,
}

/// Follows what changes: server-sent events, or JSON Lines for `Accept: application/x-ndjson`
///
/// Each event has a number, and `Last-Event-ID` goes on behind it. An event `resync` says that what
/// came in between is not known any more: look at everything anew.
#[utoipa::path(
    get,
    path = "/api/v1/realms/{realm}/events",
    tag = "events",
    params(("realm" = String, Path), Filter),
    responses(
        (status = 200, description = "Events, until somebody hangs up", content(
            (String = "text/event-stream"),
            (StreamEvent = "application/x-ndjson"),
        ))
    )
)]
pub(crate) async fn follow(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let busy = |_| ApiError::busy("too many follow what changes");
    let permit = ROOM.try_acquire().map_err(busy)?;
    let last = headers.get("last-event-id").map(|id| id.to_str().ok()?.parse().ok());
    let last = match last {
        Some(None) => return Err(refuse("`Last-Event-ID` is none of ours")),
        Some(Some(last)) => Some(last),
        None => filter.after,
    };
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = match accepted {
        Some(accept) if accept.contains(JSON_LINES) => Form::JsonLines,
        Some(_) | None => Form::EventStream,
    };
    let known = app.db.stream_known().await.map_err(|error| ApiError::of_database(&error))?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let wanted = Wanted {
        types: filter.types.map(|types| types.split(',').map(str::to_owned).collect()),
        group: filter.group,
    };
    let follower = Follower { app, realm, wanted, form, sender };
    tokio::spawn(follower.run(last, known, permit));
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes: Bytes| (Ok::<_, Infallible>(bytes), receiver))
    });
    let kind = match form {
        Form::EventStream => EVENT_STREAM,
        Form::JsonLines => JSON_LINES,
    };
    // Proxies must not hold anything back.
    let headers = [
        (header::CONTENT_TYPE.as_str(), kind),
        (header::CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Tells whoever waits how far the stream has come, until the server stops.
pub(crate) async fn watch(app: Arc<App>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Cancel safe: both only wait.
            () = app.stopping.cancelled() => return,
            _ = look.tick() => {}
        }
        if app.newest.receiver_count() == 0 {
            continue;
        }
        match app.db.stream_known().await {
            Ok(Known { newest, .. }) => {
                app.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "cannot look for changes");
            }
        }
    }
}

/// In which form events are written.
#[derive(Debug, Clone, Copy)]
enum Form {
    EventStream,
    JsonLines,
}

impl Form {
    fn write(self, event: &StreamEvent) -> Bytes {
        let json = serde_json::to_string(event).unwrap_or_default();
        match self {
            // JSON has no line breaks, and types are words of ours.
            Self::EventStream => {
                format!("id: {}\nevent: {}\ndata: {json}\n\n", event.number, event.r#type).into()
            }
            Self::JsonLines => format!("{json}\n").into(),
        }
    }
}

/// What somebody wants to know.
#[derive(Debug, Default)]
struct Wanted {
    types: Option<Vec<String>>,
    group: Option<GroupName>,
}

impl Wanted {
    fn is(&self, event: &StreamEvent) -> bool {
        let fits = |wanted: &String| match wanted.strip_suffix('*') {
            Some(beginning) => event.r#type.starts_with(beginning),
            None => event.r#type == *wanted,
        };
        let of_group = |group: &GroupName| {
            let hosts = event.host.iter().flat_map(|host| &host.groups);
            let published = event.publication.iter().map(|it| it.target.group());
            hosts.chain(published).any(|of| of == group)
        };
        self.types.as_ref().is_none_or(|types| types.iter().any(fits))
            && self.group.as_ref().is_none_or(of_group)
    }
}

/// Somebody who follows.
struct Follower {
    app: Arc<App>,
    realm: RealmName,
    wanted: Wanted,
    form: Form,
    sender: mpsc::Sender<Bytes>,
}

/// They hung up, or take nothing.
struct Gone;

impl Follower {
    async fn run(self, last: Option<u64>, known: Known, permit: SemaphorePermit<'static>) {
        tokio::select! {
            // Cancel safe: nothing is kept here.
            () = self.app.stopping.cancelled() => {}
            () = self.sender.closed() => {}
            Err(Gone) = self.tell_all(last, known) => {}
        }
        drop(permit);
    }

    async fn tell_all(&self, last: Option<u64>, known: Known) -> Result<Infallible, Gone> {
        let mut newest = self.app.newest.subscribe();
        if matches!(self.form, Form::EventStream) {
            self.send("retry: 3000\n\n".into()).await?;
        }
        let mut after = match last {
            Some(last) if (known.before..=known.newest).contains(&last) => last,
            None => known.newest,
            Some(_) => {
                self.resync(known.newest).await?;
                known.newest
            }
        };
        loop {
            // Seen before it is read: what comes meanwhile wakes again. It may be of another realm.
            let seen = *newest.borrow_and_update();
            after = self.catch_up(after).await?.max(seen);
            while *newest.borrow_and_update() <= after {
                match tokio::time::timeout(HEARTBEAT, newest.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(Gone),
                    Err(_elapsed) => self.heartbeat(after).await?,
                }
            }
        }
    }

    /// Tells what came behind `after`, and returns the number of the last of it.
    async fn catch_up(&self, mut after: u64) -> Result<u64, Gone> {
        let mut told = BTreeSet::new();
        loop {
            let read = self.read(after).await;
            let (changes, last) = match read {
                Ok(Some(read)) => read,
                Ok(None) => {
                    // What they did not take in time is gone.
                    let known = self.app.db.stream_known().await.unwrap_or_default();
                    self.resync(known.newest).await?;
                    return Ok(known.newest);
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "cannot read what changed");
                    return Err(Gone);
                }
            };
            for change in changes {
                if let Changed::Host(row) = &change.what
                    && !told.insert(row.key)
                {
                    continue;
                }
                let event = event(&self.app, change);
                if self.wanted.is(&event) {
                    self.send(self.form.write(&event)).await?;
                }
            }
            if last == after {
                return Ok(after);
            }
            after = last;
        }
    }

    /// Reads some changes; none where some of them are not known any more.
    async fn read(&self, after: u64) -> Result<Option<(Vec<Change>, u64)>, DbError> {
        let read = self.app.db.changes(self.realm.clone(), after, BATCH).await?;
        // Looked at afterwards: nothing that was missing then can have been told.
        let known = self.app.db.stream_known().await?;
        Ok((known.before <= after).then_some(read))
    }

    async fn resync(&self, newest: u64) -> Result<(), Gone> {
        self.send(self.form.write(&self.bare(newest, "resync"))).await
    }

    async fn heartbeat(&self, newest: u64) -> Result<(), Gone> {
        match self.form {
            Form::EventStream => self.send(": hb\n\n".into()).await,
            Form::JsonLines => self.send(self.form.write(&self.bare(newest, "heartbeat"))).await,
        }
    }

    fn bare(&self, number: u64, word: &str) -> StreamEvent {
        let at = self.app.time();
        let (host, publication, entry) = (None, None, None);
        StreamEvent { number, r#type: word.to_owned(), at, host, publication, entry }
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        let sending = tokio::time::timeout(PATIENCE, self.sender.send(bytes));
        sending.await.map_err(|_elapsed| Gone)?.map_err(|_closed| Gone)
    }
}

/// Puts a change into the form of the API.
fn event(app: &App, Change { number, what }: Change) -> StreamEvent {
    let (word, at, host, publication, entry) = match what {
        Changed::Host(row) => {
            let mut host: HostSummary = hosts::summary(*row);
            for profile in &mut host.profiles {
                // Its output is asked for where it is wanted.
                profile.attempt = None;
            }
            (format!("host.{}", host.state), app.time(), Some(host), None, None)
        }
        Changed::Published(it) => {
            let of = if it.target.profile().is_some() { "manifest" } else { "policy" };
            (format!("{of}.published"), it.published_at, None, Some(*it), None)
        }
        Changed::Noted(noted) => {
            let word = match noted.event.what {
                What::TokenMade => "token.made",
                What::ReadTokenMade => "read_token.made",
                What::ReadTokenRevoked => "read_token.revoked",
                What::Enrolled => "host.enrolled",
                What::Revoked => "host.revoked",
                What::Published => "role.published",
                What::Restored => "registry.restored",
                What::Recovered => "registry.recovered",
            };
            let at = noted.event.at;
            (word.to_owned(), at, None, None, Some(audit::entry(noted)))
        }
    };
    StreamEvent { number, r#type: word, at, host, publication, entry }
}
