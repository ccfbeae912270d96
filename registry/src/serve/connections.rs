//! The connections of the server: how many at once, and how long each may say nothing.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
    routing::future::RouteFuture,
};
use futures_util::future::Either;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{access::Peer, app::App, router::router, static_files};

/// File descriptors that are left for files, the database and whatever else is open.
const FILES: usize = 256;
/// How long to wait when the system has no descriptor for a new connection.
const NO_DESCRIPTOR: Duration = Duration::from_secs(1);

/// What a peer may take of the server, whoever it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections that are open at once; more wait until one ends.
    pub(crate) connections: usize,
    /// How long the head of a request may take to come, and how long a kept connection may be
    /// idle. Longer than the poll of an agent with all its jitter.
    pub(crate) head: Duration,
    /// How long the body of a small request may take to come, and the least time for a large one.
    pub(crate) body: Duration,
    /// How long requests may take to end when the server stops.
    pub(crate) drain: Duration,
}

impl Limits {
    /// As many connections as the process may have descriptors for.
    pub(crate) fn of_process() -> Self {
        let descriptors = raise_descriptors();
        Self {
            connections: descriptors.saturating_sub(FILES).max(16),
            head: Duration::from_secs(90),
            body: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// Lets the process have as many descriptors as it may ask for, and returns how many these are.
fn raise_descriptors() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let had = limit.current;
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        limit.current = had;
    }
    // No limit at all is one that nothing here reaches.
    limit.current.and_then(|most| usize::try_from(most).ok()).unwrap_or(1 << 20).min(1 << 20)
}

/// All that is asked over connections.
#[derive(Clone)]
struct Front {
    app: Arc<App>,
    router: Router,
    /// Who is at the other end.
    peer: Peer,
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, RouteFuture<Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        match static_files::at_once(&self.app, &request) {
            Some(response) => Either::Left(ready(Ok(response))),
            None => {
                request.extensions_mut().insert(self.peer);
                Either::Right(self.router.clone().call(request))
            }
        }
    }
}

/// Serves until `stopping`, then lets what was asked be answered, for as long as the limits say.
pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    limits: Limits,
    stopping: CancellationToken,
) {
    let counted = app.metrics.connections.clone();
    let router = router(Arc::clone(&app));
    let room = Arc::new(Semaphore::new(limits.connections));
    let open = GracefulShutdown::new();
    let cut = CancellationToken::new();
    // Whatever ends this function ends the connections too: who holds the lock of the files next
    // must not find one of ours at work.
    let _cut = cut.clone().drop_guard();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head);
    let accepting = async {
        loop {
            // Never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let (stream, peer) = accept(&listener).await;
            let front = Front { app: Arc::clone(&app), router: router.clone(), peer };
            let connection = http.serve_connection(TokioIo::new(stream), front);
            let connection = open.watch(connection);
            let cut = cut.clone();
            counted.inc();
            let counted = counted.clone();
            tokio::spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended");
                    },
                    () = cut.cancelled() => {}
                }
                counted.dec();
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stopping.cancelled() => {}
    }
    if tokio::time::timeout(limits.drain, open.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time");
    }
}

/// Takes the next connection, whatever happened to those before.
async fn accept(listener: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and whole; a system that cannot do it serves a little later.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                // A peer of IPv4 at a socket of IPv6 is still one of IPv4.
                return (stream, Peer(peer.ip().to_canonical()));
            }
            Err(error) if of_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(NO_DESCRIPTOR).await;
            }
        }
    }
}

/// Tells whether only this one connection failed.
fn of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}
