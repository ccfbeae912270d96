//! Plain files: what agents and mirrors read.
//!
//! Files that never change say so; `timestamp.json` and hints are asked for anew each time, and a
//! question whether they changed costs a 304. `?wait=S` holds the answer back while they did not.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::{
    api::{blocking, error::ApiError},
    app::App,
    blobs::{Change, FileName},
    realm::{entity_tag, tag_of},
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

/// Answers with `timestamp.json`, at once or when it changes.
pub(crate) async fn timestamp(
    State(app): State<Arc<App>>,
    UrlPath(realm): UrlPath<String>,
    Query(Wait { wait }): Query<Wait>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let mut watch = app.realm(&realm)?.watch();
    let wait = Duration::from_secs(wait.unwrap_or(0).min(MAX_WAIT));
    if !wait.is_zero() && matches(&headers, &watch.borrow_and_update().tag) {
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
    Ok(answer(&headers, &current.tag, Change::AnyTime, current.bytes))
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

/// Answers with any other file of a realm.
pub(crate) async fn file(
    State(app): State<Arc<App>>,
    UrlPath((realm, path)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let realm = app.realm(&realm)?;
    let missing = || ApiError::not_found("there is no such file in this realm");
    let name = FileName::parse(&path).filter(|name| realm.serves(name)).ok_or_else(missing)?;
    let blobs = realm.blobs().clone();
    let change = name.change();
    if let Some(tag) = name.digest().map(tag_of).filter(|tag| matches(&headers, tag)) {
        return Ok(not_modified(&tag, change));
    }
    let reading = name.clone();
    let read = blocking(move || blobs.read(&reading)).await?;
    let bytes = read.map_err(|error| ApiError::internal(&error))?.ok_or_else(missing)?;
    let tag = name.digest().map_or_else(|| entity_tag(&bytes), tag_of);
    Ok(answer(&headers, &tag, change, bytes.into()))
}

/// Tells whether the client has what this entity tag names.
fn matches(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    tags.any(|known| {
        let known = known.trim();
        let known = known.strip_prefix("W/").unwrap_or(known);
        known == "*" || known.strip_prefix('"').and_then(|k| k.strip_suffix('"')) == Some(tag)
    })
}

fn answer(headers: &HeaderMap, tag: &str, change: Change, bytes: Bytes) -> Response<Body> {
    if matches(headers, tag) {
        return not_modified(tag, change);
    }
    with_tag(Response::new(Body::from(bytes)), tag, change)
}

fn not_modified(tag: &str, change: Change) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let mut response = with_tag(response, tag, change);
    // Nothing is sent that would have a type, and every poll of every host carries this answer.
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

fn with_tag(mut response: Response<Body>, tag: &str, change: Change) -> Response<Body> {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{tag}\"")) {
        headers.insert(header::ETAG, tag);
    }
    let (control, kind) = match change {
        Change::Never => (IMMUTABLE, "application/octet-stream"),
        Change::AnyTime => (ASK_AGAIN, "application/json"),
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
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
    fn a_tag_is_recognised_in_all_its_forms() {
        let asked = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap());
            matches(&headers, "abc")
        };
        for value in ["\"abc\"", "W/\"abc\"", "\"x\", \"abc\"", "*"] {
            assert!(asked(value), "{value}");
        }
        for value in ["abc", "\"abcd\"", "\"\"", ""] {
            assert!(!asked(value), "{value}");
        }
        assert!(!matches(&HeaderMap::new(), "abc"));
    }

    #[test]
    fn the_cache_shows_nothing_outside_its_folder() {
        let folder = Path::new("/srv/cache");
        assert_eq!(below(folder, "nar/x.nar"), Some(PathBuf::from("/srv/cache/nar/x.nar")));
        for path in ["../x", "nar/../../x", "/etc/passwd", ".git/config", "nar/.x", "./x"] {
            assert_eq!(below(folder, path), None, "{path}");
        }
    }
}
