//! From `registry init` to a published manifest, as an operator and two teams live through it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use expect_test::expect;
use tests::{Realm, Signer, copy_folder, fixture, run, tool};

/// Two versions of a system, both in the cache of the fixtures.
const ONE: &str = "/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1";
const TWO: &str = "/nix/store/sl2xkj3173msizl69v2fhrj3jm7401hl-nixos-system-testhost-2";
/// A path without references.
const SMALL: &str = "/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0";

fn builder() -> String {
    fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap().trim().to_owned()
}

fn url(cache: &Path) -> String {
    format!("file://{}", cache.display())
}

/// A realm with the group `eu`, whose hosts take `web`, `web2` and `db` from one cache.
fn realm_with_cache(cache: &Path, builder: &str) -> Realm {
    let realm = Realm::new();
    let operator = realm.operator();
    let cache = url(cache);
    let mut words = vec!["group", "create", "eu", "--cache", &cache];
    words.extend(["--profile", "web:exec+none", "--profile", "web2:none", "--profile", "db:none"]);
    words.extend(["--builder", builder]);
    operator.sign(&words).ok();
    realm
}

fn realm() -> Realm {
    realm_with_cache(&fixture("nix/cache-zstd"), &builder())
}

/// Lets someone publish as a team of their own name.
fn team<'a>(realm: &'a Realm, name: &str, may: &str) -> Signer<'a> {
    let signer = realm.signer(name);
    realm.operator().sign(&["team", "add", name, "--key", &signer.key(name), "--may", may]).ok();
    signer
}

fn publish(signer: &Signer<'_>, target: &str, path: &str) -> tests::Ran {
    signer.sign(&["publish", "manifest", target, path, "--activation", "none"])
}

