//! What a host does when all is well, and when something is not: it says what, why and what next,
//! keeps what it runs, and is seen from its own disk and from the registry alike.

use std::fs;

use serde_json::Value;
use tests::{
    Builder, Host, Proxy, Ran, Realm, Response, Service, eventually, run, scratch, shoal, tool,
    user_namespace,
};

/// A realm whose group `eu` takes `web`, a builder's store, a cache, and a proxy to the registry.
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
        world.group("eu");
        let key = world.realm.signer("shop").key("shop");
        let team = ["team", "add", "shop", "--key", &key, "--may", "*/web"];
        world.realm.operator().sign(&team).ok();
        world
    }

    fn group(&self, name: &str) {
        let cache = self.builder.cache_url();
        let words = ["group", "create", name, "--cache", &cache, "--profile", "web:none"];
        self.realm.operator().sign(&words).ok();
    }

    /// Makes a closure of two paths and puts it into the cache; returns its root.
    fn build(&self, version: u32) -> String {
        let base = self.builder.add("base", &[("text", "the same for ever")], &[]);
        let name = format!("web-{version}");
        let root = self.builder.add(&name, &[("text", &name)], &[&base]);
        self.builder.push(&root).ok();
        root
    }

    fn publish_with(&self, target: &str, version: u32, more: &[&str]) -> String {
        let root = self.build(version);
        let store = self.builder.root();
        let mut words = vec!["publish", "manifest", target, &root, "--activation", "none"];
        words.extend(["--root", store.to_str().unwrap()]);
        words.extend(more);
        self.realm.signer("shop").sign(&words).ok();
        root
    }

    fn publish(&self, version: u32) -> String {
        self.publish_with("eu/web", version, &[])
    }

    /// A host that runs version 1.
    fn host(&self) -> Host {
        let host = Host::enrol_at(&self.realm, &self.proxy.url(), "eu", "web-1");
        let root = self.publish(1);
        host.run(&["once"]).ok();
        assert_eq!(host.current("web"), Some(root));
        host
    }

    /// What `registry hosts` says of the host's only profile.
    fn seen(&self) -> Value {
        let hosts = self.realm.operator().run(&["hosts", "--json"]).ok();
        let hosts: Value = serde_json::from_str(&hosts).unwrap();
        hosts.pointer("/hosts/0/profile").unwrap_or_else(|| panic!("{hosts}")).clone()
    }
}

/// Checks all that a host owes to whoever looks when something is wrong.
fn tells(world: &World, host: &Host, ran: &Ran, state: &str, code: &str) -> String {
    let told = host.profile("web");
    for seen in [&told, &world.seen()] {
        assert_eq!(seen["state"], state, "{seen}");
        assert_eq!(seen["reason"]["code"], code, "{seen}");
        assert!(seen["next"].is_string() || state == "converged", "{seen}");
    }
    let text = host.run(&["status"]).ok();
    assert!(text.contains(state) && text.contains(code), "{text}");
    let said = &ran.stderr;
    if state != "converged" {
        for part in ["error[", "because ", "state: ", "next: "] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
    }
    told["reason"]["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_poll_with_nothing_new_is_one_conditional_get() {
    let world = World::new();
    let host = world.host();
    drop(world.proxy.take_requests());
    host.run(&["once", "--unchanged-exit-77"]).fails(77);
    let requests = world.proxy.take_requests();
    let files: Vec<_> = requests.iter().filter(|request| request.method == "GET").collect();
    let [poll] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(poll.path(), "/r/main/metadata/timestamp.json");
    let timestamp = fs::read(world.realm.files().join("metadata/timestamp.json")).unwrap();
    let tag = &shared::id::Digest::of(&timestamp).to_string()[..16];
    assert_eq!(poll.headers["if-none-match"], format!("\"{tag}\""));
}

#[test]
fn a_host_without_any_certificates_still_speaks_plain_http() {
    let world = World::new();
    let host = Host::enrol(&world.realm, "eu", "web-1");
    let root = world.publish(1);
    let mut bare = tool("unshare");
    bare.args(user_namespace()).args(["--mount", "sh", "-euc"]);
    bare.args(["mount -t tmpfs none /etc/ssl; exec \"$@\"", "sh"]);
    let agent = host.agent();
    run(bare.arg(agent.get_program()).args(agent.get_args()).arg("once")).ok();
    assert_eq!(host.current("web"), Some(root));
}

#[test]
fn a_daemon_hears_of_a_new_version_while_it_waits_and_stops_when_asked() {
    let world = World::new();
    let host = Host::enrol(&world.realm, "eu", "web-1");
    host.configure("[registry]\npoll = 3600\nwait = 60\n");
    let mut daemon = Service::start(host.agent().arg("run"), "the agent runs");
    let mut roots = Vec::new();
    for version in 1..=2 {
        roots.push(world.publish(version));
        let root = roots.last().cloned();
        eventually("the new version", || (host.current("web") == root).then_some(()));
    }
    eventually("the report", || {
        let seen = world.seen();
        (seen["state"] == "converged" && seen["running"]["version"] == 2).then_some(())
    });
    assert_eq!(daemon.terminate(), Some(0));
    let listed = host.run(&["generations", "web"]).ok();
    assert!(listed.contains("#1") && listed.contains("#2"), "{listed}");
}

#[test]
fn a_manifest_that_is_signed_by_the_wrong_key_changes_nothing() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    world.publish(2);
    // Another key's signature would look like this: well-formed, and not the team's.
    world.proxy.change(|request, answer| {
        if !request.path().ends_with(".shop.json") {
            return answer;
        }
        answer.map_body(|body| {
            let text = String::from_utf8(std::mem::take(body)).unwrap();
            let at = text.find("\"sig\":\"").unwrap() + 7;
            let (head, tail) = text.split_at(at);
            let digit = if tail.starts_with('0') { '1' } else { '0' };
            *body = format!("{head}{digit}{}", &tail[1..]).into_bytes();
        })
    });
    let ran = host.run(&["once"]);
    ran.clone().fails(4);
    tells(&world, &host, &ran, "untrusted", "untrusted");
    assert_eq!(host.current("web"), before);
    world.proxy.honest();
    host.run(&["once"]).ok();
    assert_ne!(host.current("web"), before);
}

