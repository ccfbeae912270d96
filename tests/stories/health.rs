//! Health checks decide what becomes of a switch, and tell how it is ever after: the real programs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use rustix::process::geteuid;
use serde_json::Value;
use tests::{Builder, Host, Ran, Realm, Response, Server, Service, Signer, eventually};

/// A realm whose group takes `web` without an activation, a team, and a host.
struct Story {
    builder: Builder,
    realm: Realm,
    host: Host,
}

impl Story {
    fn new(profile: &str) -> Self {
        let builder = Builder::new();
        let realm = Realm::new();
        let cache = builder.cache_url();
        let create = ["group", "create", "eu", "--cache", &cache, "--profile", profile];
        realm.operator().sign(&create).ok();
        let key = realm.signer("web").key("web");
        realm.operator().sign(&["team", "add", "web", "--key", &key, "--may", "eu/web"]).ok();
        let host = Host::enrol(&realm, "eu", "host-1");
        Self { builder, realm, host }
    }

    /// Where whoever runs the stories may run commands: as root only if the owners say so.
    fn with_commands() -> Self {
        let root = geteuid().is_root();
        Self::new(if root { "web:none:privileged" } else { "web:none" })
    }

    fn team(&self) -> Signer<'_> {
        self.realm.signer("web")
    }

    /// Publishes a root with this `bin/check`; returns its store path.
    fn publish(&self, check: &str, options: &[&str]) -> String {
        let path = self.build(check);
        self.publish_path(&path, options).ok();
        path
    }

    fn build(&self, check: &str) -> String {
        let path = self.builder.add("web", &[("bin/check", &format!("#!/bin/sh\n{check}"))], &[]);
        self.builder.push(&path).ok();
        path
    }

    fn publish_path(&self, path: &str, options: &[&str]) -> Ran {
        let root = self.builder.root();
        let publish = ["publish", "manifest", "eu/web", path, "--root", root.to_str().unwrap()];
        self.team().sign(&[&publish[..], options].concat())
    }
}

#[test]
fn a_version_that_fails_its_own_check_is_undone_and_the_next_one_is_taken() {
    let story = Story::with_commands();
    let check = ["--check", "self=exec:bin/check now", "--deadline", "1"];
    let good = story.publish("test \"$1\" = now", &check);
    let host = &story.host;
    host.run(&["once"]).ok();
    assert_eq!(host.state("web"), "converged");
    // The checks stay until somebody publishes others.
    story.publish("echo no disk; echo db_password=hunter2 >&2; exit 3", &[]);
    let told = host.run(&["once"]).fails(8);
    assert!(told.contains("self did not pass within 1 s: ended with 3"), "{told}");
    assert_eq!(host.state("web"), "rolled_back health_failed");
    assert_eq!(host.current("web"), Some(good));
    assert_eq!(host.profile("web")["next"], "agent retry web");
    let journal = fs::read_to_string(host.state_dir().join("journal/web.json")).unwrap();
    assert!(journal.contains("no disk") && !journal.contains("hunter2"), "{journal}");
    host.run(&["once"]).fails(8);
    let history = host.run(&["history", "web"]).ok();
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 2, "{history}");
    assert!(lines[0].contains("#1 → #2") && lines[0].contains("rolled back"), "{history}");
    assert!(lines[1].contains("nothing → #1") && lines[1].contains("confirmed"), "{history}");
    let told = host.run(&["logs"]).ok();
    assert!(told.contains("no disk") && !told.contains("hunter2"), "{told}");
    host.run(&["logs", "nonsense"]).fails(2);

    let fixed = story.publish("true", &[]);
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(fixed));
    host.nix().verify();
}

#[test]
fn what_is_ill_after_going_back_too_has_failed_until_something_newer_comes() {
    let story = Story::with_commands();
    let ill = story.host.root().join("ill");
    let check = format!("! test -e {}", ill.display());
    let good = story.publish(&check, &["--check", "self=exec:bin/check", "--deadline", "1"]);
    let host = &story.host;
    host.run(&["once"]).ok();
    fs::write(&ill, "").unwrap();
    story.publish(&format!("{check}; # 2"), &[]);
    let told = host.run(&["once"]).fails(9);
    assert!(told.contains("and going back failed"), "{told}");
    assert_eq!(host.state("web"), "failed rollback_failed");
    assert_eq!(host.current("web"), Some(good), "at least it is what ran before");
    fs::remove_file(&ill).unwrap();
    host.run(&["once"]).fails(9);
    story.publish(&format!("{check}; # 3"), &[]);
    host.run(&["once"]).ok();
    assert_eq!(host.state("web"), "converged");
}

/// A service that answers with a status that can be changed.
fn service() -> (Server, Arc<AtomicU16>) {
    let server = Server::new(std::path::Path::new("/nonexistent"));
    let status = Arc::new(AtomicU16::new(200));
    let answer = Arc::clone(&status);
    server.hook(move |_| Some(Response::new(answer.load(Ordering::SeqCst), "the shop is open")));
    (server, status)
}

