//! What our registry publishes is TUF: python-tuf reads all of it, step by step.

use std::{fs, path::Path, process::Command};

use shared::nix::Sha256;
use tests::{Ran, Realm, fixture, python, run};

/// A path without references, in the cache of the fixtures.
const SMALL: &str = "/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0";

/// Reads targets with python-tuf's client, which keeps its state from call to call.
fn read(realm: &Realm, targets: &[&str]) -> Ran {
    let url = format!("{}/r/main", realm.url);
    let mut command = Command::new(python());
    command.arg(fixture("tuf/read.py")).arg(realm.folder().join("second-reader"));
    run(command.arg(realm.files().join("metadata/1.root.json")).arg(url).args(targets))
}

fn verify(realm: &Realm) -> String {
    let script = fixture("tuf/verify.py");
    run(Command::new(python()).arg(script).arg(realm.files().join("metadata"))).ok()
}

/// Returns the line that python-tuf prints of the newest file of a target that we serve.
fn served(realm: &Realm, target: &str) -> Vec<String> {
    let (group, profile) = target.split_once('/').unwrap();
    let folder = realm.files().join("targets").join(group);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |path: &Path| path.extension().is_some_and(|last| last == profile);
    let line = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        format!("{target} {} {}", bytes.len(), Sha256::of(&bytes).to_hex())
    };
    files.filter(|path| is_ours(path)).map(|path| line(&path)).collect()
}

fn publish(realm: &Realm, team: &str, target: &str, note: &str) {
    let words = ["publish", "manifest", target, SMALL, "--activation", "none", "--note", note];
    realm.signer(team).sign(&words).ok();
}

fn group(realm: &Realm, name: &str, profiles: &[&str]) {
    let cache = format!("file://{}", fixture("nix/cache-zstd").display());
    let builder = fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
    let mut words = vec!["group", "create", name, "--cache", &cache, "--builder", builder.trim()];
    profiles.iter().for_each(|profile| words.extend(["--profile", profile]));
    realm.operator().sign(&words).ok();
}

fn team(realm: &Realm, name: &str, may: &str) {
    let key = realm.signer(name).key(name);
    realm.operator().sign(&["team", "add", name, "--key", &key, "--may", may]).ok();
}

#[test]
fn python_tuf_reads_all_that_the_registry_publishes() {
    let realm = Realm::new();
    assert_eq!(read(&realm, &["eu/web"]).ok(), "eu/web is not listed\n");

    group(&realm, "eu", &["web:none", "db:none"]);
    team(&realm, "shop", "eu/web*");
    team(&realm, "data", "*/db");
    publish(&realm, "shop", "eu/web", "one");
    let first = read(&realm, &["eu/web", "eu/_policy"]).ok();
    let lines: Vec<_> = first.lines().collect();
    assert_eq!(lines[0], served(&realm, "eu/web")[0]);
    assert_eq!(lines[1], served(&realm, "eu/_policy")[0]);

    publish(&realm, "shop", "eu/web", "two");
    publish(&realm, "data", "eu/db", "one");
    let second = read(&realm, &["eu/web", "eu/db"]).ok();
    let lines: Vec<_> = second.lines().collect();
    assert_ne!(Some(lines[0]), first.lines().next());
    assert!(served(&realm, "eu/web").iter().any(|line| line == lines[0]), "{second}");
    assert_eq!(lines[1], served(&realm, "eu/db")[0]);

    let roles = verify(&realm);
    for line in ["root 1", "data 1", "owners.eu 1", "shop 2"] {
        assert!(roles.lines().any(|role| role == line), "{roles}");
    }
}

#[test]
fn python_tuf_follows_a_registry_through_its_restarts() {
    let mut realm = Realm::new();
    group(&realm, "eu", &["web:none"]);
    team(&realm, "shop", "eu/web");
    for note in ["one", "two"] {
        publish(&realm, "shop", "eu/web", note);
        read(&realm, &["eu/web"]).ok();
        realm.stop();
        realm.start();
    }
    assert!(read(&realm, &["eu/web"]).ok().starts_with("eu/web "));
}
