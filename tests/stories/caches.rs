//! Binary caches that redirect, break off, lie about themselves or ask for patience.

use std::time::Duration;

use shared::nix::StorePath;
use store::cache::{BinaryCache, CacheError, Location, Network, NetworkOptions, WaitingRoom};
use tests::{Request, Response, Server, fixture, server};

const PATH: &str = "/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1";
const NARINFO: &str = "/8z53hvy6z9j309dj7laj128c6fsckzcg.narinfo";

fn path() -> StorePath {
    StorePath::parse(PATH).unwrap()
}

/// A network that tries twice, without a pause worth mentioning.
fn network() -> Network {
    let backoff = Duration::from_millis(1);
    Network::new(&NetworkOptions { attempts: 2, backoff, ..NetworkOptions::default() }).unwrap()
}

async fn open(url: &str) -> Result<BinaryCache, CacheError> {
    BinaryCache::open(&Location::parse(url).unwrap(), &network()).await
}

/// Reads a whole NAR file.
async fn nar(cache: &BinaryCache, url: &str) -> std::io::Result<Vec<u8>> {
    let body = cache.nar(url).await.unwrap().expect("it is there");
    let (mut reader, pump) = body.split(&WaitingRoom::new(0));
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
    });
    pump.run().await;
    read.await.unwrap()
}

fn server() -> Server {
    Server::new(&fixture("nix/cache-xz"))
}

#[tokio::test]
async fn a_path_is_told_or_absent() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    let narinfo = cache.narinfo(&path()).await.unwrap().unwrap();
    assert_eq!(narinfo.info.path, path());
    let file = fixture("nix/cache-xz").join(&narinfo.url);
    assert!(nar(&cache, &narinfo.url).await.unwrap() == std::fs::read(file).unwrap());
    for status in [404, 410, 401, 403, 407] {
        server.answer(NARINFO, Response::new(status, ""));
        assert!(cache.narinfo(&path()).await.unwrap().is_none(), "{status}");
    }
}

#[tokio::test]
async fn a_cache_without_info_is_used_and_one_that_forbids_it_is_not() {
    let server = server();
    server.answer("/nix-cache-info", Response::new(404, ""));
    assert!(open(&server.url()).await.is_ok());
    server.answer("/nix-cache-info", Response::new(403, ""));
    assert!(matches!(open(&server.url()).await, Err(CacheError::Status { status: 403, .. })));
    server.answer("/nix-cache-info", Response::new(200, "StoreDir: /gnu/store\n"));
    assert!(matches!(open(&server.url()).await, Err(CacheError::Info { .. })));
    let missing = tests::scratch();
    assert!(matches!(open(missing.path().to_str().unwrap()).await, Err(CacheError::Info { .. })));
}

#[tokio::test]
async fn an_answer_about_another_path_is_refused() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    let other = fixture("nix/cache-xz").join("sl2xkj3173msizl69v2fhrj3jm7401hl.narinfo");
    server.answer(NARINFO, Response::new(200, std::fs::read(other).unwrap()));
    let error = cache.narinfo(&path()).await.unwrap_err();
    assert!(matches!(error, CacheError::OtherPath { .. }), "{error}");
}

