//! Following what changes.

use serde_json::Value;

use super::{
    hosts::{enrol, profile, send_report, token},
    *,
};

/// Somebody who follows, and what came that was not looked at yet.
struct Follower {
    response: reqwest::Response,
    text: String,
}

impl Follower {
    async fn start(server: &Running, query: &str, last: Option<&str>) -> Self {
        let mut request = server.api(Method::GET, &format!("events{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.header("accept-encoding", "gzip").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(!response.headers().contains_key("content-encoding"), "held back by no codec");
        let mut follower = Self { response, text: String::new() };
        assert_eq!(follower.block().await, "retry: 3000");
        follower
    }

    /// Returns the next block of lines.
    async fn block(&mut self) -> String {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return block;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.response.chunk()).await;
            let chunk = chunk.expect("nothing came").unwrap().expect("the stream ended");
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// Returns the id, the type and the data of the next event.
    async fn event(&mut self) -> (String, String, Value) {
        let block = loop {
            let block = self.block().await;
            if !block.starts_with(':') {
                break block;
            }
        };
        let line = |name: &str| {
            let found = block.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no `{name}` in {block}")).to_owned()
        };
        let data = serde_json::from_str(&line("data: ")).unwrap();
        (line("id: "), line("event: "), data)
    }
}

#[tokio::test]
async fn whoever_follows_is_told_what_changes_and_goes_on_where_they_were() {
    let data = data();
    let server = Running::start(data.path()).await;
    let token = token(data.path(), 1).await;
    let mut follower = Follower::start(&server, "", None).await;
    let mut of_states =
        Follower::start(&server, "?types=host.failed,host.conv*&group=eu-prod", None).await;
    let host = Host::new("web-1", 11);
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    let (first, word, told) = follower.event().await;
    assert_eq!((word.as_str(), &told["entry"]["subject"]), ("host.enrolled", &"web-1".into()));

    server.publish_web(1).await;
    let (_, word, told) = follower.event().await;
    assert_eq!((word.as_str(), &told["publication"]["version"]), ("manifest.published", &1.into()));
    let (last, word, told) = follower.event().await;
    assert_eq!((word.as_str(), &told["entry"]["subject"]), ("role.published", &"web".into()));

    let mut report = host.report(1, None);
    report.profiles.push(profile("eu-prod", StateWord::Failed, "agent status"));
    send_report(&server, host.signed(&report, &certificate)).await;
    let (_, word, told) = follower.event().await;
    assert_eq!((word.as_str(), &told["host"]["reason"]["code"]), ("host.failed", &"code".into()));
    let (_, word, told) = of_states.event().await;
    assert_eq!((word.as_str(), &told["host"]["name"]), ("host.failed", &"web-1".into()));

    // After a break: what came since, and nothing twice.
    drop(follower);
    let mut back = Follower::start(&server, "", Some(&last)).await;
    assert_eq!(back.event().await.1, "host.failed");
    let mut early = Follower::start(&server, &format!("?after={first}"), None).await;
    assert_eq!(early.event().await.1, "manifest.published");

    // A number that nobody gave: look at everything anew.
    let mut lost = Follower::start(&server, "", Some("999999")).await;
    assert_eq!(lost.event().await.1, "resync");
    let refused = server.api(Method::GET, "events").header("last-event-id", "x");
    assert_eq!(refused.send().await.unwrap().status(), 400);
    server.stop().await;
}

#[tokio::test]
async fn a_host_that_changes_often_is_told_as_it_is_by_then() {
    let data = data();
    let server = Running::start(data.path()).await;
    let token = token(data.path(), 1).await;
    let host = Host::new("web-1", 11);
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    for (counter, state) in
        (1..).zip([StateWord::Fetching, StateWord::Failed, StateWord::Converged])
    {
        let mut report = host.report(counter, None);
        report.profiles.push(profile("eu-prod", state, "agent status"));
        assert_eq!(send_report(&server, host.signed(&report, &certificate)).await.0, 200);
    }
    let mut follower = Follower::start(&server, "?after=0&types=host.*", None).await;
    assert_eq!(follower.event().await.1, "host.enrolled");
    assert_eq!(follower.event().await.1, "host.converged", "once, of three changes");
    server.stop().await;
}

#[tokio::test]
async fn programs_may_have_it_as_json_lines() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    let request = server.api(Method::GET, "events?after=0&types=manifest.published");
    let request =
        request.header("accept", "application/x-ndjson").header("accept-encoding", "zstd");
    let mut response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert!(!response.headers().contains_key("content-encoding"));
    let line = response.chunk().await.unwrap().unwrap();
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&line["type"], &line["number"].is_u64()), (&"manifest.published".into(), &true));
    // A server that stops ends it.
    server.stop().await;
    while response.chunk().await.is_ok_and(|chunk| chunk.is_some()) {}
}
