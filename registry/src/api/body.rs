//! The body of a small request: whole, in time, or refused.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, Request, rejection::BytesRejection},
    http::StatusCode,
};
use bytes::Bytes;
use shared::problem::{Kind, Problem};

use super::error::ApiError;
use crate::app::App;

/// A body that came whole within the limits of its route.
#[derive(Debug)]
pub(crate) struct Whole(pub(crate) Bytes);

impl FromRequest<Arc<App>> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let reading = Bytes::from_request(request, app);
        let read = tokio::time::timeout(app.body_time, reading).await;
        let read = read.map_err(|_elapsed| ApiError::too_slow("the request"))?;
        read.map(Self).map_err(|rejection| refuse(&rejection))
    }
}

fn refuse(rejection: &BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::too_large("the request is too large");
    }
    let problem = Problem::new(Kind::Usage, "body", "the request did not come whole");
    ApiError::new(StatusCode::BAD_REQUEST, problem.leaves("nothing changed"))
}
