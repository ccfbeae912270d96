//! `GET /metrics` on the loopback, for Prometheus.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::api::OPEN_METRICS;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Shown;

/// How many scrape at once; more wait.
const CONNECTIONS: usize = 16;

/// How long one scrape may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until cancelled.
pub(super) async fn serve(listener: TcpListener, shown: Arc<Shown>, cancel: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            // Cancel safe: a connection that is not accepted is answered by nobody.
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot serve metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let shown = Arc::clone(&shown);
        tokio::spawn(async move {
            // Whoever is too slow scrapes again.
            let _served = tokio::time::timeout(PATIENCE, one(stream, &shown)).await;
            drop(permit);
        });
    }
}

async fn one(stream: TcpStream, shown: &Shown) {
    let answer =
        service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(answer(&request, shown)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a scrape ended");
    }
}

fn answer(request: &Request<Incoming>, shown: &Shown) -> Response<String> {
    let refuse = |status: StatusCode, text: &str| {
        let mut response = Response::new(format!("{text}\n"));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return refuse(StatusCode::NOT_FOUND, "there is only /metrics");
    }
    if request.method() != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    match shown.status().and_then(|status| shown.metrics.text(&status)) {
        Ok(text) => {
            let mut response = Response::new(text);
            let kind = hyper::header::HeaderValue::from_static(OPEN_METRICS);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            tracing::warn!("no metrics: {error}");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the agent's log says why")
        }
    }
}
