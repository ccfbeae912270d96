//! The API: one file for each thing that is asked for.

pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod body;
pub(crate) mod caches;
pub(crate) mod conditional;
pub(crate) mod diff;
pub(crate) mod docs;
pub(crate) mod enrol;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod extract;
pub(crate) mod fleet;
pub(crate) mod groups;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod hosts;
pub(crate) mod manifests;
pub(crate) mod reports;
pub(crate) mod roles;
pub(crate) mod teams;

use axum::http::StatusCode;
use error::ApiError;
use shared::problem::{Kind, Problem};

/// Answers whatever is no route.
pub(crate) async fn not_found() -> ApiError {
    ApiError::not_found("there is nothing here").fix("the address of a realm is `/r/<realm>/`")
}

/// Answers what is no method of a route.
pub(crate) async fn not_allowed() -> ApiError {
    let what = "this cannot be done here";
    let problem = Problem::new(Kind::Usage, "method", what).leaves("nothing changed");
    let problem = problem.fix("`/docs` of this server lists what can be asked, and how");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, problem)
}

/// The most items in one answer.
pub(crate) const MAX_LIMIT: usize = 500;

/// Reads how many items were asked for.
pub(crate) fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(100).clamp(1, MAX_LIMIT)
}

/// Runs what reads or writes files where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))
}