#[test]
fn a_service_that_falls_ill_long_after_its_switch_is_told_and_kept() {
    let story = Story::new("web:none");
    let (server, status) = service();
    let health = story.realm.folder().join("health.json");
    let text = format!(
        r#"{{"deadline":60,"soak":1,"checks":[{{"name":"front","kind":"http","url":"{}/","status":200,
        "contains":"is open","interval":1,"timeout":60,"retries":2}}]}}"#,
        server.url()
    );
    fs::write(&health, text).unwrap();
    let path = story.publish("true", &["--health", health.to_str().unwrap()]);
    let host = &story.host;
    host.configure("[registry]\npoll = 1\nwait = 5\n");
    let mut daemon = Service::start(host.agent().arg("run"), "converged");
    let becomes = |state: &str| {
        eventually(state, || (host.state("web") == state).then_some(()));
    };
    becomes("converged");
    host.run(&["health"]).ok();
    status.store(502, Ordering::SeqCst);
    becomes("failed unhealthy");
    let ill = host.profile("web");
    assert_eq!(ill["reason"]["text"], "front: answered 502 twice");
    assert_eq!((&ill["next"], &ill["healthy_since"]), (&"agent health web".into(), &Value::Null));
    assert_eq!(host.current("web"), Some(path), "it is kept");
    host.run(&["health", "web"]).fails(1);
    let told: Value = serde_json::from_str(&host.run(&["health", "--json"]).stdout).unwrap();
    assert_eq!(told["schema"], "health.v1");
    assert_eq!(told["profiles"][0]["checks"][0]["problem"], "answered 502");
    eventually("the registry knows", || {
        let hosts = story.realm.operator().run(&["hosts", "eu"]).ok();
        hosts.contains("failed").then_some(())
    });
    status.store(200, Ordering::SeqCst);
    becomes("converged");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_daemon_that_ends_while_a_switch_soaks_goes_on_with_it_and_a_person_may_confirm_it() {
    let story = Story::new("web:none");
    let (server, _status) = service();
    let check = format!("front={}/", server.url());
    story.publish("true", &["--check", &check, "--soak", "3600"]);
    let host = &story.host;
    host.configure("[registry]\npoll = 1\nwait = 5\n");
    let soaks = || {
        let soaks = || host.profile("web")["reason"]["text"].to_string().contains("and soaks");
        eventually("it soaks", || {
            let known = host.state_dir().join("journal/web.json").exists();
            (known && host.state("web") == "confirming in_progress" && soaks()).then_some(())
        });
    };
    let mut daemon = Service::start(host.agent().arg("run"), "confirming");
    soaks();
    assert_eq!(daemon.terminate(), Some(0), "it does not wait for the end of the soak");
    let mut daemon = Service::start(host.agent().arg("run"), "the agent runs");
    soaks();
    // Others may change what they like meanwhile: nobody holds the host's lock.
    host.run(&["pin", "web"]).ok();
    host.run(&["unpin", "web"]).ok();
    host.run(&["confirm", "web"]).ok();
    assert_eq!(host.state("web"), "converged");
    host.run(&["confirm", "web"]).fails(5);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn losing_the_registry_counts_only_where_somebody_asks_for_it() {
    let mut story = Story::new("web:none");
    let first = story.publish("1", &[]);
    story.host.run(&["once"]).ok();
    let check = ["--check", "up=registry", "--deadline", "1"];
    story.publish("2", &check);
    // The switch as such works with the registry down; what it needs was fetched before.
    story.host.run(&["pin", "web"]).ok();
    story.host.run(&["once"]).fails(1);
    story.realm.stop();
    story.host.run(&["unpin", "web"]).ok();
    let told = story.host.run(&["once"]).fails(8);
    assert!(told.contains("up did not pass within 1 s"), "{told}");
    assert_eq!(story.host.state("web"), "rolled_back health_failed");
    assert_eq!(story.host.current("web"), Some(first));
    story.realm.start();
}

#[test]
fn checks_that_no_host_would_take_are_not_published() {
    let story = Story::new("web:none");
    let path = story.build("true");
    let refused = |options: &[&str], expected: &str| {
        let told = story.publish_path(&path, options).fails(2);
        assert!(told.contains(expected), "{told}");
    };
    refused(&["--check", "web=http://me:secret@shop/"], "holds a password");
    refused(&["--check", "web=gopher"], "tcp:HOST:PORT");
    refused(&["--check", "a=registry", "--check", "a=registry"], "two checks of one name");
    refused(&["--check", "a=registry", "--deadline", "90000"], "more than a day");
    story.publish_path(&path, &["--check", "it=unit:web.service"]).ok();
    story.host.run(&["once"]).fails(1);
    assert_eq!(story.host.state("web"), "waiting not_allowed");
}

#[test]
fn a_check_runs_as_the_profiles_own_user_or_not_at_all() {
    let story = Story::new("web:none:user=nobody");
    let host = &story.host;
    let notes = host.root().join("notes");
    fs::create_dir_all(&notes).unwrap();
    for folder in [host.root().parent().unwrap(), &host.root()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&notes, fs::Permissions::from_mode(0o777)).unwrap();
    let check = "id -u > \"$SHOAL_ROOT/notes/who\"; id -G >> \"$SHOAL_ROOT/notes/who\"";
    story.publish(check, &["--check", "self=exec:bin/check"]);
    host.run(&["once"]);
    let who = fs::read_to_string(notes.join("who")).ok();
    if geteuid().is_root() {
        assert_eq!(host.state("web"), "converged");
        let who = who.unwrap();
        let words: Vec<&str> = who.split_whitespace().collect();
        assert!(words.len() == 2 && !words.contains(&"0"), "neither root nor in its groups: {who}");
    } else {
        assert_eq!((host.state("web").as_str(), who), ("waiting user_refused", None));
    }
    let nobody = Story::new("web:none");
    nobody.publish("true", &["--check", "self=exec:bin/check"]);
    nobody.host.run(&["once"]);
    let expected = if geteuid().is_root() { "waiting user_refused" } else { "converged" };
    assert_eq!(nobody.host.state("web"), expected);
}
