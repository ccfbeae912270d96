//! What one peer may take of the server, and that others do not notice.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;

/// Nothing here takes this long, unless it hangs.
const HANG: Duration = Duration::from_secs(120);

async fn start(data: &Path, change: impl FnOnce(&mut Limits)) -> Running {
    Running::with(data, |options| change(&mut options.limits)).await
}

/// Connects, and sends these bytes.
async fn say(server: &Running, bytes: &[u8]) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads all that comes until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut told = Vec::new();
    // A reset says as well as an end that the server has closed.
    let _closed = timeout(HANG, stream.read_to_end(&mut told)).await.expect("it stays open");
    String::from_utf8_lossy(&told).into_owned()
}

#[tokio::test]
async fn a_head_that_never_ends_and_a_connection_that_says_nothing_are_closed() {
    let data = data();
    let server = start(data.path(), |limits| limits.head = Duration::from_millis(300)).await;
    for said in ["", "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ", "GET /livez HTTP/1.1\r\n"] {
        let stream = say(&server, said.as_bytes()).await;
        let told = rest(stream).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 408"), "{said:?}: {told}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_refused() {
    let data = data();
    let server = start(data.path(), |limits| limits.body = Duration::from_millis(300)).await;
    for path in ["enrol", "reports"] {
        let head = format!(
            "POST /api/v1/realms/{}/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{",
            testing::REALM
        );
        let stream = say(&server, head.as_bytes()).await;
        let told = rest(stream).await;
        assert!(told.starts_with("HTTP/1.1 408"), "{path}: {told}");
        assert!(told.contains("\"too_slow\""), "{path}: {told}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_is_too_large_is_told_so_as_a_problem() {
    let data = data();
    let server = Running::start(data.path()).await;
    let large = vec![b' '; 2 * shared::report::MAX_LEN];
    let answer = server.api(Method::POST, "reports").body(large).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "too_large");
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_those_that_say_nothing() {
    let data = data();
    let server = start(data.path(), |limits| {
        (limits.connections, limits.head) = (2, Duration::from_millis(500));
    });
    let server = server.await;
    let silent = [say(&server, b"").await, say(&server, b"").await];
    let answer = timeout(HANG, server.get("/livez").send()).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for stream in silent {
        rest(stream).await;
    }
    server.stop().await;
}

/// The head and the first part of a publication that says it has `length` bytes, and then waits.
fn half_publication(length: usize) -> Vec<u8> {
    let index = closure(1);
    let bytes = manifest("web", 1, &index).to_bytes().unwrap();
    let role = role("web", 1, &[("eu-prod/web", &bytes)], 3);
    let head = format!(
        "PUT /api/v1/realms/{}/roles/web HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\
         Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n\
         --b\r\nContent-Disposition: form-data; name=\"role\"\r\n\r\n",
        testing::REALM
    );
    [head.as_bytes(), &role, b"\r\n--b\r\nContent-Disposition: form-data; name=\"blob\"\r\n\r\n"]
        .concat()
}

#[tokio::test]
async fn publishers_behind_slow_links_keep_nobody_waiting() {
    let data = data();
    let server = Running::start(data.path()).await;
    let half = half_publication(100_000);
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(say(&server, &half).await);
    }
    let (status, problem) = timeout(HANG, server.publish_web(1)).await.unwrap();
    assert_eq!(status, StatusCode::CREATED, "{problem}");
    drop(slow);
    server.stop().await;
}

#[tokio::test]
async fn a_publication_that_stops_on_its_way_is_refused() {
    let data = data();
    let server = start(data.path(), |limits| limits.body = Duration::from_secs(1)).await;
    let stream = say(&server, &half_publication(20_000)).await;
    let told = rest(stream).await;
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    assert_eq!(server.publish_web(1).await.0, StatusCode::CREATED);
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_does_not_keep_the_server_from_stopping() {
    let data = data();
    let server = start(data.path(), |limits| limits.drain = Duration::from_millis(200)).await;
    let stream = say(&server, &half_publication(20_000)).await;
    timeout(HANG, server.stop()).await.unwrap();
    rest(stream).await;
}

#[tokio::test]
async fn a_report_is_turned_away_with_a_time_to_come_again_while_too_much_waits() {
    let data = data();
    let server = Running::start(data.path()).await;
    let host = Host::new("web-1", 11);
    let token = hosts::token(data.path(), 1).await;
    let certificate = hosts::enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    // Another process holds the database, so that what comes only gathers.
    let holding = rusqlite::Connection::open(data.path().join("db.sqlite")).unwrap();
    holding.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    while !server.db.is_full() {
        let db = server.db.clone();
        waiting.spawn(async move { db.forget_ahead(testing::realm_name()).await });
        tokio::task::yield_now().await;
    }
    let body = host.signed(&host.report(1, None), &certificate);
    let response = server.api(Method::POST, "reports").body(body.clone()).send().await.unwrap();
    assert_eq!(response.status(), 503);
    let after = response.headers()["retry-after"].to_str().unwrap();
    assert!((1..=60).contains(&after.parse::<u32>().unwrap()), "{after}");
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "busy", "{problem}");
    holding.execute_batch("ROLLBACK").unwrap();
    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(hosts::send_report(&server, body).await.0, 200);
    server.stop().await;
}
