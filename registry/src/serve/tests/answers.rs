//! How the API answers, whatever it is asked: tags, compression, refusals, its description.

use serde_json::Value;

use super::*;

async fn get(server: &Running, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let request = server.get(path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.unwrap()
}

fn text(response: &reqwest::Response, name: &str) -> String {
    let value = response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    value.unwrap_or_default()
}

#[tokio::test]
async fn asking_again_for_what_did_not_change_costs_a_304() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    for path in ["fleet", "groups", "groups/eu-prod", "groups/eu-prod/diff", "hosts", "teams/web"] {
        let path = format!("/api/v1/realms/main/{path}");
        let first = get(&server, &path, &[]).await;
        let tag = text(&first, "etag");
        assert!(tag.starts_with('"'), "{path} has no strong tag: `{tag}`");
        let again = get(&server, &path, &[("if-none-match", &tag)]).await;
        assert_eq!(
            (again.status(), text(&again, "etag")),
            (StatusCode::NOT_MODIFIED, tag),
            "{path}"
        );
        assert_eq!(again.bytes().await.unwrap().len(), 0);
    }
    let path = "/api/v1/realms/main/groups/eu-prod";
    let before = text(&get(&server, path, &[]).await, "etag");
    server.publish_web(2).await;
    let after = get(&server, path, &[("if-none-match", &before)]).await;
    assert_eq!(after.status(), StatusCode::OK, "a tag that is not of this content");
    server.stop().await;
}

#[tokio::test]
async fn answers_are_compressed_for_whoever_can_read_that_under_a_tag_of_their_own() {
    let data = data();
    let server = Running::start(data.path()).await;
    for (encoding, magic) in
        [("gzip", [0x1f, 0x8b].as_slice()), ("zstd", &[0x28, 0xb5, 0x2f, 0xfd])]
    {
        let asked = [("accept-encoding", encoding)];
        let answer = get(&server, "/openapi.json", &asked).await;
        assert_eq!(text(&answer, "content-encoding"), encoding);
        assert!(text(&answer, "vary").contains("accept-encoding"));
        let tag = text(&answer, "etag");
        assert!(tag.ends_with(&format!("-{encoding}\"")), "{tag}");
        assert!(answer.bytes().await.unwrap().starts_with(magic));
        let again = [("accept-encoding", encoding), ("if-none-match", &tag)];
        let again = get(&server, "/openapi.json", &again).await;
        assert_eq!((again.status(), text(&again, "etag")), (StatusCode::NOT_MODIFIED, tag));
    }
    // What hosts read is what a mirror would send: the bytes that were signed.
    let asked = [("accept-encoding", "gzip")];
    let file = get(&server, "/r/main/metadata/1.root.json", &asked).await;
    assert_eq!(text(&file, "content-encoding"), "");
    server.stop().await;
}

#[tokio::test]
async fn the_description_is_served_and_its_page_takes_nothing_from_elsewhere() {
    let data = data();
    let server = Running::start(data.path()).await;
    let api: Value = get(&server, "/openapi.json", &[]).await.json().await.unwrap();
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1."));
    let hosts = &api["paths"]["/api/v1/realms/{realm}/hosts"]["get"];
    assert!(hosts["responses"]["304"].is_object(), "{hosts}");
    let page = get(&server, "/docs", &[]).await;
    assert!(text(&page, "content-security-policy").starts_with("default-src 'self'"));
    let page = page.text().await.unwrap();
    assert!(page.contains("GET /api/v1/realms/{realm}/hosts"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://"), "{page}");
    assert!(get(&server, "/docs/style.css", &[]).await.status().is_success());
    server.stop().await;
}

#[tokio::test]
async fn whatever_is_refused_is_a_problem_and_no_other_site_may_ask() {
    let data = data();
    let server = Running::start(data.path()).await;
    let hosts = "hosts";
    let long = format!("hosts?group={}", "x".repeat(5000));
    for (method, path, status) in [
        (Method::GET, "nothing", 404),
        (Method::GET, "hosts?state=green", 422),
        (Method::GET, "hosts?limit=x", 400),
        (Method::GET, "hosts?group=%00", 400),
        (Method::GET, "hosts/%ff", 400),
        (Method::GET, long.as_str(), 400),
        (Method::DELETE, hosts, 405),
        (Method::OPTIONS, hosts, 405),
    ] {
        let request = server.api(method.clone(), path).header("origin", "https://evil.example");
        let answer = request.send().await.unwrap();
        let cors = answer.headers().keys().any(|name| name.as_str().starts_with("access-control"));
        assert!(!cors, "{path}");
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        assert_eq!(text(&answer, "content-type"), shared::api::PROBLEM, "{method} {path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["status"], status);
        assert!(problem["code"].is_string() && problem["detail"].is_string(), "{problem}");
    }
    server.stop().await;
}
