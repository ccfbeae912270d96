use std::fs;

use jiff::SignedDuration;
use reqwest::{Method, StatusCode};
use shared::{
    api::{Challenge, EnrolAnswer, HostSummary, Page, Part, Publication},
    closure::ClosureIndex,
    hints::Hints,
    id::{Digest, GroupName},
    report::{ProfileReport, Reason},
    state_word::StateWord,
    trust::{Clock, Refresh, Rules, Stored, StoredTarget, dsse::Envelope},
};

use super::*;
use crate::{
    db::tokens::{self, Grant},
    testing::{self, Host, Running, closure, data, key, manifest, policy, role, target_file},
};

/// Follows everything that is served from the root to a target, as an agent does.
async fn follow(server: &Running, path: &str) -> Vec<u8> {
    let root = server.file("metadata/1.root.json").await.unwrap();
    let clock = Clock::synchronised(testing::now());
    let rules = Rules::shoal(testing::REALM);
    let mut refresh = Refresh::new(rules, &root, Stored::default(), clock).unwrap();
    while let Some(need) = refresh.need() {
        let bytes = server.file(&format!("metadata/{}", need.name)).await;
        refresh.feed(&need.name, bytes).unwrap();
    }
    let trusted = refresh.finish().unwrap();
    let mut lookup = trusted.lookup(path, StoredTarget::default()).unwrap();
    while let Some(need) = lookup.need() {
        let folder = match need.folder {
            shared::trust::Folder::Metadata => "metadata",
            shared::trust::Folder::Targets => "targets",
        };
        let bytes = server.file(&format!("{folder}/{}", need.name)).await;
        lookup.feed(&need.name, bytes).unwrap();
    }
    lookup.finish().unwrap().target.into_inner()
}

#[tokio::test]
async fn what_is_published_is_what_an_agent_finds() {
    let data = data();
    let server = Running::start(data.path()).await;
    let (status, receipt) = server.publish_web(1).await;
    assert_eq!(status, StatusCode::CREATED, "{receipt}");
    assert_eq!(receipt, serde_json::json!({"role": "web", "version": 1, "timestamp": 2}));
    let (status, receipt) = server.publish_web(2).await;
    assert_eq!((status, &receipt["timestamp"]), (StatusCode::CREATED, &3.into()), "{receipt}");
    let found = follow(&server, "eu-prod/web").await;
    let index = closure(2);
    assert_eq!(found, manifest("web", 2, &index).to_bytes().unwrap());
    let file = testing::closure_file(index.digest());
    assert_eq!(server.file(&file).await.unwrap(), index.to_bytes());

    let answer = server.api(Method::GET, "groups/eu-prod/history").send().await.unwrap();
    let history: Page<Publication> = answer.json().await.unwrap();
    let versions: Vec<u32> = history.items.iter().map(|item| item.version.get()).collect();
    assert_eq!(versions, [2, 1]);
    assert_eq!(history.items[0].signers, [key(3).public().key_id().to_string()]);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_was_lost_is_given_again() {
    let data = data();
    let server = Running::start(data.path()).await;
    let first = server.publish_web(1).await;
    assert_eq!(server.publish_web(1).await, first);
    server.stop().await;
}

#[tokio::test]
async fn refuses_whoever_did_not_see_the_last_version() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    let index = closure(9);
    let bytes = manifest("web", 9, &index).to_bytes().unwrap();
    for (after, version) in [(0, 2), (2, 3), (1, 3)] {
        let role = role("web", version, &[("eu-prod/web", &bytes)], 3);
        let (status, problem) =
            server.publish("web", after, &role, &[&bytes, &index.to_bytes()]).await;
        assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{problem}");
        assert_eq!((&problem["code"], &problem["kind"]), (&"moved".into(), &"conflict".into()));
    }
    let request = server.api(Method::PUT, "roles/web");
    let form = reqwest::multipart::Form::new().text("role", "{}");
    let response = request.multipart(form).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::PRECONDITION_REQUIRED);
    server.stop().await;
}

