//! From a published manifest to a host that runs it, stays where it is, or goes back: the real
//! registry, the real agent, and real Nix that looks at what they leave.

mod conflict;
mod crashes;
mod daemon;
mod full_disk;
mod hostile_cache;
mod shown;
mod users;

use std::fs;

use tests::{Builder, Host, Ran, Realm, Signer};

/// Shows which version runs, where [`active`] looks.
const ACTIVATE: &str = "echo \"$SHOAL_VERSION\" > \"$SHOAL_ROOT/active-$SHOAL_PROFILE\"";

/// Returns how a profile is put to work here: nothing of a team runs as root unless the owners say
/// so, and whoever runs the stories may be root.
fn profile(name: &str) -> String {
    let root = rustix::process::geteuid().is_root();
    format!("{name}:exec{}", if root { ":privileged" } else { "" })
}

/// A realm whose group `eu` takes these profiles from the builder's cache.
fn realm(builder: &Builder, profiles: &[&str]) -> Realm {
    let realm = Realm::new();
    let cache = builder.cache_url();
    let mut words = vec!["group", "create", "eu", "--cache", &cache];
    let profiles: Vec<String> = profiles.iter().map(|name| profile(name)).collect();
    for profile in &profiles {
        words.extend(["--profile", profile]);
    }
    realm.operator().sign(&words).ok();
    realm
}

/// Lets a team publish one profile.
fn team<'a>(realm: &'a Realm, name: &str) -> Signer<'a> {
    let signer = realm.signer(name);
    let may = format!("eu/{name}");
    realm.operator().sign(&["team", "add", name, "--key", &signer.key(name), "--may", &may]).ok();
    signer
}

/// Builds, pushes and publishes; returns the store path.
fn publish(team: &Signer<'_>, builder: &Builder, profile: &str, activate: &str) -> String {
    let path = builder.service(profile, activate, &[]);
    builder.push(&path).ok();
    publish_path(team, builder, profile, &path).ok();
    path
}

fn publish_path(team: &Signer<'_>, builder: &Builder, profile: &str, path: &str) -> Ran {
    let (target, root) = (format!("eu/{profile}"), builder.root());
    let root = root.to_str().unwrap();
    team.sign(&["publish", "manifest", &target, path, "--root", root, "--activation", "exec"])
}

/// Returns the version that was activated last.
fn active(host: &Host, profile: &str) -> Option<String> {
    let text = fs::read_to_string(host.root().join(format!("active-{profile}"))).ok()?;
    Some(text.trim().to_owned())
}

#[test]
fn two_teams_on_one_host_succeed_and_fail_each_by_itself() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web", "db"]);
    let (web, db) = (team(&realm, "web"), team(&realm, "db"));
    let host = Host::enrol(&realm, "eu", "host-1");

    let first = publish(&web, &builder, "web", ACTIVATE);
    publish(&db, &builder, "db", "echo no disk >&2; exit 3");
    host.run(&["once"]).fails(8);
    assert_eq!(host.state("web"), "converged");
    assert_eq!(host.current("web"), Some(first));
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    assert_eq!(host.state("db"), "rolled_back activation_failed");
    assert_eq!(host.current("db"), None);
    let failed = host.profile("db");
    assert_eq!(failed["next"], "agent retry db");
    assert!(failed["reason"]["text"].as_str().unwrap().contains("ended with 3"), "{failed}");
    // The worst of its profiles is the state of the host.
    let counts = realm.operator().run(&["hosts", "eu", "--counts"]).ok();
    assert!(counts.contains("rolled_back") && !counts.contains("converged"), "{counts}");
    let counts = realm.operator().run(&["hosts", "--counts", "--json"]).ok();
    assert!(counts.contains(r#""hosts":1"#) && counts.contains(r#""rolled_back":1"#), "{counts}");

    let second = publish(&db, &builder, "db", ACTIVATE);
    host.run(&["once"]).ok();
    assert_eq!(host.current("db"), Some(second));
    let reported = realm.operator().run(&["hosts", "eu"]).ok();
    assert!(reported.contains("converged") && !reported.contains("rolled_back"), "{reported}");
    host.nix().verify();
}

#[test]
fn a_failed_version_goes_back_and_stays_out_until_somebody_says_retry() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let first = publish(&web, &builder, "web", ACTIVATE);
    host.run(&["once"]).ok();
    let fixed = host.root().join("fixed");
    let careful = format!("test -e {} || exit 1; {ACTIVATE}", fixed.display());
    let second = publish(&web, &builder, "web", &careful);
    host.run(&["once"]).fails(8);
    assert_eq!(host.current("web"), Some(first));
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    fs::write(fixed, "").unwrap();
    host.run(&["once"]).fails(8);
    assert_eq!(host.state("web"), "rolled_back activation_failed");
    host.run(&["retry", "web"]);
    host.run(&["once"]).ok();
    assert_eq!(host.current("web"), Some(second));
    assert_eq!(active(&host, "web").as_deref(), Some("2"));
}

