//! Old generations of a host that follows a realm, and what waits there: by hand and by the daemon.

use serde_json::Value;
use tests::{Builder, Host, Realm, Service, Signer, eventually, run};

/// A host that takes the profile `web`, and whoever publishes it.
pub(super) struct Site {
    pub(super) builder: Builder,
    pub(super) realm: Realm,
    pub(super) host: Host,
}

impl Site {
    pub(super) fn new() -> Self {
        let (builder, realm) = (Builder::new(), Realm::new());
        let cache = builder.cache_url();
        let group = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
        realm.operator().sign(&group).ok();
        let key = realm.signer("web").key("web");
        let add = ["team", "add", "web", "--key", &key, "--may", "eu/web"];
        realm.operator().sign(&add).ok();
        let host = Host::enrol(&realm, "eu", "host-1");
        Self { builder, realm, host }
    }

    fn team(&self) -> Signer<'_> {
        self.realm.signer("web")
    }

    /// Publishes a version, which has a path and one below it of its own; returns its path.
    pub(super) fn publish(&self, version: u32) -> String {
        let version = version.to_string();
        let below = self.builder.add("below", &[("version", &version)], &[]);
        let path = self.builder.add("web", &[("version", &version)], &[&below]);
        self.builder.push(&path).ok();
        let root = self.builder.root();
        let publish = ["publish", "manifest", "eu/web", &path, "--activation", "none", "--root"];
        self.team().sign(&[&publish[..], &[root.to_str().unwrap()]].concat()).ok();
        path
    }

    /// Publishes a version and lets the host take it.
    pub(super) fn deploy(&self, version: u32) -> String {
        let path = self.publish(version);
        self.host.run(&["once"]).ok();
        path
    }

    /// Returns the numbers of the generations.
    pub(super) fn generations(&self) -> Vec<u64> {
        let listed = self.host.run(&["generations", "web", "--json"]).ok();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let numbers = listed["generations"].as_array().unwrap().iter();
        numbers.map(|row| row["generation"].as_u64().unwrap()).collect()
    }

    /// Returns what both collectors leave alone that is named `web`.
    pub(super) fn roots_left(&self) -> Vec<String> {
        let paths = self.host.nix().valid_paths();
        paths.into_iter().filter(|path| path.ends_with("-web")).collect()
    }
}

/// Returns the verdict and its code for each generation, as a dry run tells.
fn verdicts(site: &Site, arguments: &[&str]) -> Vec<(String, String)> {
    let listed = site.host.run(&[&["gc", "--dry-run", "--json"], arguments].concat()).ok();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = listed["generations"].as_array().unwrap().iter();
    rows.map(|row| (word(&row["verdict"]), word(&row["reason"]["code"]))).collect()
}

#[test]
fn old_generations_go_and_what_the_host_needs_stays() {
    let site = Site::new();
    let host = &site.host;
    let versions: Vec<_> = (1..=4).map(|version| site.deploy(version)).collect();

    // Nothing is old enough; then only looked at; then two go, and what they kept.
    host.run(&["gc", "--older-than", "1d"]).ok();
    assert_eq!(site.generations(), [1, 2, 3, 4]);
    let listed = host.run(&["gc", "--keep", "2", "--dry-run"]);
    assert!(listed.stderr.contains("2 generations, 4 store paths would be deleted"), "{listed}");
    let listed = listed.ok();
    assert!(listed.contains("web generation 1: delete, replaced "), "{listed}");
    assert!(listed.contains("web generation 3: keep, one of the newest 2\n"), "{listed}");
    assert!(listed.contains("web generation 4: keep, current\n"), "{listed}");
    assert!(listed.contains(&format!("\n{}\n", versions[1])), "{listed}");
    let told: Vec<_> = verdicts(&site, &[]).into_iter().map(|(_, code)| code).collect();
    assert_eq!(told, ["no_rule", "no_rule", "no_rule", "current"]);
    assert_eq!((site.generations().len(), host.nix().valid_paths().len()), (4, 8));
    let done: Value =
        serde_json::from_str(&host.run(&["gc", "--keep", "2", "--json"]).ok()).unwrap();
    let second = &done["generations"][1];
    assert_eq!((&second["verdict"], &second["path"]), (&"delete".into(), &(*versions[1]).into()));
    assert_eq!(site.generations(), [3, 4]);

    // A pin outranks everything, and what runs is never deleted.
    host.run(&["rollback", "web"]);
    host.configure("[gc]\nkeep = 0\nolder_than = 0\n");
    host.run(&["gc"]).ok();
    assert_eq!(site.generations(), [3, 4]);
    let pinned = verdicts(&site, &[]);
    let pair = |verdict: &str, code: &str| (verdict.to_owned(), code.to_owned());
    assert_eq!(pinned, [pair("keep", "current"), pair("keep", "pinned")]);
    host.run(&["unpin", "web"]);
    host.run(&["once"]).ok();
    host.run(&["gc", "--keep", "2"]).ok();
    assert_eq!(site.generations(), [3, 4], "what is typed outranks what is configured");
    host.run(&["gc"]).ok();
    assert_eq!(site.generations(), [4]);
    assert_eq!(host.current("web"), Some(versions[3].clone()));
    assert_eq!(site.roots_left(), [versions[3].clone()]);
    assert_eq!(host.state("web"), "converged");
    host.run(&["once"]).ok();
    host.nix().verify();
    let other = host.run(&["gc", "--keep", "1", "--root", "/nonexistent"]).fails(2);
    assert!(other.contains("other_root"), "{other}");
}