#[test]
fn two_versions_are_published_shown_verified_and_remembered() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web*");

    let first = publish(&shop, "eu/web", SMALL);
    expect![[r#"
        Closure   /nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0 → 1 path, 1.3 KiB
        Cache     1 of 1 path in file://FIXTURES/nix/cache-zstd
        Manifest  eu/web 0 → 1
          + base  1.0  +1.3 KiB
          1 added · closure 1.3 KiB (+1.3 KiB) · a host downloads 280 B in 1 path
        Sign      role shop 1 with key shop
    "#]]
    .assert_eq(&realm.plain(&first.stderr));
    expect![[r#"
        Published eu/web 1 (role shop 1, timestamp 5)
    "#]]
    .assert_eq(&first.ok());

    publish(&shop, "eu/web", ONE).ok();
    let third = shop.sign(&["publish", "manifest", "eu/web", TWO, "--note", "two", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&third.clone().ok()).unwrap();
    assert_eq!(answer["version"], 3);
    assert_eq!(answer["receipt"]["role"], "shop");
    assert_eq!(answer["diff"]["new_paths"], 2);
    expect![[r#"
        Closure   /nix/store/sl2xkj3173msizl69v2fhrj3jm7401hl-nixos-system-testhost-2 → 25 paths, 69.3 KiB
        Cache     25 of 25 paths in file://FIXTURES/nix/cache-zstd
        Manifest  eu/web 2 → 3
          ~ nixos-system-testhost  1 → 2  -280 B
          + with-debug                    +1.7 KiB
          - multi                  3-doc  -480 B
          - tiny                   2000   -375.0 KiB
          1 changed, 1 added, 2 removed · closure 69.3 KiB (-374.1 KiB) · a host downloads 1.9 KiB in 2 paths
        Sign      role shop 3 with key shop
    "#]]
    .assert_eq(&realm.plain(&third.stderr));
    reads_back(&realm, &shop);
}

/// What was published is shown, remembered and verified, over HTTP and from the folder.
fn reads_back(realm: &Realm, shop: &Signer<'_>) {
    let shown = realm.operator().run(&["manifest", "show", "eu/web"]).ok();
    expect![[r#"
        eu/web 3
        note          two
        epoch         0
        signed by     role shop 3, key HEX
        activation    none, at most 300 s
        x86_64-linux  /nix/store/sl2xkj3173msizl69v2fhrj3jm7401hl-nixos-system-testhost-2
                      25 paths, 69.3 KiB, closure HEX
    "#]]
    .assert_eq(&realm.plain(&shown));
    let history = shop.run(&["history", "eu/web"]).ok();
    expect![[r#"
        VERSION  EPOCH  PUBLISHED             ROLE    KEYS      NOTE
        3        0      TIME  shop 3  ID  two
        2        0      TIME  shop 2  ID
        1        0      TIME  shop 1  ID
    "#]]
    .assert_eq(&realm.plain(&history));
    let verified = realm.operator().run(&["verify", "--all"]).ok();
    expect![[r#"
        ✓ role root                version 1, until TIME
        ✓ role targets             version 3, until TIME
        ✓ role snapshot            version 7, until TIME
        ✓ role timestamp           version 7, until TIME
        ✓ role owners.eu           version 1, until TIME
        ✓ eu/_policy               policy, version 1, signed by key ID
        ✓ role shop                version 3, until TIME
        ✓ eu/web                   manifest, version 3, signed by key ID
        ✓ eu/web closure ID  25 paths of /nix/store/sl2xkj3173msizl69v2fhrj3jm7401hl-nixos-system-testhost-2
        ✓ eu/web hints ID    of 1 cache
    "#]].assert_eq(&realm.plain(&verified));
    let data = realm.data();
    let offline = realm.operator().run(&["verify", "--all", "--data", data.to_str().unwrap()]);
    assert_eq!(offline.ok(), verified);
}

#[test]
fn nothing_is_signed_without_a_yes_and_a_trial_sends_nothing() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web");
    let words = ["publish", "manifest", "eu/web", SMALL, "--activation", "none"];
    let said = run(shop.registry().args(words).args(realm.passphrase())).fails(2);
    assert!(said.contains("fix: add --yes"), "{said}");
    let trial = run(shop.registry().args(words).arg("--dry-run")).ok();
    assert_eq!(trial, "Would publish eu/web 1\n");
    shop.run(&["manifest", "show", "eu/web"]).fails(1);
}

#[test]
fn a_team_cannot_leave_its_fence() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web*");
    let data = team(&realm, "data", "eu/db");
    let said = publish(&shop, "eu/other", SMALL).fails(4);
    expect![[r#"
        error[not_delegated]: no team may publish `eu/other`
          state: nothing changed
          fix: ask the platform admins for a pattern that matches it
          next: registry team list
    "#]]
    .assert_eq(&realm.plain(&said));
    let said = publish(&shop, "eu/db", SMALL).fails(4);
    expect![[r#"
        error[no_key]: you cannot sign for role `data`
          because it wants 1 of these keys: HEX
          because `FOLDER/home-shop/.config/shoal/main/keys` holds 0 of them
          state: nothing changed
          next: registry key list
    "#]]
    .assert_eq(&realm.plain(&said));
    // What the team may publish, but the policy does not list.
    let said = publish(&shop, "eu/webx", SMALL).fails(5);
    expect![[r#"
        error[not_taken]: no host would take `eu/webx`
          because the policy of `eu` lists only: db, web, web2
          state: nothing changed
          fix: ask the owners of the group to add the profile to the policy
          next: registry group set eu --profile webx:ACTIVATION
    "#]]
    .assert_eq(&realm.plain(&said));
    publish(&data, "eu/db", SMALL).ok();
    let wide = ["team", "add", "wide", "--key", &data.key("data"), "--may", "*/webshop"];
    let said = realm.operator().sign(&wide).fails(5);
    assert!(said.contains("error[overlap]"), "{said}");
}

#[test]
fn a_wrong_key_a_wrong_passphrase_and_a_wrong_realm_are_told_apart() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web");
    let stranger = realm.signer("stranger");
    let said = publish(&stranger, "eu/web", SMALL).fails(4);
    assert!(said.contains("error[no_key]"), "{said}");
    assert!(said.contains(&shop.key("shop")), "{said}");

    let wrong = realm.folder().join("wrong");
    fs::write(&wrong, "open barley").unwrap();
    let mut words = vec!["publish", "manifest", "eu/web", SMALL, "--activation", "none", "--yes"];
    words.extend(["--passphrase-file", wrong.to_str().unwrap()]);
    let said = shop.run(&words).fails(4);
    assert!(said.contains("the passphrase does not open"), "{said}");

    let said = shop.run(&["--realm", "other", "manifest", "show", "eu/web"]).fails(2);
    assert!(said.contains("error[no_root]"), "{said}");

    // Another registry, of a realm of the same name: nothing of it is believed.
    let theirs = Realm::new();
    let said = shop.run(&["--registry", &theirs.url, "manifest", "show", "eu/web"]).fails(4);
    assert!(said.contains("is not signed by those who may"), "{said}");
    let said = theirs.operator().run(&["trust", "pin", &realm.fingerprint]).fails(4);
    assert!(said.contains("another root of trust"), "{said}");
}

#[test]
fn paths_that_hosts_could_not_take_are_named_before_anything_is_signed() {
    let folder = tests::scratch();
    copy_folder(&fixture("nix/cache-zstd"), folder.path());
    fs::remove_file(folder.path().join("8a5dkmn6y99jrqzk5qqfsgpnrq081qka.narinfo")).unwrap();
    let realm = realm_with_cache(folder.path(), &builder());
    let shop = team(&realm, "shop", "eu/web");
    let said = publish(&shop, "eu/web", ONE).fails(1);
    let cache = folder.path().to_str().unwrap();
    expect![[r#"
        error[missing_paths]: hosts could not take 1 of 26 paths in the closure of `/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1`
          because `/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0` is in no cache of the policy
          state: nothing changed
          fix: put them into a cache of the policy, signed by a builder of the policy
          next: registry cache push --to file://DIR --key-file FILE /nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1
    "#]].assert_eq(&realm.plain(&said.replace(cache, "CACHE")));

    // The same cache, but its builder is not one of this group's.
    let other = fs::read_to_string(fixture("nix/keys/other.test-1.public")).unwrap();
    let realm = realm_with_cache(&fixture("nix/cache-zstd"), other.trim());
    let shop = team(&realm, "shop", "eu/web");
    let said = publish(&shop, "eu/web", SMALL).fails(4);
    expect![[r#"
        error[unvouched_paths]: hosts could not take 1 of 1 paths in the closure of `/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0`
          because in file://FIXTURES/nix/cache-zstd: `/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0` is signed by `cache.test-1`, none of which is a trusted key that signed it
          state: nothing changed
          fix: put them into a cache of the policy, signed by a builder of the policy
          next: registry cache push --to file://DIR --key-file FILE /nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0
    "#]].assert_eq(&realm.plain(&said));
}

#[test]
fn versions_only_rise() {
    let mut realm = realm();
    let older = realm.folder().join("older");
    {
        let shop = team(&realm, "shop", "eu/web");
        publish(&shop, "eu/web", ONE).ok();
    }
    realm.stop();
    copy_folder(&realm.files(), &older);
    realm.start();
    {
        let shop = realm.signer("shop");
        publish(&shop, "eu/web", TWO).ok();
        let over = ["publish", "manifest", "eu/web", SMALL, "--if-version", "1"];
        let said = shop.sign(&over).fails(5);
        expect![[r#"
            error[moved_on]: `eu/web` is at version 2, not 1
              state: nothing changed
              next: registry history eu/web
        "#]]
        .assert_eq(&realm.plain(&said));
    }
    // The server's folder is put back from an old copy, behind everyone's back.
    realm.stop();
    fs::remove_dir_all(realm.files()).unwrap();
    copy_folder(&older, &realm.files());
    realm.start();
    let shop = realm.signer("shop");
    let said = shop.run(&["manifest", "show", "eu/web"]).fails(5);
    expect![[r#"
        error[source_behind]: this source is behind: its timestamp is version 5, ours is 6
          state: nothing changed
          fix: read from the registry itself, not from a mirror
    "#]]
    .assert_eq(&realm.plain(&said));
}

#[test]
fn whoever_is_overtaken_publishes_over_it_unless_it_is_the_same_manifest() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web*");
    publish(&shop, "eu/web", ONE).ok();

    // The slow one has read and shown everything, and waits for a passphrase.
    let slow = |target: &str, pipe: &Path| {
        run(tool("mkfifo").arg(pipe)).ok();
        let mut words = vec!["publish", "manifest", target, SMALL, "--activation", "none"];
        words.extend(["--yes", "--passphrase-file", pipe.to_str().unwrap()]);
        let mut command = shop.registry();
        command.args(&words).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // Opening a pipe to write waits until the other side opens it to read.
    let open = |pipe: &Path| fs::OpenOptions::new().write(true).open(pipe).unwrap();

    let pipe = realm.folder().join("pipe-1");
    let child = slow("eu/web2", &pipe);
    let mut file = open(&pipe);
    publish(&shop, "eu/web", TWO).ok();
    file.write_all(b"open sesame\n").unwrap();
    drop(file);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Role shop moved on; publishing over it."), "{said}");
    let first = shop.run(&["manifest", "show", "eu/web", "--json"]).ok();
    assert!(first.contains(TWO), "{first}");

    let pipe = realm.folder().join("pipe-2");
    let child = slow("eu/web", &pipe);
    let mut file = open(&pipe);
    publish(&shop, "eu/web", ONE).ok();
    file.write_all(b"open sesame\n").unwrap();
    drop(file);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8_lossy(&output.stderr);
    let problem = said.lines().skip_while(|line| !line.starts_with("error")).collect::<Vec<_>>();
    expect![[r#"
        error[moved_on]: `eu/web` is at version 3 by now; you were shown the change from version 2
          state: nothing changed
          fix: look at what was published, then publish again over it
          next: registry history eu/web"#]]
    .assert_eq(&realm.plain(&problem.join("\n")));
}

/// Passes everything on to the registry and back, but never an answer to a `PUT`.
fn proxy_that_loses_answers(registry: &str) -> String {
    let upstream = registry.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pass = |mut from: TcpStream, mut to: TcpStream, put: Arc<AtomicBool>, asks: bool| {
        let mut bytes = [0; 65536];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if asks && bytes.starts_with(b"PUT ") {
                put.store(true, Ordering::SeqCst);
            }
            if (!asks && put.load(Ordering::SeqCst)) || to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        drop(from.shutdown(Shutdown::Both));
        drop(to.shutdown(Shutdown::Both));
    };
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(&upstream).unwrap();
            let put = Arc::new(AtomicBool::new(false));
            let there = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let seen = Arc::clone(&put);
            thread::spawn(move || pass(there.0, there.1, seen, true));
            thread::spawn(move || pass(server, client, put, false));
        }
    });
    url
}

#[test]
fn a_lost_answer_is_looked_up_before_anyone_is_told_of_it() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web");
    let proxy = proxy_that_loses_answers(&realm.url);
    let words = ["publish", "manifest", "eu/web", ONE, "--activation", "none"];
    let ran = shop.sign(&[&words[..], &["--registry", &proxy]].concat());
    assert_eq!(ran.ok(), "Published eu/web 1 (role shop 1, timestamp 5)\n");
    let history = shop.run(&["history", "eu/web", "--json"]).ok();
    assert_eq!(history.matches("\"role_version\"").count(), 1, "{history}");
}

#[test]
fn a_service_ends_by_its_team() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web");
    publish(&shop, "eu/web", ONE).ok();
    let ended = shop.sign(&["publish", "manifest", "eu/web", "--retire", "stop"]);
    expect![[r#"
        Manifest  eu/web 1 → 2
          the service ends: hosts stop it
        Sign      role shop 2 with key shop
        Published eu/web 2 (role shop 2, timestamp 6)
    "#]]
    .assert_eq(&realm.plain(&format!("{}{}", ended.stderr, ended.stdout)));
}

#[test]
fn verify_finds_each_file_that_was_tampered_with() {
    let realm = realm();
    let shop = team(&realm, "shop", "eu/web");
    publish(&shop, "eu/web", ONE).ok();
    let files = realm.files();
    // The server keeps the timestamp in memory; a mirror, or a host that reads the folder, does not.
    let data = realm.data();
    let verify = || shop.run(&["verify", "--all", "--data", data.to_str().unwrap()]);
    verify().ok();

    let targets = files.join("targets/eu");
    let manifest = fs::read_dir(&targets)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_str().unwrap().ends_with(".web"))
        .unwrap();
    let closure = fs::read_dir(files.join("closures"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_none())
        .unwrap();
    for (path, what) in [
        (manifest, "eu/web"),
        (closure, "eu/web closure"),
        (files.join("metadata/1.shop.json"), "role shop"),
        (files.join("metadata/timestamp.json"), ""),
    ] {
        let before = fs::read(&path).unwrap();
        let mut bytes = before.clone();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        let ran = verify();
        assert_eq!(ran.code, Some(4), "{} {ran}", path.display());
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(what), "{said}");
        fs::write(&path, before).unwrap();
        verify().ok();
    }
}

#[test]
fn a_misspelt_command_is_told_what_was_meant() {
    let realm = Realm::new();
    let said = realm.operator().run(&["publsh"]).fails(2);
    assert!(said.contains("similar subcommand exists: 'publish'"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
    let said = run(realm.operator().registry().args(["key", "show", "x", "--color=always"]));
    assert!(said.fails(2).contains('\u{1b}'));
    let said = realm.operator().run(&["key", "show", "x", "--json"]).fails(2);
    let problem: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(problem["schema"], "problem.v1");
    assert_eq!(problem["exit_code"], 2);
    let said = realm.operator().run(&["publsh", "--json"]).fails(2);
    let problem: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(problem["code"], "usage");
    assert_eq!(problem["what"], "unrecognized subcommand 'publsh'");
    assert_eq!(problem["fix"], "a similar subcommand exists: 'publish'");
}