#[test]
fn owners_hold_and_stop_a_profile_without_its_team() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let first = publish(&web, &builder, "web", ACTIVATE);
    host.run(&["once"]).ok();
    realm.operator().sign(&["group", "set", "eu", "--hold", "web"]).ok();
    publish(&web, &builder, "web", "true");
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("web"), "held policy_hold");
    assert_eq!(host.current("web"), Some(first));

    realm.operator().sign(&["group", "set", "eu", "--stop", "web"]).ok();
    host.run(&["once"]).ok();
    assert_eq!(host.state("web"), "converged policy_stop");
    assert_eq!((host.current("web"), active(&host, "web")), (None, None));
    host.nix().collect_garbage();
    assert_eq!(host.nix().valid_paths(), Vec::<String>::new(), "nothing roots it any more");

    realm.operator().sign(&["group", "set", "eu", "--take", "web"]).ok();
    host.run(&["once"]).ok();
    assert_eq!(host.state("web"), "converged");
}

#[test]
fn the_operator_of_a_host_outranks_everybody() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let first = publish(&web, &builder, "web", ACTIVATE);
    host.run(&["once"]).ok();
    let second = publish(&web, &builder, "web", &format!("{ACTIVATE}; true"));
    host.run(&["once"]).ok();
    host.run(&["rollback", "web", "--reason", "slow"]);
    assert_eq!(host.current("web"), Some(first.clone()));
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    publish(&web, &builder, "web", &format!("{ACTIVATE}; true; true"));
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("web"), "pinned pinned");
    assert_eq!(host.current("web"), Some(first));
    // What is fetched for later is kept from the collector, and so is every generation.
    host.nix().collect_garbage();
    assert!(host.nix().valid_paths().contains(&second));
    host.run(&["unpin", "web"]);
    host.run(&["once"]).ok();
    assert_eq!(active(&host, "web").as_deref(), Some("3"));
    let link = host.profiles().join("web");
    let generations = host.nix().nix_env(&link, &["--list-generations"]).ok();
    assert_eq!(generations.lines().count(), 3, "{generations}");
}

#[test]
fn an_operating_system_is_not_switched_where_systemd_is_not_the_runner() {
    let builder = Builder::new();
    let realm = realm(&builder, &[]);
    let words = ["group", "set", "eu", "--profile", "system:nixos"];
    realm.operator().sign(&words).ok();
    let system = team(&realm, "system");
    let path = builder.service("system", "true", &[]);
    builder.push(&path).ok();
    let root = builder.root();
    let words = ["publish", "manifest", "eu/system", &path, "--activation", "nixos", "--root"];
    system.sign(&[&words[..], &[root.to_str().unwrap()]].concat()).ok();
    let host = Host::enrol(&realm, "eu", "host-1");
    host.run(&["once"]).fails(1);
    assert_eq!(host.state("system"), "waiting not_allowed");
    assert_eq!(host.current("system"), None);
}
