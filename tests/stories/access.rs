//! A registry that tells readers only, as its operator sees it.

use std::fs;

use expect_test::expect;
use serde_json::Value;
use tests::{Realm, run};

#[test]
fn a_closed_registry_is_read_with_a_token_until_that_is_revoked() {
    let mut realm = Realm::new();
    let config = realm.folder().join(".config/shoal");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("registry.toml"), "[access]\nreads = \"token\"\n").unwrap();
    realm.stop();
    realm.start();
    let data = realm.data();
    let token = |words: &[&str]| {
        let place = ["--data", data.to_str().unwrap()];
        realm.operator().run(&[&["token"], words, &place].concat())
    };

    let said = realm.operator().run(&["hosts"]).fails(2);
    expect![[r#"
        error[read_token]: this registry tells readers only
          because no read token came with the request
          state: nothing is told
          fix: have a read token made where the registry's folder is, write it into a file, and name that as `token_file` in registry.toml or in SHOAL_TOKEN_FILE; other programs send `Authorization: Bearer TOKEN`
          next: registry token create NAME
    "#]]
    .assert_eq(&realm.plain(&said));

    let made = token(&["create", "ada", "--ttl", "7d"]);
    assert_eq!(made.stderr, "For ada to read realm main, for 7d:\n");
    let file = realm.folder().join("token");
    let secret = made.ok();
    fs::write(&file, &secret).unwrap();
    for kept in ["db.sqlite", "db.sqlite-wal"] {
        let kept = fs::read(data.join(kept)).unwrap();
        assert!(!kept.windows(30).any(|it| it == &secret.as_bytes()[6..36]), "kept in clear");
    }
    let said = token(&["create", "ada"]).fails(5);
    assert!(said.contains("next: registry token revoke ada"), "{said}");

    let ask = |words: &[&str]| {
        run(realm.operator().registry().args(words).env("SHOAL_TOKEN_FILE", &file))
    };
    assert!(ask(&["hosts", "--json"]).ok().contains("\"schema\""));
    ask(&["status"]).ok();
    // Publishing asks for no token: the signature is the authority.
    let group = ["group", "create", "eu", "--cache", "http://127.0.0.1:1", "--profile", "web:none"];
    realm.operator().sign(&group).ok();

    let listed: Value = serde_json::from_str(&token(&["list", "--json"]).ok()).unwrap();
    assert_eq!(
        (&listed["tokens"][0]["name"], &listed["tokens"][0]["state"]),
        (&"ada".into(), &"good".into())
    );
    assert!(!listed.to_string().contains(&secret[6..36]));
    token(&["revoke", "ada"]).ok();
    let said = ask(&["hosts"]).fails(2);
    assert!(
        said.contains("the read token is unknown, has ended, or is of another realm"),
        "{said}"
    );
    token(&["revoke", "ada"]).fails(1);
    assert_eq!(
        token(&["list"]).stderr,
        "There is no read token.\nNext: registry token create NAME\n"
    );
    assert!(!realm.log().contains(&secret[6..36]), "no secret in a log");
    let log = realm.operator().run(&["audit", "log", "--data", data.to_str().unwrap()]).ok();
    assert!(log.contains("read_token_made") && log.contains("read_token_revoked"), "{log}");
}
