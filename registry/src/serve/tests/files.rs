//! Plain files over HTTP.

use super::*;

#[tokio::test]
async fn files_say_whether_they_can_change() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    let index = closure(1);
    let bytes = manifest("web", 1, &index).to_bytes().unwrap();
    for (path, control) in [
        ("metadata/timestamp.json".to_owned(), "no-cache"),
        ("metadata/1.web.json".to_owned(), "public, max-age=31536000, immutable"),
        (target_file("eu-prod/web", &bytes), "public, max-age=31536000, immutable"),
        (testing::closure_file(index.digest()), "public, max-age=31536000, immutable"),
    ] {
        let path = format!("/r/main/{path}");
        let response = server.get(&path).send().await.unwrap();
        assert_eq!(response.headers()["cache-control"], control, "{path}");
        let tag = response.headers()["etag"].to_str().unwrap().to_owned();
        let body = response.bytes().await.unwrap();
        assert_eq!(tag, format!("\"{}\"", &Digest::of(&body).to_string()[..16]));
        let again = server.get(&path).header("If-None-Match", &tag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(again.headers()["etag"], tag.as_str());
    }
    for path in ["/r/main/keys/timestamp.pem", "/r/other/metadata/timestamp.json", "/x"] {
        let response = server.get(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
    server.stop().await;
}

#[tokio::test]
async fn whoever_waits_is_answered_by_a_publication() {
    let data = data();
    let server = Running::start(data.path()).await;
    let url = "/r/main/metadata/timestamp.json?wait=60";
    let tag = server.get(url).send().await.unwrap().headers()["etag"].clone();
    let waiting = tokio::spawn(server.get(url).header("If-None-Match", &tag).send());
    server.publish_web(1).await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_ne!(answer.headers()["etag"], tag);
    server.stop().await;
}

#[tokio::test]
async fn whoever_waits_is_answered_when_the_server_stops() {
    let data = data();
    let server = Running::start(data.path()).await;
    let url = "/r/main/metadata/timestamp.json?wait=60";
    let tag = server.get(url).send().await.unwrap().headers()["etag"].clone();
    let waiting = tokio::spawn(server.get(url).header("If-None-Match", &tag).send());
    // One more answered request: the waiting one has reached the server by then or is refused.
    server.get("/livez").send().await.unwrap();
    server.stop().await;
    if let Ok(answer) = waiting.await.unwrap() {
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn a_file_cache_can_be_resumed() {
    let data = data();
    let cache = tempfile::tempdir().unwrap();
    fs::write(cache.path().join("x.nar"), b"0123456789").unwrap();
    let folder = cache.path().to_owned();
    let server = Running::with(data.path(), |options| options.cache = Some(folder)).await;
    let whole = server.get("/cache/x.nar").send().await.unwrap();
    assert_eq!(whole.headers()["content-length"], "10");
    assert_eq!(whole.bytes().await.unwrap(), "0123456789");
    let rest = server.get("/cache/x.nar").header("Range", "bytes=7-").send().await.unwrap();
    assert_eq!(rest.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(rest.headers()["content-range"], "bytes 7-9/10");
    assert_eq!(rest.bytes().await.unwrap(), "789");
    let missing = server.get("/cache/y.nar").send().await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn metadata_is_served_once_it_is_committed_and_not_before() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    let metadata = data.path().join("r/main/metadata");
    // As a publication that has failed for want of space would leave it.
    fs::write(metadata.join("2.web.json"), b"{}").unwrap();
    assert_eq!(server.file("metadata/2.web.json").await, None);
    assert_eq!(server.publish_web(2).await.0, StatusCode::CREATED);
    assert!(server.file("metadata/2.web.json").await.is_some());
    server.stop().await;
}

#[tokio::test]
async fn a_file_is_served_from_memory_and_anew_once_it_is_another() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    let file = testing::closure_file(closure(1).digest());
    let path = format!("/r/main/{file}");
    let first = server.file(&file).await.unwrap();
    let tag = server.get(&path).send().await.unwrap().headers()["etag"].clone();
    let known = || server.get(&path).header("If-None-Match", &tag);
    assert_eq!(known().send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    assert_eq!(server.file(&file).await.unwrap(), first);
    let head = reqwest::Client::new().head(server.get(&path).build().unwrap().url().clone());
    let head = head.send().await.unwrap();
    assert_eq!(head.headers()["etag"], tag);
    assert_eq!(head.headers()["content-length"], first.len().to_string().as_str());
    // As `restore` or a person would: written beside it, and moved over it.
    let on_disk = data.path().join(&path[1..]);
    let hints = format!("{path}.hints");
    for text in ["one", "two"] {
        let new = data.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, on_disk.with_extension("hints")).unwrap();
        let answer = server.get(&hints).send().await.unwrap();
        let tag = answer.headers()["etag"].clone();
        assert_eq!(answer.bytes().await.unwrap(), text);
        let again = server.get(&hints).send().await.unwrap();
        assert_eq!((&again.headers()["etag"], again.status()), (&tag, StatusCode::OK));
        assert_eq!(again.bytes().await.unwrap(), text);
        let known = server.get(&hints).header("If-None-Match", &tag).send().await.unwrap();
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    }
    fs::remove_file(&on_disk).unwrap();
    assert_eq!(server.file(&file).await, None);
    server.stop().await;
}

#[tokio::test]
async fn what_is_answered_from_memory_is_counted_as_all_else_is() {
    let data = data();
    let server = Running::start(data.path()).await;
    let path = "/r/main/metadata/1.root.json";
    for _ in 0..3 {
        server.get(path).send().await.unwrap();
    }
    let tag = server.get(path).send().await.unwrap().headers()["etag"].clone();
    server.get(path).header("If-None-Match", &tag).send().await.unwrap();
    let metrics = server.get("/metrics").send().await.unwrap().text().await.unwrap();
    let route = "route=\"/r/{realm}/{*path}\"";
    for line in [
        format!("shoal_registry_http_requests_total{{{route},method=\"GET\",code=\"200\"}} 4"),
        format!("shoal_registry_http_requests_total{{{route},method=\"GET\",code=\"304\"}} 1"),
        format!("shoal_registry_http_request_duration_seconds_count{{{route}}} 5"),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
    server.stop().await;
}
