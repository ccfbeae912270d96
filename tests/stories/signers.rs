//! Whoever signs: operators, owners, teams; their keys, their settings, their own store.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use expect_test::expect;
use tests::{Nix, Realm, fixture, run, scratch};

const SMALL: &str = "/nix/store/8a5dkmn6y99jrqzk5qqfsgpnrq081qka-base-1.0";

fn builder() -> String {
    fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap().trim().to_owned()
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path.to_str().unwrap().to_owned());
        }
    }
    files.sort();
    files
}

#[test]
fn init_keeps_the_keys_of_root_and_targets_out_of_the_servers_folder() {
    let realm = Realm::new();
    let server: Vec<String> = files_below(&realm.data())
        .into_iter()
        .filter(|path| !path.contains("db.sqlite"))
        .map(|path| realm.plain(&path))
        .collect();
    expect![[r#"
        FOLDER/data/keys/enrolment.pem
        FOLDER/data/keys/snapshot.pem
        FOLDER/data/keys/timestamp.pem
        FOLDER/data/lock
        FOLDER/data/r/main/metadata/1.root.json
        FOLDER/data/r/main/metadata/1.snapshot.json
        FOLDER/data/r/main/metadata/1.targets.json
        FOLDER/data/r/main/metadata/timestamp.json"#]]
    .assert_eq(&server.join("\n"));
    let own = realm.operator().home().join(".config/shoal/main");
    let own_files: Vec<String> =
        files_below(&own).into_iter().map(|path| realm.plain(&path)).collect();
    expect![[r#"
        FOLDER/home-operator/.config/shoal/main/enrolment.pub
        FOLDER/home-operator/.config/shoal/main/keys/root.pem
        FOLDER/home-operator/.config/shoal/main/keys/root.pub
        FOLDER/home-operator/.config/shoal/main/keys/targets.pem
        FOLDER/home-operator/.config/shoal/main/keys/targets.pub
        FOLDER/home-operator/.config/shoal/main/root.json"#]]
    .assert_eq(&own_files.join("\n"));
    for path in files_below(&realm.data().join("keys")).iter().chain(&files_below(&own)) {
        if path.ends_with(".pem") {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{path}");
        }
    }
    let root = fs::read_to_string(own.join("keys/root.pem")).unwrap();
    assert!(root.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{root}");

    let data = realm.data();
    let again = ["init", "--data", data.to_str().unwrap()];
    let said = run(realm.operator().registry().args(again).args(realm.passphrase())).fails(5);
    expect![[r#"
        error[exists]: realm `main` is there already
          because `FOLDER/data/r/main` exists
          state: nothing changed
          fix: choose another realm with --realm REALM, or another folder with --data DIR
    "#]]
    .assert_eq(&realm.plain(&said));
}

#[test]
fn a_passphrase_comes_from_a_file_a_credential_or_a_person_and_from_nowhere_else() {
    let realm = Realm::new();
    let operator = realm.operator();
    let said = operator.run(&["key", "new", "web"]).fails(2);
    expect![[r#"
        error[no_input]: cannot ask `New passphrase for key web`
          because this is not a terminal, or --no-input is given
          state: nothing changed
          fix: add --passphrase-file FILE
    "#]]
    .assert_eq(&realm.plain(&said));
    // As systemd gives it: LoadCredential=passphrase:FILE.
    let mut command = operator.registry();
    command.env("CREDENTIALS_DIRECTORY", realm.folder()).args(["key", "new", "web"]);
    run(&mut command).ok();
    let said = run(operator.registry().args(["key", "new", "web"]).args(realm.passphrase()));
    assert!(said.fails(5).contains("there is a key `web` already"));
    let listed = operator.run(&["key", "list"]).ok();
    expect![[r#"
        root     ID  HEX
        targets  ID  HEX
        web      ID  HEX
    "#]]
    .assert_eq(&realm.plain(&listed));
    let empty = realm.folder().join("empty");
    fs::write(&empty, "\n").unwrap();
    let words = ["key", "new", "x", "--passphrase-file", empty.to_str().unwrap()];
    assert!(operator.run(&words).fails(2).contains("the passphrase is empty"));
    fs::remove_file(&empty).unwrap();
    let said = realm.plain(&operator.run(&words).fails(3));
    assert!(said.starts_with("error[passphrase]: cannot read the passphrase in `"), "{said}");
    assert!(said.contains("fix: name a file that holds it with --passphrase-file"), "{said}");
}

#[test]
fn owners_who_are_not_the_operator_sign_their_own_policy() {
    let realm = Realm::new();
    let owner = realm.signer("owner");
    let key = owner.key("owner");
    let created = realm.operator().sign(&["group", "create", "eu", "--owner", &key]);
    expect![[r#"
        Role targets, version 2:
          adds role `owners.eu`: 1 of the keys ID, may publish `eu/_policy`
          until TIME
        Group eu: role targets 2
        Group eu waits for its owners to sign a first policy.
        They run: registry group set eu --profile … --enrolment HEX
    "#]]
    .assert_eq(&realm.plain(&created.stderr));
    created.ok();
    let said = realm.operator().sign(&["group", "set", "eu", "--profile", "web"]).fails(4);
    assert!(said.contains("you cannot sign for role `owners.eu`"), "{said}");

    let url = format!("file://{}", fixture("nix/cache-zstd").display());
    let mut words = vec!["group", "set", "eu", "--cache", &url, "--builder"];
    let builder = builder();
    words.extend([builder.as_str(), "--profile", "web:none"]);
    owner.sign(&words).ok();
    let second = owner.sign(&["group", "set", "eu", "--hold", "web", "--raise-epoch", "web"]);
    expect![[r#"
        Policy of eu, version 2:
          - profile web: take, activation none, epoch 0
          + profile web: hold, activation none, epoch 1
    "#]]
    .assert_eq(&realm.plain(&second.stderr));
    second.ok();

    // The whole policy through a file: what is printed is what is read.
    let shown = owner.run(&["group", "show", "eu", "--policy"]).ok();
    let file = realm.folder().join("policy.json");
    fs::write(&file, shown.replace("\"hold\"", "\"yes\"")).unwrap();
    let edit = ["group", "edit", "eu", "--from-file", file.to_str().unwrap()];
    let edited = owner.sign(&edit);
    expect![[r#"
        Policy of eu, version 3:
          - profile web: hold, activation none, epoch 1
          + profile web: take, activation none, epoch 1
    "#]]
    .assert_eq(&realm.plain(&edited.stderr));
    edited.ok();
    fs::write(&file, shown.replace("\"take\"", "\"tkae\"")).unwrap();
    assert!(owner.sign(&edit).fails(2).contains("tkae"));
    let groups = owner.run(&["group", "list"]).ok();
    expect![[r#"
        GROUP  HOSTS  CONVERGED  PROFILES  ROLE VERSION  OWNERS
        eu     0                           3             1 of 1
    "#]]
    .assert_eq(&realm.plain(&groups));
}

#[test]
fn a_path_of_the_local_store_is_published_once_a_cache_has_it() {
    let realm = Realm::new();
    let folder = scratch();
    let nix = Nix::at(&folder.path().join("store"));
    fs::write(folder.path().join("motd"), "hello\n").unwrap();
    let motd = folder.path().join("motd");
    let path = nix.nix_store(&["--add", motd.to_str().unwrap()]).ok().trim().to_owned();
    let cache = folder.path().join("cache");
    let push = |path: &str| {
        let (to, root) = (cache.to_str().unwrap(), nix.root().to_str().unwrap());
        realm.operator().run(&["cache", "push", "--to", to, "--root", root, path]).ok();
    };
    let url = format!("file://{}", cache.display());
    let operator = realm.operator();
    operator.sign(&["group", "create", "eu", "--cache", &url, "--profile", "web:none"]).ok();
    let shop = realm.signer("shop");
    operator.sign(&["team", "add", "shop", "--key", &shop.key("shop"), "--may", "eu/web"]).ok();

    let root = nix.root().to_str().unwrap();
    let words = ["publish", "manifest", "eu/web", &path, "--root", root];
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let said = shop.sign(&words).fails(1);
    assert!(said.contains("is in no cache of the policy"), "{said}");
    push(&path);
    assert_eq!(shop.sign(&words).ok(), "Published eu/web 1 (role shop 1, timestamp 5)\n");

    // A symlink, as `nix build` leaves it, names the path as well.
    let link = folder.path().join("result");
    std::os::unix::fs::symlink(nix.real(&path), &link).unwrap();
    let words = ["publish", "manifest", "eu/web", link.to_str().unwrap(), "--root", root];
    let said = shop.sign(&words);
    assert!(said.stderr.contains("no package"), "{said}");
    said.ok();
}

#[test]
fn targets_is_signed_anew_with_nothing_changed() {
    let realm = Realm::new();
    let operator = realm.operator();
    assert_eq!(operator.sign(&["trust", "renew"]).ok(), "Renewed targets (version 2)\n");
    let shown = operator.run(&["trust", "show"]).ok();
    expect![[r#"
        ROLE       VERSION  EXPIRES
        root       1        TIME
        targets    2        TIME
        snapshot   2        TIME
        timestamp  2        TIME
    "#]]
    .assert_eq(&realm.plain(&shown));
    let said = realm.signer("shop").sign(&["trust", "renew"]).fails(2);
    assert!(said.contains("there is no key `targets`"), "{said}");
    let said = realm.signer("shop").sign(&["trust", "renew", "--key", "shop"]).fails(4);
    expect![[r#"
        Role targets, version 3:
          until TIME
        error[bad_signature]: role `targets` is not signed by those who may
          because 0 of 1 valid signatures
          state: nothing changed
    "#]]
    .assert_eq(&realm.plain(&said));
}

#[test]
fn a_token_for_hosts_is_made_where_the_servers_folder_is() {
    let realm = Realm::new();
    let data = realm.data();
    let mut words = vec!["host", "enroll-token", "--group", "eu", "--uses", "20", "--ttl", "7d"];
    let said = realm.operator().run(&words).fails(2);
    assert!(said.contains("give the server's folder with --data DIR"), "{said}");
    words.extend(["--data", data.to_str().unwrap()]);
    let made = realm.operator().run(&words);
    assert_eq!(made.stderr, "For 20 hosts of eu, for 7d:\n");
    let token = made.ok();
    assert_eq!(token.trim().len(), "shoal-".len() + 52);
    let kept = fs::read(data.join("db.sqlite")).unwrap();
    assert!(!kept.windows(30).any(|window| window == &token.as_bytes()[6..36]), "kept in clear");
}

#[test]
fn every_setting_tells_where_it_comes_from() {
    let realm = Realm::new();
    let file = realm.folder().join("registry.toml");
    let written = "realm = \"main\"\ndata = \"/srv/shoal\"\ntoken_file = \"/srv/token\"\n\
                   [access]\nreads = \"token\"\nmetrics = \"open\"\n";
    fs::write(&file, written).unwrap();
    let words = ["config", "show", "--config", file.to_str().unwrap(), "--realm", "other"];
    let shown = realm.operator().run(&words).ok();
    expect![[r#"
        registry = "REGISTRY"  # environment SHOAL_REGISTRY
        realm = "other"  # option --realm
        data = "/srv/shoal"  # file FOLDER/registry.toml
        signer = "FOLDER/home-operator/.config/shoal"  # default
        state = "FOLDER/home-operator/.local/state/shoal"  # default
        retention.attempts = "7776000"  # default
        retention.hosts = "for ever"  # default
        retention.tokens = "2592000"  # default
        access.reads = "token"  # file FOLDER/registry.toml
        access.metrics = "open"  # file FOLDER/registry.toml
        access.header = ""  # file FOLDER/registry.toml
        access.proxies = ""  # file FOLDER/registry.toml
        token_file = "/srv/token"  # file FOLDER/registry.toml
    "#]]
    .assert_eq(&realm.plain(&shown));
    fs::write(&file, "relam = \"main\"\n").unwrap();
    let said = realm.operator().run(&words).fails(2);
    expect![[r#"
        error[config]: cannot use line 1 of configuration file `FOLDER/registry.toml`
          because unknown field `relam`, expected one of `registry`, `realm`, `data`, `retention`, `token_file`, `access`
          state: nothing changed
          next: registry config show --config /dev/null
    "#]]
    .assert_eq(&realm.plain(&said));
}

#[test]
fn a_cache_or_registry_that_is_gone_is_told_as_such() {
    let mut realm = Realm::new();
    realm
        .operator()
        .sign(&["group", "create", "eu", "--cache", "http://127.0.0.1:1", "--profile", "web:none"])
        .ok();
    let key = realm.signer("shop").key("shop");
    realm.operator().sign(&["team", "add", "shop", "--key", &key, "--may", "eu/web"]).ok();
    let said = realm.signer("shop").sign(&["publish", "manifest", "eu/web", SMALL]).fails(6);
    assert!(said.contains("error[cache]: cannot get `nix-cache-info`"), "{said}");
    realm.stop();
    let said = realm.operator().run(&["hosts"]).fails(6);
    expect![[r#"
        error[unreadable]: cannot reach `REGISTRY`
          because Connection refused (os error 111)
          state: nothing changed
          fix: check the address with --registry URL
          next: registry config show
    "#]]
    .assert_eq(&realm.plain(&said));
}
