//! What hosts say reaches the registry, whatever becomes of either on the way.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;
use tests::{Builder, Host, Proxy, Realm, Response, Service, eventually};

/// A realm whose group `eu` takes `web`, and a proxy on the hosts' way to the registry.
struct World {
    realm: Realm,
    proxy: Proxy,
    builder: Builder,
}

impl World {
    fn new() -> Self {
        let realm = Realm::new();
        let proxy = Proxy::new(&realm.url);
        let world = Self { realm, proxy, builder: Builder::new() };
        let cache = world.builder.cache_url();
        let words = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
        world.realm.operator().sign(&words).ok();
        let key = world.realm.signer("shop").key("shop");
        world
            .realm
            .operator()
            .sign(&["team", "add", "shop", "--key", &key, "--may", "eu/web"])
            .ok();
        world
    }

    fn publish(&self, version: u32) -> String {
        let root = self.builder.add("web", &[("text", &format!("web {version}"))], &[]);
        self.builder.push(&root).ok();
        let store = self.builder.root();
        let words = ["publish", "manifest", "eu/web", &root, "--activation", "none", "--root"];
        self.realm.signer("shop").sign(&[&words[..], &[store.to_str().unwrap()]].concat()).ok();
        root
    }

    fn host(&self, name: &str) -> Host {
        let host = Host::enrol_at(&self.realm, &self.proxy.url(), "eu", name);
        host.configure("[registry]\npoll = 1\nheartbeat = 1\n");
        host
    }

    /// Runs a command of the operator's beside the server.
    fn operator(&self, words: &[&str]) -> String {
        let data = self.realm.data();
        let words = [words, &["--data", data.to_str().unwrap()]].concat();
        self.realm.operator().run(&words).ok()
    }

    fn shown(&self, host: &str) -> Value {
        serde_json::from_str(&self.operator(&["host", "show", host, "--json"])).unwrap()
    }

    /// The versions of which the registry knows an attempt, oldest first.
    fn attempts(&self, host: &str) -> Vec<u64> {
        let shown = self.shown(host);
        let attempts = shown["attempts"].as_array().unwrap();
        let version = |it: &Value| it["profile"]["wanted"]["version"].as_u64().unwrap();
        let mut versions: Vec<u64> = attempts.iter().map(version).collect();
        versions.reverse();
        versions
    }
}

fn version(shown: &Value) -> Option<u64> {
    shown["report"]["profiles"][0]["running"]["version"].as_u64()
}

#[test]
fn a_registry_that_takes_no_reports_for_long_gets_every_attempt_and_the_newest_state() {
    let world = World::new();
    let host = world.host("web-1");
    world.publish(1);
    host.run(&["once"]).ok();
    let away = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&away);
    // Its files are on a mirror still: only reports get no good answer.
    world.proxy.change(move |request, answer| {
        if request.method == "POST" && seen.load(Ordering::Relaxed) {
            return Response::new(503, "gone fishing").header("Retry-After", "1");
        }
        answer
    });
    for number in 2..=5 {
        let root = world.publish(number);
        // Each version under an agent of its own: what waits survives the end of a process.
        let mut daemon = Service::start(host.agent().arg("run"), "the agent runs");
        eventually("the new version", || {
            (host.current("web").as_ref() == Some(&root)).then_some(())
        });
        // Killed as by a power cut, once it has noted the end of the attempt.
        eventually("the outbox", || {
            let outbox = fs::read_dir(host.state_dir().join("outbox")).unwrap().flatten();
            let ends = outbox.filter(|it| it.path().extension().is_some_and(|it| it == "end"));
            (ends.count() as u64 >= u64::from(number) - 1).then_some(())
        });
        daemon.says("reports are not taken");
        drop(daemon);
    }
    // The oldest came through each time, only its answer did not: it is stored once.
    assert_eq!(world.attempts("web-1"), [1, 2]);
    away.store(false, Ordering::Relaxed);
    let mut daemon = Service::start(host.agent().arg("run"), "the agent runs");
    eventually("every attempt", || (world.attempts("web-1") == [1, 2, 3, 4, 5]).then_some(()));
    eventually("the newest state", || (version(&world.shown("web-1")) == Some(5)).then_some(()));
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_restored_host_and_a_lost_database_are_challenged_and_heard_again() {
    let mut world = World::new();
    let host = world.host("web-1");
    let root = world.publish(1);
    host.run(&["once"]).ok();
    let snapshot = tempfile::tempdir().unwrap();
    let counter = host.state_dir().join("reports.json");
    fs::copy(&counter, snapshot.path().join("reports.json")).unwrap();
    for _ in 0..3 {
        host.run(&["once"]).ok();
    }
    let before = world.shown("web-1")["report"]["counter"].as_u64().unwrap();
    // A snapshot of the machine from before is restored.
    fs::copy(snapshot.path().join("reports.json"), &counter).unwrap();
    host.run(&["once", "-v"]).ok();
    let after = world.shown("web-1")["report"]["counter"].as_u64().unwrap();
    assert_eq!(after, before + 1, "it goes on above what the registry has seen");

    world.realm.stop();
    for file in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        // Some of them may be gone already.
        drop(fs::remove_file(world.realm.data().join(file)));
    }
    world.realm.start();
    let lost = world.realm.operator().run(&["hosts", "--json"]).ok();
    assert!(lost.contains("\"hosts\":[]"), "{lost}");
    host.configure(&format!("[registry]\nurls = [\"{}\"]\n", world.realm.url));
    host.run(&["once"]).ok();
    let shown = world.shown("web-1");
    assert_eq!((&shown["state"], version(&shown)), (&"converged".into(), Some(1)), "{shown}");
    assert_eq!(host.current("web"), Some(root));
    let history = world.realm.operator().run(&["history", "eu/web"]).ok();
    assert!(history.contains("shop"), "{history}");
}

#[test]
fn a_revoked_host_is_heard_no_more_keeps_what_it_runs_and_its_name_is_free() {
    let world = World::new();
    let host = world.host("web-1");
    let root = world.publish(1);
    host.run(&["once"]).ok();
    world.operator(&["host", "revoke", "web-1", "--reason", "stolen"]);
    let ran = host.run(&["once", "-v"]);
    assert!(ran.stderr.contains("revoked"), "{ran}");
    ran.ok();
    assert_eq!(host.current("web"), Some(root));
    let listed = world.realm.operator().run(&["hosts", "eu"]).ok();
    assert!(!listed.contains("web-1"), "{listed}");
    let again = world.host("web-1");
    again.run(&["once"]).ok();
    let listed = world.operator(&["host", "list"]);
    let lines: Vec<&str> = listed.lines().filter(|line| line.starts_with("web-1")).collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(listed.contains("revoked: stolen") && listed.contains("good"), "{listed}");
    let verified = world.operator(&["audit", "verify"]);
    let good = verified.lines().filter(|line| line.ends_with("good"));
    assert_eq!(good.count() + 1, verified.lines().count(), "{verified}");
    let log = world.operator(&["audit", "log"]);
    for what in ["token_made", "published", "enrolled", "revoked", "stolen"] {
        assert!(log.contains(what), "{what}: {log}");
    }
}
