//! Who may read, over real sockets.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::{RequestBuilder, Response, header};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::db::tokens::ReadToken;

const HEADER: &str = "x-forwarded-user";

fn access(text: &str) -> Access {
    toml::from_str(text).unwrap()
}

/// A server whose reads ask for what `text` says.
async fn start(text: &str) -> (TempDir, Running) {
    let data = data();
    let access = access(text);
    let server = Running::with(data.path(), |options| options.access = access).await;
    (data, server)
}

async fn add(server: &Running, realm: &str, name: &str, token: &str, seconds: i64) {
    let created_at = Time::of(testing::now());
    let (realm, name) = (realm.parse().unwrap(), name.parse().unwrap());
    let kept = ReadToken { realm, name, created_at, expires_at: created_at.plus(seconds) };
    assert!(server.db.add_read_token(tokens::hash(token), kept).await.unwrap());
}

async fn sent(request: RequestBuilder) -> Response {
    request.timeout(Duration::from_secs(120)).send().await.unwrap()
}

async fn status(request: RequestBuilder) -> u16 {
    sent(request).await.status().as_u16()
}

/// Every path that the served description lets somebody get, with names that exist where they can.
async fn paths(server: &Running) -> Vec<(String, Value)> {
    let described: Value = sent(server.get("/openapi.json")).await.json().await.unwrap();
    let paths = described["paths"].as_object().unwrap().iter();
    let gets = paths.filter(|(_, item)| item.get("get").is_some());
    gets.map(|(path, item)| {
        let mut path = path.replace("{realm}", testing::REALM);
        while let Some((begin, rest)) = path.split_once('{') {
            path = format!("{begin}x{}", rest.split_once('}').unwrap().1);
        }
        (path, item["get"]["security"].clone())
    })
    .collect()
}

#[tokio::test]
async fn without_a_token_nothing_of_the_fleet_is_told_and_hosts_get_all_they_need() {
    let (_data, server) = start("reads = 'token'").await;
    let open = ["/livez", "/readyz", "/version"];
    let all = paths(&server).await;
    assert!(all.len() > 20, "{all:?}");
    for (path, security) in &all {
        let response = sent(server.get(path)).await;
        if open.contains(&path.as_str()) {
            assert_ne!(response.status(), 401, "{path}");
            assert!(security.is_null(), "{path}");
            continue;
        }
        assert_eq!(response.status(), 401, "{path}");
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"shoal\"");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&"read_token".into(), &401.into()));
        assert_eq!(problem["next"], "registry token create NAME");
        assert_eq!(security[0]["read_token"], serde_json::json!([]), "{path}");
    }
    // What hosts and publishers need asks for no token.
    assert_eq!(server.publish_web(1).await.0, StatusCode::CREATED);
    follow(&server, "eu-prod/web").await;
    for path in ["enrol", "reports"] {
        let response = sent(server.api(Method::POST, path).body("{}")).await;
        let problem: Value = response.json().await.unwrap();
        assert_ne!(problem["code"], "read_token", "{path}: {problem}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_token_reads_its_realm_until_it_ends_or_is_revoked() {
    let (_data, server) = start("reads = 'token'").await;
    add(&server, testing::REALM, "grafana", "good", 60).await;
    add(&server, testing::REALM, "old", "ended", 0).await;
    add(&server, "other", "grafana", "foreign", 60).await;
    let ask = |token: &str| server.api(Method::GET, "fleet").bearer_auth(token);
    assert_eq!(status(ask("good")).await, 200);
    assert_eq!(status(ask("good").header("x-forwarded-user", "ada")).await, 200);
    for bad in ["ended", "foreign", "none", "Good", &"a".repeat(5000)] {
        assert_eq!(status(ask(bad)).await, 401, "{bad}");
    }
    assert_eq!(status(server.get("/api/v1/realms/none/fleet").bearer_auth("good")).await, 401);
    let metrics = |token: &str| server.get("/metrics").bearer_auth(token);
    assert_eq!((status(metrics("good")).await, status(metrics("none")).await), (200, 401));
    // A tag that is known is no way around.
    let tag = sent(ask("good")).await.headers()[header::ETAG].clone();
    let again = server.api(Method::GET, "fleet").header(header::IF_NONE_MATCH, tag);
    assert_eq!(status(again).await, 401);

    let (realm, name) = (testing::realm_name(), "grafana".parse().unwrap());
    let now = Time::of(testing::now());
    assert!(server.db.revoke_read_token(realm, name, now).await.unwrap());
    assert_eq!(status(ask("good")).await, 401);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_of_events_ends_soon_after_its_token() {
    let data = data();
    let mut access = access("reads = 'token'");
    access.look_again = Duration::from_millis(50);
    let server = Running::with(data.path(), |options| options.access = access).await;
    add(&server, testing::REALM, "one", "first", 60).await;
    add(&server, testing::REALM, "two", "second", 60).await;
    let stream = |token: &str| server.api(Method::GET, "events").bearer_auth(token);
    let (mut one, mut two) = (sent(stream("first")).await, sent(stream("second")).await);
    assert_eq!((one.status(), two.status()), (StatusCode::OK, StatusCode::OK));
    let (realm, name) = (testing::realm_name(), "one".parse().unwrap());
    let now = Time::of(testing::now());
    assert!(server.db.revoke_read_token(realm, name, now).await.unwrap());
    while one.chunk().await.unwrap().is_some() {}
    // The other one still hears what happens.
    server.publish_web(1).await;
    let mut heard = String::new();
    while !heard.contains("manifest.published") {
        let chunk = two.chunk().await.unwrap().expect("it goes on");
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_header_counts_only_from_a_proxy_of_ours() {
    let written = |proxy: IpAddr| {
        format!("reads = 'proxy-header'\nheader = '{HEADER}'\nproxies = ['{proxy}']")
    };
    let (_data, server) = start(&written(Ipv4Addr::LOCALHOST.into())).await;
    add(&server, testing::REALM, "cli", "good", 60).await;
    let ask = || server.api(Method::GET, "fleet");
    assert_eq!(status(ask().header(HEADER, "ada")).await, 200);
    assert_eq!(status(ask()).await, 401);
    assert_eq!(status(ask().header(HEADER, "")).await, 401);
    assert_eq!(status(ask().header(HEADER, "mallory").header(HEADER, "ada")).await, 401);
    assert_eq!(status(ask().bearer_auth("good")).await, 200, "programs come without a browser");
    server.stop().await;

    let (_data, server) = start(&written(Ipv4Addr::new(192, 0, 2, 1).into())).await;
    let spoofed = server.api(Method::GET, "fleet").header(HEADER, "ada");
    let spoofed = spoofed.header("x-forwarded-for", "192.0.2.1");
    assert_eq!(status(spoofed).await, 401);
    server.stop().await;
}

#[tokio::test]
async fn metrics_can_stay_open_where_reads_are_closed() {
    let (_data, server) = start("reads = 'token'\nmetrics = 'open'").await;
    assert_eq!(status(server.get("/metrics")).await, 200);
    assert_eq!(status(server.api(Method::GET, "fleet")).await, 401);
    server.stop().await;
}