/// One publication that must not be taken, by what an attacker or a mistake would send.
async fn refused(name: &str, role_bytes: &[u8], blobs: &[&[u8]]) -> (u16, String) {
    let data = data();
    let server = Running::start(data.path()).await;
    let before = server.file("metadata/timestamp.json").await;
    let (status, problem) = server.publish(name, 0, role_bytes, blobs).await;
    assert_eq!(server.file("metadata/timestamp.json").await, before, "{problem}");
    assert_eq!(server.file(&format!("metadata/1.{name}.json")).await, None, "{problem}");
    server.stop().await;
    (status.as_u16(), problem["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn refuses_what_an_agent_would_refuse() {
    let index = closure(1);
    let closure_bytes = index.to_bytes();
    let good = manifest("web", 1, &index);
    let bytes = good.to_bytes().unwrap();
    let web = |bytes: &[u8], seed| role("web", 1, &[("eu-prod/web", bytes)], seed);
    let both: [&[u8]; 2] = [&bytes, &closure_bytes];
    let check = async |expected: (u16, &str), name: &str, role: &[u8], blobs: &[&[u8]]| {
        assert_eq!(refused(name, role, blobs).await, (expected.0, expected.1.to_owned()));
    };

    check((403, "bad_signature"), "web", &web(&bytes, 9), &both).await;
    let outside = role("web", 1, &[("eu-prod/db", &bytes)], 3);
    check((403, "fence"), "web", &outside, &both).await;
    check((403, "not_delegated"), "other", &role("other", 1, &[], 3), &[]).await;
    let missing = web(&bytes, 3);
    check((422, "missing_target"), "web", &missing, &[&closure_bytes]).await;
    check((422, "missing_closure"), "web", &missing, &[&bytes]).await;

    let garbage = b"not a manifest".as_slice();
    check((422, "manifest"), "web", &web(garbage, 3), &[garbage]).await;
    let elsewhere = manifest("web2", 1, &index).to_bytes().unwrap();
    check((422, "manifest"), "web", &web(&elsewhere, 3), &[&elsewhere, &closure_bytes]).await;
    let mut wrong = good.clone();
    wrong.entries[0].nar_size += 1;
    let wrong = wrong.to_bytes().unwrap();
    check((422, "closure"), "web", &web(&wrong, 3), &[&wrong, &closure_bytes]).await;
    let mut reserved = good.clone();
    reserved.requires = vec!["db".into()];
    let reserved = reserved.to_bytes().unwrap();
    check((422, "unsupported"), "web", &web(&reserved, 3), &[&reserved, &closure_bytes]).await;
    let mut broken = good.clone();
    broken.entries[0].closure = Digest::of(garbage);
    let broken = broken.to_bytes().unwrap();
    check((422, "closure"), "web", &web(&broken, 3), &[&broken, garbage]).await;
    let policy_as_manifest = policy(1, &key(5)).to_bytes().unwrap();
    let owners = role("owners.eu-prod", 1, &[("eu-prod/_policy", &bytes)], 4);
    check((422, "policy"), "owners.eu-prod", &owners, &[&bytes]).await;
    let as_manifest = web(&policy_as_manifest, 3);
    check((422, "manifest"), "web", &as_manifest, &[&policy_as_manifest]).await;
}

#[tokio::test]
async fn refuses_a_manifest_version_that_does_not_rise() {
    let data = data();
    let server = Running::start(data.path()).await;
    let index = closure(1);
    let first = manifest("web", 5, &index).to_bytes().unwrap();
    let role_1 = role("web", 1, &[("eu-prod/web", &first)], 3);
    let (status, _) = server.publish("web", 0, &role_1, &[&first, &index.to_bytes()]).await;
    assert_eq!(status, StatusCode::CREATED);
    for (epoch, version, expected) in [(0, 5, 422), (0, 4, 422), (0, 6, 201)] {
        let mut again = manifest("web", version, &index);
        (again.epoch, again.note) = (epoch, "other bytes".to_owned());
        let bytes = again.to_bytes().unwrap();
        let role_2 = role("web", 2, &[("eu-prod/web", &bytes)], 3);
        let (status, problem) = server.publish("web", 1, &role_2, &[&bytes]).await;
        assert_eq!(status.as_u16(), expected, "{problem}");
    }
    server.stop().await;
}

#[tokio::test]
async fn hints_come_with_their_closure_index_and_with_no_other() {
    let data = data();
    let server = Running::start(data.path()).await;
    let index = closure(1);
    let bytes = manifest("web", 1, &index).to_bytes().unwrap();
    let role = role("web", 1, &[("eu-prod/web", &bytes)], 3);
    let mut hints = Hints::default();
    hints.add_cache("https://cache.example");
    let parts = |hints: Vec<u8>| {
        [(Part::Role, role.clone()), (Part::Blob, bytes.clone()), (Part::Blob, index.to_bytes())]
            .into_iter()
            .chain([(Part::Hints, hints)])
            .map(|(part, bytes)| (part.name(), bytes))
    };
    let foreign = hints.to_bytes(Digest([1; 32]));
    let (status, problem) = server.send("web", 0, parts(foreign)).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &"hints".into()));
    let own = hints.to_bytes(index.digest());
    let (status, _) = server.send("web", 0, parts(own.clone())).await;
    assert_eq!(status, StatusCode::CREATED);
    let file = format!("{}.hints", testing::closure_file(index.digest()));
    assert_eq!(server.file(&file).await.unwrap(), own);
    server.stop().await;
}

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
async fn the_history_is_rebuilt_from_the_files() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    server.publish_web(2).await;
    server.stop().await;
    for file in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        // Some of them may be gone already.
        let _gone = fs::remove_file(data.path().join(file));
    }
    let server = Running::start(data.path()).await;
    let answer = server.api(Method::GET, "groups/eu-prod/history?profile=web&limit=1");
    let history: Page<Publication> = answer.send().await.unwrap().json().await.unwrap();
    assert_eq!(history.items[0].version.get(), 2);
    assert_eq!(history.next_cursor.as_deref(), Some("1"));
    server.stop().await;
}