#[test]
fn what_is_wrong_with_one_team_holds_back_no_other() {
    let world = World::new();
    let operator = world.realm.operator();
    operator.sign(&["group", "set", "eu", "--profile", "db:none"]).ok();
    let data = world.realm.signer("data");
    let key = data.key("data");
    operator.sign(&["team", "add", "data", "--key", &key, "--may", "eu/db"]).ok();
    let publish = |version: u32| {
        let root = world.publish(version);
        let store = world.builder.root();
        let words = ["publish", "manifest", "eu/db", &root, "--activation", "none", "--root"];
        data.sign(&[&words[..], &[store.to_str().unwrap()]].concat()).ok();
        Some(root)
    };
    let host = Host::enrol_at(&world.realm, &world.proxy.url(), "eu", "web-1");
    let one = publish(1);
    host.run(&["once"]).ok();
    let two = publish(2);
    world.proxy.change(|request, answer| {
        if request.path().ends_with(".data.json") { Response::new(200, "{}") } else { answer }
    });
    host.run(&["once"]).fails(4);
    assert_eq!((host.current("web"), host.current("db")), (two, one));
    assert_eq!(host.state("web"), "converged");
    assert_eq!(host.state("db"), "untrusted untrusted");
}

#[test]
fn a_registry_of_another_realm_is_not_believed() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    let theirs = World::new();
    theirs.publish(1);
    // Their files, under our address; reports still reach us.
    let files = theirs.realm.data();
    world.proxy.change(move |request, answer| {
        if request.method != "GET" {
            return answer;
        }
        Response::file(&files, request)
    });
    let ran = host.run(&["once"]);
    ran.clone().fails(4);
    tells(&world, &host, &ran, "untrusted", "untrusted");
    assert_eq!(host.current("web"), before);
}

#[test]
fn a_source_that_goes_back_to_a_lower_version_is_only_behind() {
    let world = World::new();
    let host = world.host();
    let old = fs::read(world.realm.files().join("metadata/timestamp.json")).unwrap();
    world.publish(2);
    host.run(&["once"]).ok();
    let before = host.current("web");
    world.proxy.change(move |request, answer| {
        if request.path().ends_with("timestamp.json") {
            return Response::new(200, old.clone());
        }
        answer
    });
    let ran = host.run(&["once"]);
    ran.clone().fails(6);
    let status = host.profile("web");
    assert_eq!(
        (&status["state"], &status["reason"]["code"]),
        (&"stale".into(), &"no_fresh_source".into())
    );
    assert!(ran.stderr.contains("behind"), "{}", ran.stderr);
    assert_eq!(host.current("web"), before);
    // A mirror that is not behind, later in the list, is enough.
    let urls = format!("[registry]\nurls = [\"{}\", \"{}\"]\n", world.proxy.url(), world.realm.url);
    host.configure(&urls);
    let root = world.publish(3);
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(root));
}

