//! `agent gc --keep`: old generations of a host that follows a realm.

use serde_json::Value;
use tests::{Builder, Host, Realm};

#[test]
fn old_generations_go_and_what_the_host_needs_stays() {
    let builder = Builder::new();
    let realm = Realm::new();
    let cache = builder.cache_url();
    let group = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
    realm.operator().sign(&group).ok();
    let web = realm.signer("web");
    let add = ["team", "add", "web", "--key", &web.key("web"), "--may", "eu/web"];
    realm.operator().sign(&add).ok();
    let host = Host::enrol(&realm, "eu", "host-1");
    let root = builder.root();
    let mut versions = Vec::new();
    for version in 1..=4 {
        let path = builder.add("web", &[("version", &version.to_string())], &[]);
        builder.push(&path).ok();
        let publish = ["publish", "manifest", "eu/web", &path, "--activation", "none", "--root"];
        web.sign(&[&publish[..], &[root.to_str().unwrap()]].concat()).ok();
        host.run(&["once"]).ok();
        versions.push(path);
    }
    let generations = || {
        let listed: Value =
            serde_json::from_str(&host.run(&["generations", "web", "--json"]).ok()).unwrap();
        let numbers = listed["generations"].as_array().unwrap().iter();
        numbers.map(|row| row["generation"].as_u64().unwrap()).collect::<Vec<_>>()
    };

    // Nothing is old enough; then only looked at; then two go, and what they kept.
    host.run(&["gc", "--older-than", "1d"]).ok();
    assert_eq!(generations(), [1, 2, 3, 4]);
    let listed = host.run(&["gc", "--keep", "2", "--dry-run"]);
    assert!(listed.stderr.contains("would delete 2 generations, 2 paths"), "{listed}");
    let listed = listed.ok();
    assert!(listed.contains("/web-1-link") && listed.contains(&versions[1]), "{listed}");
    assert_eq!((generations().len(), host.nix().valid_paths().len()), (4, 4));
    let done: Value =
        serde_json::from_str(&host.run(&["gc", "--keep", "2", "--json"]).ok()).unwrap();
    assert_eq!(done["generations"][1]["path"].as_str(), Some(versions[1].as_str()), "{done}");
    assert_eq!(generations(), [3, 4]);

    // A pin outranks everything, and what runs is never deleted.
    host.run(&["rollback", "web"]);
    host.configure("[gc]\nkeep = 0\nolder_than = 0\n");
    host.run(&["gc"]).ok();
    assert_eq!(generations(), [3, 4]);
    host.run(&["unpin", "web"]);
    host.run(&["once"]).ok();
    host.run(&["gc", "--keep", "2"]).ok();
    assert_eq!(generations(), [3, 4], "what is typed outranks what is configured");
    host.run(&["gc"]).ok();
    assert_eq!(generations(), [4]);
    assert_eq!(host.current("web"), Some(versions[3].clone()));
    assert_eq!(host.nix().valid_paths(), [versions[3].clone()]);
    assert_eq!(host.state("web"), "converged");
    host.run(&["once"]).ok();
    host.nix().verify();
    let other = host.run(&["gc", "--keep", "1", "--root", "/nonexistent"]).fails(2);
    assert!(other.contains("other_root"), "{other}");
}