#[tokio::test]
async fn a_second_server_on_the_same_files_is_refused() {
    let data = data();
    let server = Running::start(data.path()).await;
    let options = Options {
        data: data.path().to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        cache: None,
        stale_after: 180,
    };
    let second = Server::start(&options, testing::now).await;
    assert!(matches!(second, Err(ServeError::Locked(_))));
    server.stop().await;
}

#[tokio::test]
async fn old_signatures_are_renewed_at_the_start() {
    fn tomorrow() -> Timestamp {
        testing::now().checked_add(SignedDuration::from_hours(30)).unwrap()
    }
    let data = data();
    let options = Options {
        data: data.path().to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        cache: None,
        stale_after: 180,
    };
    let server = Server::start(&options, tomorrow).await.unwrap();
    let realm = server.app.realms.values().next().unwrap();
    assert_eq!((realm.version("snapshot"), realm.version("timestamp")), (2, 2));
    realm.renew(tomorrow()).unwrap();
    assert_eq!(realm.version("timestamp"), 2);
}

#[tokio::test]
async fn what_was_never_committed_is_removed() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    server.stop().await;
    let metadata = data.path().join("r/main/metadata");
    for leftover in ["2.web.json", "3.snapshot.json", ".timestamp.json.0011223344556677"] {
        fs::write(metadata.join(leftover), b"half").unwrap();
    }
    let server = Running::start(data.path()).await;
    for leftover in ["2.web.json", "3.snapshot.json", ".timestamp.json.0011223344556677"] {
        assert!(!metadata.join(leftover).exists(), "{leftover}");
    }
    follow(&server, "eu-prod/web").await;
    assert_eq!(server.publish_web(2).await.0, StatusCode::CREATED);
    server.stop().await;
}

/// Makes a token for hosts of `eu-prod`.
fn token(data: &Path, uses: u32) -> &'static str {
    let grant = Grant {
        realm: testing::realm_name(),
        groups: vec![GroupName::parse("eu-prod").unwrap()],
        uses,
        expires_at: Time::of(testing::now()).plus(60),
    };
    let connection = db::connect(data).unwrap();
    tokens::create(&connection, "secret", &grant, Time::of(testing::now())).unwrap();
    "secret"
}

