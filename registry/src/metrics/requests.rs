//! Counting requests as they are answered.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};

use crate::app::App;

/// Counts a request once its answer begins.
pub(crate) async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    // Who waits for news is answered late on purpose.
    let waits = request.uri().query().is_some_and(|query| query.contains("wait="));
    let began = Instant::now();
    let response = next.run(request).await;
    let seconds = (!waits).then(|| began.elapsed().as_secs_f64());
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    app.metrics.answered(route, &method, response.status(), seconds);
    response
}
