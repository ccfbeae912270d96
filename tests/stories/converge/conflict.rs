//! Invariant 11: a path enters the store only if it vouches for itself, or a builder signed it
//! that is trusted here, and only with the hash that the manifest pins.

use std::{fs, path::Path, time::Duration};

use shared::nix::{PathInfo, Sha256, StorePath, nar::Writer};
use store::{archive, local::LocalStore};
use tests::{Builder, Host, Realm, fixture};

use super::{ACTIVATE, active, profile, publish_path, team};

/// The builder that the policy trusts.
fn builder_key(kind: &str) -> std::path::PathBuf {
    fixture(&format!("nix/keys/cache.test-1.{kind}"))
}

/// Makes `path` valid in the builder's store with bytes that are not its own.
fn forge(builder: &Builder, path: &str, text: &str) {
    let file = builder.root().with_file_name("forged");
    fs::write(&file, text).unwrap();
    let mut writer = Writer::new(Vec::new());
    archive::dump(&file, &mut writer).unwrap();
    let nar = writer.finish().unwrap();
    let path = StorePath::parse(path).unwrap();
    let info = PathInfo {
        path: path.clone(),
        nar_hash: Sha256::of(&nar),
        nar_size: nar.len() as u64,
        references: [].into(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    };
    let store = LocalStore::open(&builder.root()).unwrap();
    store.add_temp_roots(&[path.clone()].into()).unwrap();
    let locks = store.lock_paths(&[path].into(), Duration::from_secs(60)).unwrap();
    store.import(&info, &mut nar.as_slice(), &locks).unwrap();
    store.register(&[info]).unwrap();
}

/// A realm with two teams; `web` refers to a library, whose path `db` fills with its own bytes,
/// signed with the builder key that `db` got hold of.
fn realm_with_forgery(honest: &Builder, evil: &Builder) -> (Realm, String) {
    let realm = Realm::new();
    let key = fs::read_to_string(builder_key("public")).unwrap();
    let (web, db) = (profile("web"), profile("db"));
    let mut words = vec!["group", "create", "eu", "--builder", key.trim()];
    let caches = [honest.cache_url(), evil.cache_url()];
    words.extend(["--cache", &caches[0], "--cache", &caches[1]]);
    words.extend(["--profile", &web, "--profile", &db]);
    realm.operator().sign(&words).ok();

    let library = honest.add("library", &[("lib/library", "honest")], &[]);
    let service = honest.service("web", ACTIVATE, &[&library]);
    honest.push(&service).ok();
    publish_path(&team(&realm, "web"), honest, "web", &service).ok();

    forge(evil, &library, "evil");
    let service = evil.service("db", ACTIVATE, &[&library]);
    let secret = builder_key("secret");
    evil.push_with(&service, &["--key-file", secret.to_str().unwrap()]).ok();
    publish_path(&team(&realm, "db"), evil, "db", &service).ok();
    (realm, library)
}

fn library_says(host: &Host, library: &str) -> String {
    let path = host.nix().real(library);
    let inside = path.join("lib/library");
    fs::read_to_string(if Path::exists(&inside) { inside } else { path }).unwrap()
}

#[test]
fn a_team_cannot_put_its_bytes_under_the_path_of_another() {
    let (honest, evil) = (Builder::new(), Builder::new());
    let (realm, library) = realm_with_forgery(&honest, &evil);

    // Where the path is there already, not even the builder's key helps.
    let both = Host::enrol(&realm, "eu", "both");
    both.configure("[profiles]\nallow = [\"web\"]\n");
    both.run(&["once"]).ok();
    both.configure("[profiles]\nallow = [\"web\", \"db\"]\n");
    both.run(&["once"]).fails(1);
    assert_eq!(both.state("web"), "converged");
    assert_eq!(both.state("db"), "waiting conflict");
    assert_eq!(both.current("db"), None);
    assert!(library_says(&both, &library).starts_with("honest"));
    both.nix().verify();

    // Without a key that this host trusts, nothing enters.
    let wary = Host::enrol(&realm, "eu", "wary");
    wary.configure("[profiles]\nallow = [\"db\"]\n[trust]\nbuilders = []\n");
    wary.run(&["once"]);
    assert_eq!(wary.state("db"), "waiting refused_bytes");
    assert_eq!(wary.current("db"), None);
    assert!(!fs::exists(wary.nix().real(&library)).unwrap());
    assert!(!wary.nix().valid_paths().contains(&library));

    // Whoever holds a trusted builder key is believed: the other team is refused from then on.
    let trusting = Host::enrol(&realm, "eu", "trusting");
    trusting.configure("[profiles]\nallow = [\"db\"]\n");
    trusting.run(&["once"]).ok();
    assert_eq!(active(&trusting, "db").as_deref(), Some("1"));
    assert!(library_says(&trusting, &library).starts_with("evil"));
    trusting.configure("[profiles]\nallow = [\"web\", \"db\"]\n");
    trusting.run(&["once"]).fails(1);
    assert_eq!(trusting.state("web"), "waiting conflict");
    trusting.nix().verify();
}