#[test]
fn an_expired_role_stops_changes_and_never_what_runs() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    world.publish(2);
    host.configure("[trust.max_age]\nteam = 0\n");
    let ran = host.run(&["once"]);
    ran.clone().fails(6);
    let text = tells(&world, &host, &ran, "stale", "no_fresh_source");
    assert!(text.contains("expired"), "{text}");
    assert_eq!(host.current("web"), before);
}

#[test]
fn a_publisher_that_was_revoked_or_overtaken_is_held() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    let operator = world.realm.operator();
    world.publish(2);
    operator.sign(&["group", "set", "eu", "--raise-epoch", "web"]).ok();
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    tells(&world, &host, &ran, "held", "epoch");
    let key = world.realm.signer("shop").key("shop");
    let words = ["team", "add", "shop", "--replace", "--key", &key, "--may", "us/web"];
    operator.sign(&words).ok();
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    tells(&world, &host, &ran, "held", "revoked");
    assert_eq!(host.current("web"), before);
}

#[test]
fn what_is_printed_is_for_people_or_for_programs_as_asked() {
    let world = World::new();
    let host = world.host();
    let colour = |ran: &Ran| (ran.stdout.clone() + &ran.stderr).contains('\u{1b}');
    assert!(!colour(&host.run(&["status"])));
    assert!(colour(&host.run(&["status", "--color", "always"])));
    let forced = run(host.agent().arg("status").env("CLICOLOR_FORCE", "1"));
    let refused =
        run(host.agent().arg("status").envs([("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert_eq!((colour(&forced), colour(&refused)), (true, false));
    let said = host.run(&["generations", "wbe", "--json"]).fails(2);
    let problem: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&problem["schema"], &problem["code"]),
        (&"problem.v1".into(), &"no_profile".into())
    );
    assert!(problem["rendered"].as_str().unwrap().starts_with("error[no_profile]"));
    let shown = host.run(&["config", "show"]).ok();
    assert!(shown.contains("registry.poll = 60") && shown.contains("# default"), "{shown}");
    host.configure("[registry]\npol = 1\n");
    let said = host.run(&["status"]).fails(2);
    assert!(said.contains("unknown key `registry.pol`; did you mean `registry.poll`?"), "{said}");
    assert!(said.contains("fix: correct the key, or take it out"), "{said}");
    let said = host.run(&["stauts", "--json"]).fails(2);
    let problem: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(problem["fix"], "a similar subcommand exists: 'status'");
}

#[test]
fn a_tampered_closure_index_is_refused() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    world.publish(2);
    world.proxy.change(|request, answer| {
        if !request.path().contains("/closures/") {
            return answer;
        }
        answer.map_body(|body| *body = String::from_utf8_lossy(body).replace(" 2 ", " 3 ").into())
    });
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    let text = tells(&world, &host, &ran, "fetching", "closure_index");
    assert!(text.contains("is refused"), "{text}");
    assert_eq!(host.current("web"), before);
}

#[test]
fn a_path_that_no_cache_has_is_named() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    let root = world.publish(2);
    fs::remove_dir_all(world.builder.cache().join("nar")).unwrap();
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    let text = tells(&world, &host, &ran, "fetching", "fetch_failed");
    assert!(text.contains(&root), "{text}");
    assert_eq!(host.current("web"), before);
}

#[test]
fn a_cache_that_is_gone_is_named() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    world.publish(2);
    fs::remove_dir_all(world.builder.cache()).unwrap();
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    let text = tells(&world, &host, &ran, "fetching", "fetch_failed");
    assert!(text.contains(world.builder.cache().to_str().unwrap()), "{text}");
    assert_eq!(host.current("web"), before);
}

#[test]
fn with_the_registry_gone_the_host_goes_on_and_explains_itself() {
    let mut world = World::new();
    let host = world.host();
    let before = host.current("web");
    world.realm.stop();
    let ran = host.run(&["once"]);
    let said = ran.fails(6);
    assert!(said.contains("next: "), "{said}");
    let status = host.profile("web");
    assert_eq!(status["state"], "stale", "{status}");
    assert_eq!(status["reason"]["code"], "no_fresh_source");
    assert_eq!(status["running"]["version"], 1);
    assert_eq!(host.current("web"), before);
    world.realm.start();
    world.proxy.point_to(&world.realm.url);
    let root = world.publish(2);
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(root));
    assert_eq!(world.seen()["state"], "converged");
}

