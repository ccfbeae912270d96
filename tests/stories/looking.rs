//! What a person looks at on a host: `doctor`, `diff` and `history`, by the real programs.

use serde_json::Value;
use tests::{Builder, Host, Realm};

fn publish(realm: &Realm, builder: &Builder, name: &str) -> String {
    let path = builder.add(name, &[("share/web", name)], &[]);
    builder.push(&path).ok();
    let root = builder.root();
    let publish = ["publish", "manifest", "eu/web", &path, "--root", root.to_str().unwrap()];
    realm.signer("web").sign(&publish).ok();
    path
}

fn realm(builder: &Builder) -> Realm {
    let realm = Realm::new();
    let cache = builder.cache_url();
    let create = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
    realm.operator().sign(&create).ok();
    let key = realm.signer("web").key("web");
    realm.operator().sign(&["team", "add", "web", "--key", &key, "--may", "eu/web"]).ok();
    realm
}

#[test]
fn two_generations_differ_by_packages_and_every_switch_is_remembered() {
    let builder = Builder::new();
    let realm = realm(&builder);
    let host = Host::enrol(&realm, "eu", "host-1");
    publish(&realm, &builder, "web-1.0");
    host.run(&["once"]).ok();
    host.run(&["diff", "web"]).fails(5);
    publish(&realm, &builder, "web-2.0");
    host.run(&["once"]).ok();
    let told = host.run(&["diff", "web"]);
    assert!(told.stdout.contains("web generation 1 → 2\n~ web  1.0 → 2.0"), "{told}");
    assert!(told.stdout.ends_with("1 changed · closure 496 B (+0 B)\n"), "{told}");
    told.fails(1);
    host.run(&["diff", "web", "1", "1"]).ok();
    host.run(&["diff", "web", "1", "7"]).fails(5);
    host.run(&["diff", "wed"]).fails(2);
    let diff: Value = serde_json::from_str(&host.run(&["diff", "web", "--json"]).stdout).unwrap();
    assert_eq!((&diff["schema"], &diff["to"]["generation"]), (&"diff.v1".into(), &2.into()));

    host.run(&["rollback", "web"]).ok();
    let told: Value = serde_json::from_str(&host.run(&["history", "--json"]).ok()).unwrap();
    assert_eq!(told["schema"], "history.v1");
    let attempts = told["attempts"].as_array().unwrap();
    let steps = |it: &Value| {
        let generation = |end: &str| it[end]["generation"].as_u64();
        (generation("from"), generation("to"), it["outcome"].as_str().unwrap().to_owned())
    };
    let confirmed = || "confirmed".to_owned();
    // All three may have ended in one second.
    let mut steps: Vec<_> = attempts.iter().map(steps).collect();
    steps.sort();
    assert_eq!(
        steps,
        [
            (None, Some(1), confirmed()),
            (Some(1), Some(2), confirmed()),
            (Some(2), Some(1), confirmed())
        ]
    );
}

#[test]
fn the_doctor_says_what_is_in_the_way_and_what_to_do() {
    let builder = Builder::new();
    let mut realm = realm(&builder);
    let host = Host::enrol(&realm, "eu", "host-1");
    publish(&realm, &builder, "web-1.0");
    host.run(&["once"]).ok();
    let well = host.run(&["doctor"]).ok();
    for expected in [&format!("{} answers", builder.cache_url()), "root version 1", "converged"] {
        assert!(well.contains(expected), "{expected}: {well}");
    }
    assert!(well.contains("0 errors"), "{well}");
    host.configure("[[cache]]\nurl = \"file:///nonexistent/cache\"\n");
    let told = host.run(&["doctor"]).ok();
    assert!(told.contains("! cache") && told.contains("/nonexistent/cache"), "{told}");
    std::fs::remove_file(host.state_dir().join("host.cert")).unwrap();
    realm.stop();
    let told = host.run(&["doctor"]);
    assert!(told.stdout.contains("✗ registry"), "{told}");
    assert!(told.stdout.contains("so nothing is reported"), "{told}");
    told.fails(1);
    let told: Value = serde_json::from_str(&host.run(&["doctor", "--json"]).stdout).unwrap();
    assert_eq!(told["schema"], "doctor.v1");
    assert!(told["errors"].as_u64() >= Some(1), "{told}");
    host.configure("[store]\nmin_free = 9000000000000000\n");
    assert!(host.run(&["doctor"]).stdout.contains("nothing can be fetched"));
}
