//! Plain files: what agents and mirrors read.
//!
//! Files that never change say so; `timestamp.json` and hints are asked for anew each time, and a
//! question whether they changed costs a 304. `?wait=S` holds the answer back while they did not.
//!
//! What can be answered from memory is answered by [`at_once`], before any router: that is nearly
//! all that a fleet asks for.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::{
    api::{blocking, error::ApiError},
    app::App,
    blobs::{Change, FileName},
    metrics::Plain,
    realm::{Remembered, Tag},
};

/// The longest that an answer is held back, in seconds.
const MAX_WAIT: u64 = 300;
/// Bytes of a cache's file that are read at once.
const CHUNK: u64 = 128 * 1024;

const IMMUTABLE: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

/// How long to wait for news.
#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    wait: Option<u64>,
}

/// Answers what needs nothing but memory; whatever else is asked, and how it is refused, is the
/// router's.
pub(crate) fn at_once<B>(app: &App, request: &Request<B>) -> Option<Response<Body>> {
    let began = Instant::now();
    let uri = request.uri();
    let (realm, path) = uri.path().strip_prefix("/r/")?.split_once('/')?;
    if request.method() != Method::GET {
        return None;
    }
    let realm = app.realms.get(realm)?;
    let headers = request.headers();
    let (plain, response) = if path == "metadata/timestamp.json" {
        // Who wants to wait may have to.
        if uri.query().is_some() {
            return None;
        }
        let current = realm.current();
        (Plain::Timestamp, answer(headers, &current.tag, Change::AnyTime, &current.bytes))
    } else {
        (Plain::File, answer_with(headers, &*realm.remembered(path)?))
    };
    app.metrics.plain(plain, response.status(), began.elapsed());
    Some(response)
}

/// Answers with `timestamp.json`, at once or when it changes.
pub(crate) async fn timestamp(
    State(app): State<Arc<App>>,
    UrlPath(realm): UrlPath<String>,
    Query(Wait { wait }): Query<Wait>,
    all: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let mut watch = app.realm(&realm)?.watch();
    let wait = Duration::from_secs(wait.unwrap_or(0).min(MAX_WAIT));
    // Whoever waits is one of many: nothing is kept of a request but what its answer needs.
    let headers = only_known(&all);
    drop(all);
    if !wait.is_zero() && watch.borrow_and_update().tag.is_known(&headers) {
        let _counted = Counted::new(&app.metrics.waiting);
        tokio::select! {
            // `changed` can be dropped and asked again: it loses nothing.
            _changed = watch.changed() => {}
            () = tokio::time::sleep(wait) => {}
            // A server that stops answers those who wait.
            () = app.stopping.cancelled() => {}
        }
    }
    let current = watch.borrow().clone();
    Ok(answer(&headers, &current.tag, Change::AnyTime, &current.bytes))
}

/// Leaves of a request's headers what says which files are known to whoever asks.
fn only_known(headers: &HeaderMap) -> HeaderMap {
    let name = header::IF_NONE_MATCH;
    headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())).collect()
}

/// One more in a gauge, for as long as it lives: a client that goes away ends its request.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers with any other file of a realm, as it is on the disk.
pub(crate) async fn file(
    State(app): State<Arc<App>>,
    UrlPath((realm, path)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let realm = Arc::clone(app.realm(&realm)?);
    let missing = || ApiError::not_found("there is no such file in this realm");
    let name = FileName::parse(&path).ok_or_else(missing)?;
    let known = name.digest().map(Tag::of_digest).filter(|tag| tag.is_known(&headers));
    if let Some(tag) = known {
        return Ok(not_modified(&tag, name.change()));
    }
    let read = blocking(move || realm.read(&name)).await?;
    let found = read.map_err(|error| ApiError::internal(&error))?.ok_or_else(missing)?;
    Ok(answer_with(&headers, &found))
}

fn answer_with(headers: &HeaderMap, file: &Remembered) -> Response<Body> {
    answer(headers, &file.tag, file.change, &file.bytes)
}

fn answer(headers: &HeaderMap, tag: &Tag, change: Change, bytes: &Bytes) -> Response<Body> {
    if tag.is_known(headers) {
        return not_modified(tag, change);
    }
    let mut response = Response::new(Body::from(bytes.clone()));
    let kind = match change {
        Change::Never => "application/octet-stream",
        Change::AnyTime => "application/json",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    put_tag(headers, tag, change);
    response
}

/// Nothing is sent that would have a type, and every poll of every host carries this answer.
fn not_modified(tag: &Tag, change: Change) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    put_tag(response.headers_mut(), tag, change);
    response
}

fn put_tag(headers: &mut HeaderMap, tag: &Tag, change: Change) {
    let control = match change {
        Change::Never => IMMUTABLE,
        Change::AnyTime => ASK_AGAIN,
    };
    headers.insert(header::ETAG, tag.value().clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
}

/// Answers with a file of the binary cache, from a byte on if that is asked for.
pub(crate) async fn cache(
    State(app): State<Arc<App>>,
    UrlPath(path): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let missing = || ApiError::not_found("there is no such file in the cache");
    let folder = app.cache.as_ref().ok_or_else(missing)?;
    let path = below(folder, &path).ok_or_else(missing)?;
    let opened = match open(&path).await {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(ApiError::internal(&error)),
    };
    let (mut file, length) = opened.ok_or_else(missing)?;
    let from = range(&headers).filter(|from| *from < length);
    if let Some(from) = from {
        let sought = file.seek(io::SeekFrom::Start(from)).await;
        sought.map_err(|error| ApiError::internal(&error))?;
    }
    let mut response = Response::new(stream(file));
    let answered = response.headers_mut();
    let rest = length - from.unwrap_or(0);
    answered.insert(header::CONTENT_LENGTH, HeaderValue::from(rest));
    answered.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(from) = from {
        let range = format!("bytes {from}-{}/{length}", length.saturating_sub(1));
        if let Ok(range) = HeaderValue::try_from(range) {
            answered.insert(header::CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Returns the file that a path names, if it stays below the folder and is not hidden.
fn below(folder: &Path, path: &str) -> Option<PathBuf> {
    let plain = |part: Component<'_>| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            false
        }
    };
    if Path::new(path).components().all(plain) { Some(folder.join(path)) } else { None }
}

/// Opens a regular file, and tells its length.
async fn open(path: &Path) -> io::Result<Option<(tokio::fs::File, u64)>> {
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    Ok(metadata.is_file().then_some((file, metadata.len())))
}

/// Reads `Range: bytes=N-`, the only kind that resuming needs.
fn range(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

fn stream(file: tokio::fs::File) -> Body {
    Body::from_stream(futures_util::stream::try_unfold(file, |mut file| async move {
        let mut chunk = Vec::new();
        (&mut file).take(CHUNK).read_to_end(&mut chunk).await?;
        let more = !chunk.is_empty();
        Ok::<_, io::Error>(more.then(|| (Bytes::from(chunk), file)))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_shows_nothing_outside_its_folder() {
        let folder = Path::new("/srv/cache");
        assert_eq!(below(folder, "nar/x.nar"), Some(PathBuf::from("/srv/cache/nar/x.nar")));
        for path in ["../x", "nar/../../x", "/etc/passwd", ".git/config", "nar/.x", "./x"] {
            assert_eq!(below(folder, path), None, "{path}");
        }
    }
}
