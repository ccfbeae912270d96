//! How the API says no: a [`Problem`] as `application/problem+json`, with the members of RFC 9457.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    api::{Challenge, PROBLEM},
    problem::{Kind, Problem},
};

use crate::db::DbError;

/// Seconds after which a busy registry wants to be asked again; who asks adds jitter of their own.
const RETRY_AFTER: u32 = 5;

/// A refusal, and how it is told over HTTP.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    problem: Box<Problem>,
    challenge: Option<(String, Option<u64>)>,
    retry_after: Option<u32>,
}

impl ApiError {
    /// Refuses with this status.
    pub(crate) fn new(status: StatusCode, problem: Problem) -> Self {
        Self { status, problem: Box::new(problem), challenge: None, retry_after: None }
    }

    /// There is no such thing.
    pub(crate) fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, Problem::new(Kind::Negative, "not_found", what))
    }

    /// Says what would mend it.
    pub(crate) fn fix(mut self, fix: &str) -> Self {
        self.problem.fix = Some(fix.to_owned());
        self
    }

    /// The request is not of its form.
    pub(crate) fn malformed(error: &(dyn std::error::Error + 'static)) -> Self {
        let problem = Problem::from_error(Kind::Trust, "malformed", error);
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, problem.leaves("nothing changed"))
    }

    /// Whoever asks may not.
    pub(crate) fn forbidden(code: &str, what: impl Into<String>) -> Self {
        let problem = Problem::new(Kind::Trust, code, what).leaves("nothing changed");
        Self::new(StatusCode::FORBIDDEN, problem)
    }

    /// The request did not come in time.
    pub(crate) fn too_slow(what: &str) -> Self {
        let what = format!("{what} took too long to come");
        let problem = Problem::new(Kind::Timeout, "too_slow", what).leaves("nothing changed");
        Self::new(StatusCode::REQUEST_TIMEOUT, problem)
    }

    /// The request has more bytes than are read.
    pub(crate) fn too_large(what: impl Into<String>) -> Self {
        let problem = Problem::new(Kind::Trust, "too_large", what).leaves("nothing changed");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, problem)
    }

    /// The registry itself failed; the details are for its log alone.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let told = Problem::from_error(Kind::Runtime, "internal", error);
        tracing::error!(error = told.render(), "a request failed");
        let problem = Problem::new(Kind::Runtime, "internal", "the registry could not do it")
            .fix("its log says why");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, problem)
    }

    /// The database failed, or has too much to do.
    pub(crate) fn of_database(error: &DbError) -> Self {
        if matches!(error, DbError::Busy) {
            return Self::busy("the registry has more to write than it can");
        }
        Self::internal(error)
    }

    /// There is too much to do just now.
    pub(crate) fn busy(what: &str) -> Self {
        let problem = Problem::new(Kind::Unreachable, "busy", what)
            .leaves("nothing changed")
            .fix("try again after the seconds that `Retry-After` says");
        Self {
            retry_after: Some(RETRY_AFTER),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, problem)
        }
    }

    /// The counter of a report does not count; this nonce would mend it, best with a counter above
    /// the highest that was seen.
    pub(crate) fn challenge(what: impl Into<String>, nonce: String, highest: Option<u64>) -> Self {
        let problem = Problem::new(Kind::Conflict, "challenge", what)
            .leaves("the report is not stored")
            .fix("repeat the nonce in the next report");
        let challenge = Some((nonce, highest));
        Self { challenge, ..Self::new(StatusCode::UNAUTHORIZED, problem) }
    }
}

/// A refusal, as it is told over HTTP.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it only describes what `Told` writes")]
pub(crate) struct Refusal {
    /// Always `about:blank`: what tells problems apart is their `code`.
    r#type: String,
    /// What the status means.
    title: String,
    /// The status of the answer.
    status: u16,
    /// What happened and why, in one line.
    detail: String,
    #[schema(inline)]
    #[serde(flatten)]
    problem: Problem,
    /// With the code `challenge`: what the next report must repeat.
    nonce: Option<String>,
    /// With the code `challenge`: the highest counter that was seen.
    counter: Option<u64>,
}

/// What RFC 9457 asks for, beside what we say.
#[derive(Serialize)]
struct Told<T> {
    /// Nothing more than the status: what tells problems apart is their `code`.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(flatten)]
    problem: T,
}

impl<T> Told<T> {
    fn new(status: StatusCode, detail: String, problem: T) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        Self { r#type: "about:blank", title, status: status.as_u16(), detail, problem }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, problem, challenge, retry_after } = self;
        let mut detail = vec![problem.what.clone()];
        detail.extend(problem.causes.iter().cloned());
        let detail = detail.join(": ");
        let mut response = match challenge {
            None => (status, Json(Told::new(status, detail, *problem))).into_response(),
            Some((nonce, counter)) => {
                let challenge = Challenge { problem: *problem, nonce, counter };
                (status, Json(Told::new(status, detail, challenge))).into_response()
            }
        };
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn told(error: ApiError) -> Value {
        let response = error.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn a_refusal_has_the_members_of_rfc_9457_and_our_own() {
        let error = ApiError::not_found("there is no realm `x`");
        assert_eq!(
            told(error).await,
            json!({
                "type": "about:blank", "title": "Not Found", "status": 404,
                "detail": "there is no realm `x`",
                "kind": "negative", "code": "not_found", "what": "there is no realm `x`",
            })
        );
        let challenge = told(ApiError::challenge("count on", "ab".to_owned(), Some(7))).await;
        assert_eq!((&challenge["status"], &challenge["nonce"]), (&json!(401), &json!("ab")));
        let read: Challenge = serde_json::from_value(challenge).unwrap();
        assert_eq!(read.problem.code, "challenge");
    }
}
