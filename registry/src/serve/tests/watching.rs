//! What whoever watches the server is told.

use super::*;

async fn text(server: &Running, path: &str) -> (StatusCode, String) {
    let response = server.get(path).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn metrics_count_what_happens_and_begin_at_zero() {
    let data = data();
    let server = Running::start(data.path()).await;
    let response = server.get("/metrics").send().await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, shared::api::OPEN_METRICS);
    let metrics = response.text().await.unwrap();
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    for line in [
        "shoal_registry_publishes_total{outcome=\"published\"} 0",
        "shoal_registry_reports_total{outcome=\"stored\"} 0",
        "shoal_registry_reports_total{outcome=\"limited\"} 0",
        "shoal_registry_hosts_ahead{realm=\"main\"} 0",
        "shoal_registry_long_polls 0",
        "shoal_registry_last_backup_timestamp_seconds 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    let policy = testing::policy(1, &key(5)).to_bytes().unwrap();
    let owners = testing::role("owners.eu-prod", 1, &[("eu-prod/_policy", &policy)], 4);
    assert_eq!(server.publish("owners.eu-prod", 0, &owners, &[&policy]).await.0, 201);
    server.publish_web(1).await;
    assert_eq!(server.publish_web(9).await.0, StatusCode::PRECONDITION_FAILED);
    text(&server, "/nothing/of/the/kind").await;
    let (_, metrics) = text(&server, "/metrics").await;
    for line in [
        "shoal_registry_publishes_total{outcome=\"published\"} 2",
        "shoal_registry_publishes_total{outcome=\"conflict\"} 1",
        "shoal_registry_http_requests_total{route=\"none\",method=\"GET\",code=\"404\"} 1",
        "shoal_registry_http_requests_total{route=\"/metrics\",method=\"GET\",code=\"200\"} 1",
        "shoal_registry_version{realm=\"main\",group=\"eu-prod\",profile=\"web\"} 1",
        "shoal_registry_expiry_timestamp_seconds{realm=\"main\",role=\"web\"} 4070908800",
        "shoal_registry_hosts{realm=\"main\",group=\"eu-prod\",state=\"stale\"} 0",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} is not in\n{metrics}");
    }
    server.stop().await;
}

#[tokio::test]
async fn readiness_is_told_check_by_check_as_kubernetes_does() {
    let data = data();
    let server = Running::start(data.path()).await;
    assert_eq!(text(&server, "/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    let (status, told) = text(&server, "/readyz?verbose").await;
    assert_eq!(status, StatusCode::OK);
    let checks = ["ping", "shutdown", "database-read", "database-write", "disk-room"];
    for check in checks.iter().chain(&["timestamp/main", "snapshot/main"]) {
        assert!(told.contains(&format!("[+]{check} ok\n")), "{told}");
    }
    assert!(told.ends_with("readyz check passed\n"), "{told}");

    fs::remove_file(data.path().join("db.sqlite")).unwrap();
    let (status, told) = text(&server, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(told.contains("[-]database-write failed: "), "{told}");
    assert!(told.contains("[+]timestamp/main ok\n"), "{told}");
    assert!(!told.contains(data.path().to_str().unwrap()), "{told}");
    let (status, _) = text(&server, "/readyz?exclude=database-write").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(text(&server, "/livez").await.0, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn the_version_is_told() {
    let data = data();
    let server = Running::start(data.path()).await;
    let told: serde_json::Value =
        server.get("/version").send().await.unwrap().json().await.unwrap();
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    server.stop().await;
}
