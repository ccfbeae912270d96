use expect_test::expect;

use super::super::test_realm::{REALM, TestRealm, day, key, ring};
use super::*;

fn rules() -> Rules {
    Rules::shoal(REALM)
}

#[test]
fn every_role_reads_back_as_it_was_written() {
    let realm = TestRealm::new();
    let root = Root::read(&realm.files["1.root.json"], &rules()).expect("a root");
    assert_eq!(root, realm.root);
    for (role, targets) in &realm.roles {
        let bytes = &realm.files[&format!("{}.{role}.json", realm.versions[role])];
        assert_eq!(&Targets::read(bytes, role, &rules()).expect("a role"), targets);
    }
    let snapshot = Snapshot::read(&realm.files["3.snapshot.json"], &rules()).expect("a snapshot");
    assert_eq!(snapshot, realm.snapshot_document());
    let timestamp = &realm.files["timestamp.json"];
    let read = Timestamp::read(timestamp, &rules()).expect("a timestamp");
    assert_eq!((read.snapshot, read.signed_at), (3, day(0).into()));
}

#[test]
fn the_bytes_of_a_timestamp_are_these() {
    let realm = TestRealm::new();
    let text = String::from_utf8(realm.files["timestamp.json"].clone()).expect("text");
    expect![[r#"{"signatures":[{"keyid":"8926834c6d87882703ec814eb5d60564703e0fd4f8090f04b71d87fdbe76fefd","sig":"0c90ba0667306c28f9608a578734fbc61b7084bbdec9a108f27c1e8a960275e2e347a3355be767d0e639deff354abd87db810d48595bc9b616e2da6baf419d0d"}],"signed":{"_type":"timestamp","expires":"2026-01-04T00:00:00Z","meta":{"snapshot.json":{"hashes":{"sha256":"f37a277286d5b82932dbfce8e7978c6e569ae6b84d196466bb15fee0722e45aa"},"length":468,"version":3}},"spec_version":"1.0.31","version":3,"x-realm":"main","x-signed-at":"2026-01-01T00:00:00Z"}}"#]]
    .assert_eq(&text);
}

#[test]
fn signatures_gather_from_several_people_and_replace_their_own() {
    let realm = TestRealm::new();
    let mut document = realm.root.document().expect("a root");
    document.sign(&key("root", 0));
    document.sign(&key("root", 0));
    assert_eq!(document.signers().len(), 1);

    let mut carried = Document::read(&document.to_bytes(), "root", &rules()).expect("a root");
    let (second, stranger) = (key("root", 1), key("root", 9));
    let signature = second.sign(carried.signed_bytes());
    assert!(carried.add_signature(&stranger.public(), &signature).is_err());
    carried.add_signature(&second.public(), &signature).expect("a signature");
    assert_eq!(carried.to_bytes(), realm.files["1.root.json"]);
}

#[test]
fn refuses_to_write_what_no_host_would_read() {
    let header =
        |realm: &str, version| Header { realm: realm.to_owned(), version, expires: day(1).into() };
    let refused = |targets: Targets| targets.document().expect_err("refused").to_string();
    refused(Targets::empty("shop", header(REALM, 0)));
    refused(Targets::empty("shop", header(REALM, 1 << 32)));
    refused(Targets::empty("shop", header("ma\nin", 1)));
    let mut outside = Targets::empty("shop", header(REALM, 1));
    outside.targets.insert("../x".to_owned(), Target::of(b""));
    refused(outside);
    let mut listing = Targets::empty("targets", header(REALM, 1));
    listing.targets.insert("eu/web".to_owned(), Target::of(b""));
    refused(listing);

    let mut twice = TestRealm::new().root;
    let one = key("root", 0).public();
    twice.root = Keyring { keys: vec![one, one], threshold: 2 };
    assert!(twice.document().is_err(), "one key is not two");
    for threshold in [0, 2] {
        twice.root = Keyring { keys: vec![one], threshold };
        assert!(twice.document().is_err(), "{threshold} of 1");
    }
}

#[test]
fn refuses_delegations_that_overlap_or_repeat() {
    let mut targets = TestRealm::new().roles["targets"].clone();
    let mut delegate = |role: &str, pattern: &str| {
        let patterns = vec![pattern.parse().expect("a pattern")];
        targets.delegate(Delegation { role: role.to_owned(), ring: ring(role, 0), patterns })
    };
    assert!(delegate("shop", "us/shop").is_err());
    assert!(delegate("other", "*/webshop").is_err());
    assert!(delegate("other", "us/_policy").is_err());
    delegate("other", "us/webshop").expect("apart");
}

#[test]
fn tells_a_signer_what_a_new_version_changes() {
    let mut realm = TestRealm::new();
    let old = realm.roles["targets"].clone();
    let mut new = old.clone();
    new.undelegate("media").expect("a delegation");
    let patterns = vec!["us/shop".parse().expect("a pattern")];
    new.delegate(Delegation { role: "other".to_owned(), ring: ring("other", 0), patterns })
        .expect("a delegation");
    new.delegations[0].ring = ring("shop", 1);
    expect![[r#"
        changes role `shop`: 1 of the keys ff359641, may publish `eu/web*` to role `shop`: 1 of the keys 9ef56dec, may publish `eu/web*`
        adds role `other`: 1 of the keys 7bd909e7, may publish `us/shop`
        removes role `media`: 1 of the keys 9e9ef820, may publish `*/video`"#]].assert_eq(&changes(Some(&old), &new).join("\n"));

    let old = realm.roles["shop"].clone();
    let new = realm.with_target("shop", "eu/webshop", b"other");
    assert_eq!(changes(Some(&old), &new), ["replaces target `eu/webshop`"]);
    assert_eq!(changes(None, &new), ["adds target `eu/webshop`"]);
}