async fn enrol(
    server: &Running,
    token: &str,
    request: &Envelope,
) -> Result<Envelope, (u16, String)> {
    let body = serde_json::json!({"token": token, "request": request});
    let response = server.api(Method::POST, "enrol").json(&body).send().await.unwrap();
    let status = response.status().as_u16();
    if status == 200 {
        return Ok(response.json::<EnrolAnswer>().await.unwrap().certificate);
    }
    let problem: serde_json::Value = response.json().await.unwrap();
    Err((status, problem["code"].as_str().unwrap().to_owned()))
}

async fn send_report(server: &Running, body: Vec<u8>) -> (u16, serde_json::Value) {
    let response = server.api(Method::POST, "reports").body(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn hosts(server: &Running, query: &str) -> Vec<HostSummary> {
    let response = server.api(Method::GET, &format!("hosts{query}")).send().await.unwrap();
    response.json::<Page<HostSummary>>().await.unwrap().items
}

#[tokio::test]
async fn a_host_enrols_once_for_each_use_of_its_token() {
    let data = data();
    let server = Running::start(data.path()).await;
    let token = token(data.path(), 1);
    let (one, two) = (Host::new("web-1", 11), Host::new("web-2", 12));
    let wrong = enrol(&server, "guess", &one.request(&["eu-prod"])).await;
    assert_eq!(wrong, Err((403, "token".to_owned())));
    let outside = enrol(&server, token, &one.request(&["eu-prod", "us-prod"])).await;
    assert_eq!(outside, Err((403, "token_group".to_owned())));
    let mut forged = one.request(&["eu-prod"]);
    forged.signatures = two.request(&["eu-prod"]).signatures;
    assert_eq!(enrol(&server, token, &forged).await, Err((403, "bad_signature".to_owned())));

    let certificate = enrol(&server, token, &one.request(&["eu-prod"])).await.unwrap();
    let again = enrol(&server, token, &one.request(&["eu-prod"])).await.unwrap();
    assert_eq!(again, certificate);
    let used = enrol(&server, token, &two.request(&["eu-prod"])).await;
    assert_eq!(used, Err((403, "token".to_owned())));

    let seen = hosts(&server, "").await;
    assert_eq!(seen[0].state, StateWord::Stale);
    assert_eq!(seen[0].reason.as_ref().unwrap().code, "never_seen");
    server.stop().await;
}

#[tokio::test]
async fn reports_are_stored_in_their_order_and_replays_are_challenged() {
    let data = data();
    let server = Running::start(data.path()).await;
    let host = Host::new("web-1", 11);
    let token = token(data.path(), 1);
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    let report =
        |counter, nonce: Option<&str>| host.signed(&host.report(counter, nonce), &certificate);
    let first = report(5, None);
    assert_eq!(send_report(&server, first.clone()).await.0, 200);
    assert_eq!(send_report(&server, first).await.0, 200, "the same report again is no replay");
    assert_eq!(send_report(&server, report(9, None)).await.0, 200);

    let (status, problem) = send_report(&server, report(8, None)).await;
    assert_eq!((status, &problem["code"]), (401, &"challenge".into()));
    let challenge: Challenge = serde_json::from_value(problem).unwrap();
    let wrong = send_report(&server, report(1, Some("wrong"))).await;
    assert_eq!(wrong.0, 401);
    let mended = send_report(&server, report(1, Some(&challenge.nonce))).await;
    assert_eq!(mended.0, 200);
    assert_eq!(send_report(&server, report(1, Some(&challenge.nonce))).await.0, 200);
    assert_eq!(send_report(&server, report(2, None)).await.0, 200);
    assert_eq!(hosts(&server, "").await[0].state, StateWord::Converged);
    server.stop().await;
}

#[tokio::test]
async fn refuses_reports_that_prove_nothing() {
    let data = data();
    let server = Running::start(data.path()).await;
    let (host, other) = (Host::new("web-1", 11), Host::new("web-2", 12));
    let token = token(data.path(), 1);
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    let report = host.report(1, None);
    let no_certificate = {
        let mut envelope: Envelope =
            serde_json::from_slice(&host.signed(&report, &certificate)).unwrap();
        envelope.certificate = None;
        envelope.to_bytes()
    };
    let mut self_made = host.request(&["eu-prod"]);
    self_made.payload_type = shared::certificate::PAYLOAD_TYPE.to_owned();
    for (body, status, code) in [
        (no_certificate, 403, "no_certificate"),
        (other.signed(&report, &certificate), 403, "bad_signature"),
        (host.signed(&other.report(1, None), &certificate), 403, "other_host"),
        (host.signed(&report, &self_made), 422, "malformed"),
        (b"{}".to_vec(), 422, "malformed"),
    ] {
        let (found, problem) = send_report(&server, body).await;
        assert_eq!((found, &problem["code"]), (status, &code.into()));
    }
    let (status, _) = send_report_of_size(&server, shared::report::MAX_LEN + 1).await;
    assert_eq!(status, 413);
    server.stop().await;
}

async fn send_report_of_size(server: &Running, length: usize) -> (u16, String) {
    let request = server.api(Method::POST, "reports").body(vec![b' '; length]);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_lost_database_loses_no_trust() {
    let data = data();
    let server = Running::start(data.path()).await;
    let host = Host::new("web-1", 11);
    let token = token(data.path(), 1);
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    server.stop().await;
    for file in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        // Some of them may be gone already.
        let _gone = fs::remove_file(data.path().join(file));
    }
    let server = Running::start(data.path()).await;
    let (status, problem) =
        send_report(&server, host.signed(&host.report(7, None), &certificate)).await;
    assert_eq!(status, 401, "an old report could be replayed: {problem}");
    let nonce = problem["nonce"].as_str().unwrap();
    let report = host.signed(&host.report(7, Some(nonce)), &certificate);
    assert_eq!(send_report(&server, report).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_counts_if_the_policy_names_its_key() {
    let data = data();
    fs::remove_file(data.path().join("keys/enrolment.pem")).unwrap();
    let server = Running::start(data.path()).await;
    let host = Host::new("web-1", 11);
    let elsewhere = key(21);
    let certificate = shared::certificate::Certificate {
        format: 1,
        realm: testing::realm_name(),
        host: host.raw_key().host_id(),
        key: host.raw_key(),
        name: host.name.clone(),
        groups: vec![testing::group("eu-prod")],
        labels: Default::default(),
        not_after: Time::of(testing::now()).plus(60),
    };
    let bytes = certificate.to_bytes().unwrap();
    let signed = Envelope::sign(shared::certificate::PAYLOAD_TYPE, &bytes, &elsewhere);
    let body = || host.signed(&host.report(1, None), &signed);
    assert_eq!(send_report(&server, body()).await.0, 403);
    let policy = policy(1, &elsewhere).to_bytes().unwrap();
    let owners = role("owners.eu-prod", 1, &[("eu-prod/_policy", &policy)], 4);
    let (status, problem) = server.publish("owners.eu-prod", 0, &owners, &[&policy]).await;
    assert_eq!(status, StatusCode::CREATED, "{problem}");
    assert_eq!(send_report(&server, body()).await.0, 401);
    server.stop().await;
}

#[tokio::test]
async fn hosts_are_listed_with_the_worst_of_their_states() {
    let data = data();
    let server = Running::with(data.path(), |options| options.stale_after = 1000).await;
    let token = token(data.path(), 3);
    for (number, state) in
        [StateWord::Converged, StateWord::Held, StateWord::Failed].into_iter().enumerate()
    {
        let host = Host::new(&format!("web-{number}"), u8::try_from(number).unwrap() + 50);
        let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
        let mut report = host.report(1, None);
        for state in [StateWord::Converged, state] {
            report.profiles.push(ProfileReport {
                group: testing::group("eu-prod"),
                profile: shared::id::ProfileName::parse("web").unwrap(),
                state,
                since: Time::of(testing::now()),
                reason: Some(Reason { code: "code".to_owned(), text: "text".to_owned() }),
                next: Some("agent status".to_owned()),
                wanted: None,
                running: None,
                healthy_since: None,
                attempt: None,
            });
        }
        assert_eq!(send_report(&server, host.signed(&report, &certificate)).await.0, 200);
    }
    let states = |hosts: Vec<HostSummary>| hosts.iter().map(|host| host.state).collect::<Vec<_>>();
    let all = hosts(&server, "").await;
    assert_eq!(states(all), [StateWord::Converged, StateWord::Held, StateWord::Failed]);
    let bad = hosts(&server, "?state=failed,untrusted&group=eu-prod").await;
    assert_eq!(states(bad), [StateWord::Failed]);
    assert_eq!(hosts(&server, "?group=us-prod").await, []);

    let first = server.api(Method::GET, "hosts?limit=2").send().await.unwrap();
    let first: Page<HostSummary> = first.json().await.unwrap();
    let cursor = first.next_cursor.unwrap();
    let rest = hosts(&server, &format!("?limit=2&cursor={cursor}")).await;
    assert_eq!((first.items.len(), states(rest)), (2, vec![StateWord::Failed]));
    let one = server.api(Method::GET, "hosts/web-1").send().await.unwrap();
    let one: serde_json::Value = one.json().await.unwrap();
    assert_eq!((&one["state"], &one["report"]["counter"]), (&"held".into(), &1.into()));
    let none = server.api(Method::GET, "hosts/web-9").send().await.unwrap();
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn a_machine_made_anew_takes_its_name_over() {
    let data = data();
    let server = Running::start(data.path()).await;
    let token = token(data.path(), 2);
    let (old, new) = (Host::new("web-1", 11), Host::new("web-1", 12));
    enrol(&server, token, &old.request(&["eu-prod"])).await.unwrap();
    enrol(&server, token, &new.request(&["eu-prod"])).await.unwrap();
    let seen = hosts(&server, "").await;
    assert_eq!(seen.iter().map(|host| host.host).collect::<Vec<_>>(), [new.raw_key().host_id()]);
    server.stop().await;
}

#[tokio::test]
async fn the_server_says_that_it_lives_and_works() {
    let data = data();
    let server = Running::start(data.path()).await;
    for path in ["/livez", "/readyz"] {
        let response = server.get(path).timeout(Duration::from_secs(20)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    server.stop().await;
}

#[tokio::test]
async fn the_role_targets_and_root_are_published_too() {
    let data = data();
    let server = Running::start(data.path()).await;
    server.publish_web(1).await;
    let targets = testing::signed(&testing::targets(2), 2);
    let (status, receipt) = server.publish("targets", 1, &targets, &[]).await;
    assert_eq!(status, StatusCode::CREATED, "{receipt}");
    let forged = testing::signed(&testing::targets(3), 3);
    assert_eq!(server.publish("targets", 2, &forged, &[]).await.0, StatusCode::FORBIDDEN);

    let root = server.file("metadata/1.root.json").await.unwrap();
    let rules = Rules::shoal(testing::REALM);
    let mut next = shared::trust::writer::Root::read(&root, &rules).unwrap();
    next.header.version = 2;
    let sign = |root: &shared::trust::writer::Root| {
        let mut document = root.document().unwrap();
        document.sign(&key(1));
        document.to_bytes()
    };
    let mut foreign = next.clone();
    foreign.timestamp = shared::trust::writer::Keyring::single(key(9).public());
    let (status, problem) = server.publish("root", 1, &sign(&foreign), &[]).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &"online_key".into()));
    let (status, receipt) = server.publish("root", 1, &sign(&next), &[]).await;
    assert_eq!(status, StatusCode::CREATED, "{receipt}");
    assert!(server.file("metadata/2.root.json").await.is_some());
    follow(&server, "eu-prod/web").await;
    server.stop().await;
}

#[test]
fn a_closure_index_of_the_tests_is_one() {
    let index = closure(1);
    assert_eq!(ClosureIndex::parse(&index.to_bytes()), Ok(index));
}