#[test]
fn what_waits_for_a_gate_is_kept_by_both_collectors() {
    let site = Site::new();
    let host = &site.host;
    let first = site.deploy(1);
    let root = host.root();
    let collect = || {
        host.run(&["gc", "--keep", "0"]).ok();
        host.run(&["gc", "--root", root.to_str().unwrap()]).ok();
        host.nix().collect_garbage();
    };
    // Pinned: fetched, and staged until the pin is lifted.
    host.run(&["pin", "web", "--reason", "a fair"]).ok();
    let second = site.publish(2);
    host.run(&["once"]);
    assert_eq!(host.state("web"), "pinned pinned");
    collect();
    let mut both = [first, second.clone()];
    both.sort();
    assert_eq!(site.roots_left(), both);

    // Held by the owners meanwhile: it is not staged any more, and still wanted.
    site.realm.operator().sign(&["group", "set", "eu", "--hold", "web"]).ok();
    host.run(&["once"]);
    host.run(&["unpin", "web"]);
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("web"), "held policy_hold");
    collect();
    assert_eq!(site.roots_left(), both);
    // Nothing has to be fetched when the gate opens.
    std::fs::rename(site.builder.cache(), site.builder.cache().with_extension("gone")).unwrap();
    site.realm.operator().sign(&["group", "set", "eu", "--take", "web"]).ok();
    host.run(&["once"]).ok();
    assert_eq!(
        (host.state("web"), host.current("web")),
        ("converged".into(), Some(second.clone()))
    );
    collect();
    assert_eq!(site.roots_left(), [second]);
    assert_eq!(site.generations(), [2]);
    host.nix().verify();
}

#[test]
fn kill_9_between_two_generations_leaves_both_collectors_right() {
    let site = Site::new();
    let versions: Vec<_> = (1..=4).map(|version| site.deploy(version)).collect();
    let mut killed = site.host.agent();
    killed.args(["gc", "--keep", "1"]).env("SHOAL_CRASH_AT", "gc.generation:2");
    assert_eq!(run(&mut killed).code, None);
    assert_eq!(site.generations(), [3, 4]);
    assert_eq!(site.roots_left().len(), 4);
    site.host.run(&["once"]).ok();
    site.host.run(&["gc", "--keep", "1"]).ok();
    assert_eq!((site.generations(), site.roots_left()), (vec![4], vec![versions[3].clone()]));
    site.host.nix().verify();
}

#[test]
fn a_daemon_collects_by_itself_after_a_switch_if_it_is_told_to() {
    let site = Site::new();
    let host = &site.host;
    host.configure("[registry]\npoll = 1\n[gc]\nevery = 1\nkeep = 1\n");
    let mut daemon = Service::start(host.agent().arg("run"), "the agent runs");
    for version in 1..=3 {
        let path = site.publish(version);
        eventually("the version runs", || (host.current("web")? == path).then_some(()));
        eventually("only its generation is left", || {
            (site.generations() == [u64::from(version)] && site.roots_left() == [path.clone()])
                .then_some(())
        });
    }
    daemon.says("generation, 2 store paths deleted, ");
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!(host.state("web"), "converged");
    host.nix().verify();
}

#[test]
fn a_fetch_that_would_leave_too_little_collects_first_and_goes_on() {
    let site = Site::new();
    let host = &site.host;
    site.deploy(1);
    let garbage = host.root().join("garbage");
    std::fs::write(&garbage, vec![b'x'; 1 << 20]).unwrap();
    let mut add = tests::shoal("agent");
    add.args(["store", "add", "--root"]).arg(host.root()).arg(&garbage);
    let garbage = run(&mut add).ok().trim().to_owned();

    // No disk leaves so much; whoever says 0 keeps all.
    host.configure("[gc]\nmin_free = 0\n");
    site.deploy(2);
    assert!(host.nix().valid_paths().contains(&garbage));
    host.configure("[gc]\nmin_free = 1000000000000000000\n");
    let third = site.deploy(3);
    assert!(!host.nix().valid_paths().contains(&garbage));
    assert_eq!((host.current("web"), host.state("web")), (Some(third), "converged".into()));
    assert_eq!(site.generations(), [1, 2, 3], "nothing says that generations may go");
    host.configure("[gc]\nkeep = 2\n");
    site.deploy(4);
    assert_eq!(site.generations(), [2, 3, 4], "those that may go went before the switch");
    host.nix().verify();
}
