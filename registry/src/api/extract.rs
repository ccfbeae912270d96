//! The address of a request, read into the types of the domain, or refused as everything is.

use axum::{
    extract::{FromRequestParts, rejection},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use shared::problem::{Kind, Problem};

use super::error::ApiError;

/// The names in a path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

/// What is asked behind the `?`; what is not known is refused, so that no filter is lost by a typo.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

/// The longest query that is read, in bytes: no filter of ours needs more.
const MAX_QUERY: usize = 4096;

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        let axum::extract::Path(names) =
            read.map_err(|rejection: rejection::PathRejection| refuse(&rejection.body_text()))?;
        Ok(Self(names))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if parts.uri.query().is_some_and(|query| query.len() > MAX_QUERY) {
            return Err(refuse("the query is too long"));
        }
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        let axum::extract::Query(query) =
            read.map_err(|rejection: rejection::QueryRejection| refuse(&rejection.body_text()))?;
        Ok(Self(query))
    }
}

/// Refuses an address whose words are none of ours.
pub(crate) fn refuse(what: &str) -> ApiError {
    let what: String = what.chars().take(300).flat_map(char::escape_default).collect();
    let problem = Problem::new(Kind::Usage, "address", what)
        .leaves("nothing changed")
        .fix("`/docs` of this server lists what can be asked, and how");
    ApiError::new(StatusCode::BAD_REQUEST, problem)
}
