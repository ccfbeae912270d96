//! Strong entity tags on whatever is read, so that asking again for what did not change is a 304.
//!
//! A tag names the content and the time that the answer tells, `as_of`. Whoever has the same content
//! as of an earlier time has an answer that is as good: it is theirs that is still valid.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use data_encoding::HEXLOWER;
use shared::nix::Sha256;

use super::error::ApiError;

/// The longest answer that is tagged, in bytes: longer than any of ours can be.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// What may stand behind a tag: which encoding the bytes had.
const ENCODINGS: [&str; 2] = ["gzip", "zstd"];

/// Tags answers in JSON, and answers 304 to whoever has the content.
pub(crate) async fn tag(request: Request, next: Next) -> Response {
    let reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let asked = request.headers().get(header::IF_NONE_MATCH).cloned();
    let response = next.run(request).await;
    let json = response.headers().get(header::CONTENT_TYPE);
    let json = json.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !reading || response.status() != StatusCode::OK || !json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = match to_bytes(body, MAX_ANSWER).await {
        Ok(bytes) => bytes,
        Err(error) => return ApiError::internal(&error).into_response(),
    };
    let (content, as_of) = split(&bytes);
    let digest = Sha256::of(content).0;
    let version = HEXLOWER.encode(digest.get(..12).unwrap_or(&digest));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Some(known) = asked.and_then(|asked| known(&asked, &version)) {
        return not_modified(parts.headers, known);
    }
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}{as_of}\"")) {
        parts.headers.insert(header::ETAG, tag);
    }
    Response::from_parts(parts, Body::from(bytes))
}

fn not_modified(mut headers: HeaderMap, known: HeaderValue) -> Response {
    headers.insert(header::ETAG, known);
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_LENGTH);
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

/// Splits an answer into its content and the digits of its time; our answers end with it.
fn split(bytes: &[u8]) -> (&[u8], String) {
    const LENGTH: usize = r#","as_of":"2026-01-01T00:00:00Z"}"#.len();
    let at = bytes.len().saturating_sub(LENGTH);
    match bytes.split_at_checked(at) {
        Some((content, end)) if end.starts_with(br#","as_of":""#) => {
            let digits = end.iter().copied().filter(u8::is_ascii_digit).map(char::from);
            (content, std::iter::once('-').chain(digits).collect())
        }
        Some(_) | None => (bytes, String::new()),
    }
}

/// Returns the tag of those asked for that is of this content, as it was asked.
fn known(asked: &HeaderValue, version: &str) -> Option<HeaderValue> {
    let tags = asked.to_str().ok()?.split(',').map(str::trim);
    let of_content = |tag: &&str| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let tag = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let rest = tag.and_then(|tag| tag.strip_prefix(version));
        rest.is_some_and(|rest| {
            let mut parts = rest.split('-');
            parts.next() == Some("")
                && parts.all(|it| ENCODINGS.contains(&it) || it.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    HeaderValue::from_str(tags.into_iter().find(of_content)?).ok()
}

/// Gives a compressed answer a tag of its own: a strong one names the very bytes.
pub(crate) async fn tag_encoding(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|it| it.to_str().ok());
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let tag = encoding.zip(tag).and_then(|(encoding, tag)| {
        let tag = tag.strip_suffix('"')?;
        HeaderValue::try_from(format!("{tag}-{encoding}\"")).ok()
    });
    if let Some(tag) = tag {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_apart_from_the_content() {
        let answer = br#"{"items":[],"as_of":"2026-03-01T14:08:20Z"}"#;
        assert_eq!(split(answer), (br#"{"items":[]"#.as_slice(), "-20260301140820".to_owned()));
        assert_eq!(split(b"{}"), (b"{}".as_slice(), String::new()));
    }

    #[test]
    fn a_tag_is_known_whatever_its_time_and_encoding() {
        let known = |asked: &'static str| {
            let known = known(&HeaderValue::from_static(asked), "abc");
            known.map(|tag| tag.to_str().unwrap().to_owned())
        };
        for tag in ["\"abc\"", "\"abc-2026\"", "\"abc-2026-gzip\"", "\"abc-zstd\"", "W/\"abc-1\""] {
            assert_eq!(known(tag).as_deref(), Some(tag));
        }
        assert_eq!(known("\"x\", \"abc-7\"").as_deref(), Some("\"abc-7\""));
        for tag in ["abc", "\"abcd\"", "\"abc-x\"", "\"ab\"", "*", ""] {
            assert_eq!(known(tag), None, "{tag}");
        }
    }
}