#[tokio::test]
async fn a_narinfo_without_end_is_cut_off() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    server.answer(NARINFO, Response::new(200, vec![b'x'; 2 * 1024 * 1024]));
    let error = cache.narinfo(&path()).await.unwrap_err();
    assert!(matches!(error, CacheError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn redirects_stay_on_their_origin() {
    let (server, other) = (server(), server());
    let cache = open(&server.url()).await.unwrap();
    server.hook(|request| {
        let moved = request.path().strip_prefix("/moved").map(str::to_owned);
        (moved.is_none()).then(|| Response::redirect(&format!("/moved{}", request.target)))
    });
    // The file server has no folder of that name: what counts is that it was asked.
    assert!(cache.narinfo(&path()).await.unwrap().is_none());
    assert_eq!(server.take_requests().last().unwrap().path(), format!("/moved{NARINFO}"));

    let elsewhere = format!("{}{NARINFO}", other.url());
    server.answer(NARINFO, Response::redirect(&elsewhere));
    let error = cache.narinfo(&path()).await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    assert_eq!(other.take_requests().len(), 0);
}

#[tokio::test]
async fn the_sixth_redirect_is_one_too_many() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    drop(server.take_requests());
    server.hook(|request: &Request| Some(Response::redirect(&format!("{}x", request.target))));
    assert!(cache.narinfo(&path()).await.is_err());
    assert_eq!(server.take_requests().len(), 6);
}

#[tokio::test]
async fn what_is_transient_is_tried_again_and_what_is_final_is_not() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    for (status, tries) in [(500, 2), (503, 2), (429, 2), (408, 2), (400, 1), (418, 1), (501, 1)] {
        drop(server.take_requests());
        server.answer(NARINFO, Response::new(status, ""));
        let error = cache.narinfo(&path()).await.unwrap_err();
        assert!(matches!(error, CacheError::Status { status: s, .. } if s == status), "{error}");
        assert_eq!(server.take_requests().len(), tries, "{status}");
    }
    let error = open(&server::nobody()).await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

#[tokio::test]
async fn a_pause_that_a_cache_asks_for_is_kept() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    // A date, two seconds after the server's own: whatever the clock here says.
    let busy = Response::new(503, "")
        .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
        .header("Retry-After", "Sun, 06 Nov 1994 08:49:39 GMT");
    server.answer(NARINFO, busy);
    let start = std::time::Instant::now();
    assert!(cache.narinfo(&path()).await.is_err());
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_without_a_head_is_given_up() {
    let hole = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", hole.local_addr().unwrap());
    let options = NetworkOptions {
        attempts: 2,
        header_timeout: Duration::from_millis(50),
        backoff: Duration::from_millis(1),
        ..NetworkOptions::default()
    };
    let network = Network::new(&options).unwrap();
    let error = BinaryCache::open(&Location::parse(&url).unwrap(), &network).await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

#[tokio::test]
async fn a_nar_that_breaks_off_goes_on_where_it_was() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    let url = cache.narinfo(&path()).await.unwrap().unwrap().url;
    let file = std::fs::read(fixture("nix/cache-xz").join(&url)).unwrap();
    let root = fixture("nix/cache-xz");
    drop(server.take_requests());
    server.hook(move |request| {
        let answer = Response::file(&root, request).header("ETag", "\"one\"");
        let first = !request.headers.contains_key("range");
        Some(if first { answer.cut_after(100) } else { answer })
    });
    assert!(nar(&cache, &url).await.unwrap() == file);
    let requests = server.take_requests();
    assert_eq!(requests[1].headers["range"], "bytes=100-");
    assert_eq!(requests[1].headers["if-range"], "\"one\"");
}

#[tokio::test]
async fn a_nar_that_breaks_off_without_a_promise_of_the_same_bytes_is_an_error() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    let url = cache.narinfo(&path()).await.unwrap().unwrap().url;
    let root = fixture("nix/cache-xz");
    for tag in [None, Some("W/\"weak\"")] {
        let root = root.clone();
        server.hook(move |request| {
            let answer = Response::file(&root, request).cut_after(100);
            Some(tag.iter().fold(answer, |answer, tag| answer.header("ETag", tag)))
        });
        assert!(nar(&cache, &url).await.is_err(), "{tag:?}");
    }
}

#[tokio::test]
async fn a_content_encoding_that_was_not_asked_for_is_refused() {
    let server = server();
    let cache = open(&server.url()).await.unwrap();
    server.answer(NARINFO, Response::new(200, "x").header("Content-Encoding", "gzip"));
    let error = cache.narinfo(&path()).await.unwrap_err();
    assert!(matches!(error, CacheError::Encoding { .. }), "{error}");
}

#[tokio::test]
async fn caches_are_asked_by_priority_and_one_that_is_gone_is_told_apart() {
    let (first, second) = (server(), server());
    second.answer("/nix-cache-info", Response::new(200, "StoreDir: /nix/store\nPriority: 10\n"));
    let location = |url: &str| Location::parse(url).unwrap();
    let locations = [
        (location(&first.url()), Some(20)),
        (location(&server::nobody()), None),
        (location(&second.url()), None),
    ];
    let (caches, errors) = BinaryCache::open_all(&locations, &[], &network()).await;
    let names: Vec<_> = caches.iter().map(|cache| cache.name().to_owned()).collect();
    assert_eq!(names, [second.url(), first.url()]);
    assert_eq!(errors.len(), 1);
}
