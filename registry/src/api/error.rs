//! How the API says no: a [`Problem`] as `application/problem+json`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
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

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = match self.challenge {
            None => (self.status, Json(*self.problem)).into_response(),
            Some((nonce, counter)) => {
                let challenge = Challenge { problem: *self.problem, nonce, counter };
                (self.status, Json(challenge)).into_response()
            }
        };
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}