#[test]
fn a_manifest_without_an_entry_for_this_system_is_not_for_this_host() {
    let world = World::new();
    let host = Host::enrol_at(&world.realm, &world.proxy.url(), "eu", "web-1");
    let other = if cfg!(target_arch = "x86_64") { "aarch64-linux" } else { "x86_64-linux" };
    world.publish_with("eu/web", 1, &["--system", other]);
    let ran = host.run(&["once"]);
    ran.clone().ok();
    let text = tells(&world, &host, &ran, "converged", "not_for_this_host");
    assert!(text.contains("no entry matches"), "{text}");
    assert_eq!(host.current("web"), None);
    // An entry for this one too, and the host takes it.
    let root = world.publish(2);
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(root));
}

#[test]
fn a_profile_that_two_groups_offer_changes_under_neither() {
    let world = World::new();
    let host = world.host();
    let before = host.current("web");
    world.group("us");
    world.publish_with("us/web", 2, &[]);
    host.configure("groups = [\"eu\", \"us\"]\n");
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    let text = tells(&world, &host, &ran, "waiting", "profile_claimed_twice");
    assert!(text.contains("`eu` and `us`"), "{text}");
    assert_eq!(host.current("web"), before);
}

#[test]
fn a_host_that_goes_back_is_pinned_until_somebody_lets_it_go() {
    let world = World::new();
    let host = world.host();
    let one = host.current("web");
    let two = Some(world.publish(2));
    host.run(&["plan"]).fails(1);
    host.run(&["once"]).ok();
    host.run(&["plan"]).ok();
    host.run(&["rollback", "web", "--reason", "kernel panic"]).ok();
    assert_eq!(host.current("web"), one);
    let ran = host.run(&["once"]);
    ran.clone().fails(1);
    let text = tells(&world, &host, &ran, "pinned", "pinned");
    assert!(text.contains("kernel panic"), "{text}");
    assert_eq!(host.current("web"), one);
    host.run(&["unpin", "web"]).ok();
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), two);
    let said = host.run(&["unpin", "wbe"]).fails(2);
    assert!(said.contains("did you mean `web`?"), "{said}");
}

#[test]
fn nobody_is_trusted_on_first_use_without_a_word() {
    let world = World::new();
    let folder = scratch();
    let enroll = |more: &[&str]| {
        let mut command = shoal("agent");
        command.arg("--config").arg(folder.path().join("agent.toml"));
        command.args(["enroll", &world.realm.url, "--group", "eu", "--token", "x"]);
        run(command.args(["--state-dir"]).arg(folder.path().join("state")).args(more))
    };
    let said = enroll(&[]).fails(2);
    assert!(said.contains(&world.realm.fingerprint) && said.contains("compare it"), "{said}");
    let wrong = "0".repeat(64);
    let said = enroll(&["--trust", &wrong]).fails(4);
    assert!(said.contains("the token was not sent"), "{said}");
    let said = enroll(&["--trust", &world.realm.fingerprint, "--name", "web-1"]).fails(4);
    assert!(said.contains("refuses to enrol"), "{said}");
    assert!(!folder.path().join("agent.toml").exists());
}

#[test]
fn a_host_that_dies_between_any_two_writes_of_trust_goes_on_where_it_was() {
    let world = World::new();
    let host = world.host();
    let mut before = host.current("web");
    // A new version writes the top and one target; the policy stays what it is. What was written
    // before a crash is not written again.
    let crashes = [(2, ["trust.write:1", "trust.write:2"]), (3, ["trust.written:1"; 2])];
    for (version, points) in crashes {
        let root = world.publish(version);
        for point in points {
            let mut once = host.agent();
            once.arg("once").env("SHOAL_CRASH_AT", point);
            assert_eq!(run(&mut once).code, None, "{point}");
            assert_eq!(host.current("web"), before, "{point}");
            let status = host.profile("web");
            assert_ne!(status["state"], "untrusted", "{status}");
        }
        host.run(&["once"]).ok();
        before = host.current("web");
        assert_eq!(before, Some(root));
    }
}
