use std::fs;

use jiff::SignedDuration;
use reqwest::{Method, StatusCode};
use shared::{
    api::{Challenge, EnrolAnswer, HostSummary, Page, Part, Publication},
    hints::Hints,
    id::Digest,
    report::{ProfileReport, Reason},
    state_word::StateWord,
    trust::{Clock, Refresh, Rules, Stored, StoredTarget, dsse::Envelope},
};

use super::*;
use crate::{
    db::{
        Sqlite,
        tokens::{self, Grant},
    },
    testing::{self, Host, Running, closure, data, key, manifest, policy, role, target_file},
};

mod access;
mod answers;
mod events;
mod files;
mod hosts;
mod limits;
mod resources;
mod watching;

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
async fn a_publication_that_cannot_be_written_changes_nothing() {
    let data = data();
    let server = Running::start(data.path()).await;
    // Stands in for a disk that is full: nothing can be written below this name.
    let closures = data.path().join("r/main/closures");
    fs::write(&closures, b"").unwrap();
    let before = server.file("metadata/timestamp.json").await;
    let (status, problem) = server.publish_web(1).await;
    assert_eq!((status.as_u16(), &problem["code"]), (500, &"internal".into()));
    assert!(!problem.to_string().contains("closures"), "{problem}");
    assert_eq!(server.file("metadata/timestamp.json").await, before);
    fs::remove_file(closures).unwrap();
    assert_eq!(server.publish_web(1).await.0, StatusCode::CREATED);
    follow(&server, "eu-prod/web").await;
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
        retention: Retention::default(),
        access: Access::default(),
        limits: Limits::of_process(),
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
        retention: Retention::default(),
        access: Access::default(),
        limits: Limits::of_process(),
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
