//! `agent tuf-client`: the agent's trust code reads what others write, as their suite asks it to.

use std::{fs, path::Path, process::Command};

use tests::{Ran, Realm, Server, bin, fixture, python, run, scratch, shoal};

/// A client's two folders.
struct TufClient<'a> {
    folder: &'a Path,
}

impl TufClient<'_> {
    fn run(&self, arguments: &[&str]) -> Ran {
        let metadata = self.folder.join("metadata");
        run(shoal("agent").args(["tuf-client", "--metadata-dir"]).arg(metadata).args(arguments))
    }

    fn download(&self, metadata: &str, targets: &str, name: &str) -> Ran {
        let folder = self.folder.join("targets");
        let folder = folder.to_str().unwrap();
        self.run(&[
            "--metadata-url",
            metadata,
            "--target-name",
            name,
            "--target-base-url",
            targets,
            "--target-dir",
            folder,
            "download",
        ])
    }

    fn trusted(&self, role: &str) -> Vec<u8> {
        fs::read(self.folder.join("metadata").join(format!("{role}.json"))).unwrap()
    }
}

#[test]
fn reads_a_repository_of_python_tuf_with_keys_and_delegations_unlike_ours() {
    let folder = scratch();
    run(Command::new(python()).arg(fixture("tuf/write.py")).arg(folder.path())).ok();
    let client = TufClient { folder: folder.path() };
    let server = Server::new(folder.path());
    let at = |version: &str, kind: &str| format!("{}/{version}/{kind}/", server.url());
    let root = folder.path().join("1/metadata/1.root.json");
    client.run(&["init", root.to_str().unwrap()]).ok();

    client.run(&["--metadata-url", &at("1", "metadata"), "refresh"]).ok();
    for (role, file) in [
        ("root", "1.root.json"),
        ("timestamp", "timestamp.json"),
        ("snapshot", "1.snapshot.json"),
        ("targets", "1.targets.json"),
    ] {
        let served = fs::read(folder.path().join("1/metadata").join(file)).unwrap();
        assert_eq!(client.trusted(role), served, "{role}");
    }
    let file = folder.path().join("targets/dir%2Ffile.txt");
    for (version, content) in [("1", "first"), ("2", "second")] {
        let (metadata, targets) = (at(version, "metadata"), at(version, "targets"));
        client.download(&metadata, &targets, "dir/file.txt").ok();
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
        client.download(&metadata, &targets, "dir/none.txt").fails(1);
    }
    let before = client.trusted("timestamp");
    client.run(&["--metadata-url", &at("rollback", "metadata"), "refresh"]).fails(1);
    client.run(&["--metadata-url", &at("nowhere", "metadata"), "refresh"]).fails(1);
    assert_eq!(client.trusted("timestamp"), before);

    drop(server.take_requests());
    client.download(&at("2", "metadata"), &at("2", "targets"), "dir/file.txt").ok();
    let paths: Vec<_> =
        server.take_requests().iter().map(|request| request.path().to_owned()).collect();
    assert_eq!(paths, ["/2/metadata/2.root.json", "/2/metadata/timestamp.json"]);
}

#[test]
fn reads_our_own_registry_as_well() {
    let realm = Realm::new();
    let client = TufClient { folder: realm.folder() };
    let root = realm.files().join("metadata/1.root.json");
    client.run(&["init", root.to_str().unwrap()]).ok();
    let metadata = format!("{}/r/main/metadata", realm.url);
    client.run(&["--metadata-url", &metadata, "refresh"]).ok();
    assert_eq!(client.trusted("root"), fs::read(root).unwrap());
}

#[test]
fn trusts_no_root_that_its_own_keys_did_not_sign() {
    let folder = scratch();
    let client = TufClient { folder: folder.path() };
    let root = fs::read_to_string(fixture("attacks/start/metadata/1.root.json")).unwrap();
    let forged = folder.path().join("forged.json");
    fs::write(&forged, root.replace("2031", "2131")).unwrap();
    let said = client.run(&["init", forged.to_str().unwrap()]).fails(1);
    assert!(said.contains("is not signed by those who may"), "{said}");
    client.run(&["--metadata-url", "http://127.0.0.1:9/", "refresh"]).fails(1);
}

/// Tests that look at which files python-tuf itself opens.
const OF_ITS_INSIDES: [&str; 4] = [
    "test_intermediate_root_cache",
    "test_load_metadata_from_cache",
    "test_not_loading_targets_twice",
    // TAP 15, which is no part of TUF 1.0.
    "succinct",
];

#[test]
fn python_tufs_own_tests_of_its_client_pass_with_ours() {
    let place = python().ancestors().nth(2).unwrap().to_owned();
    let source = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
    let source = source.into_iter().find(|path| path.join("tests/test_updater_ng.py").exists());
    let source = source.unwrap_or_else(|| {
        panic!("there is no source of python-tuf in {}; tests/run puts it there", place.display())
    });
    let files = ["top_level_update", "delegation_graphs", "key_rotations", "fetch_target"];
    let files = files.map(|name| format!("tests/test_updater_{name}.py"));
    let mut pytest = Command::new(python());
    pytest.args(["-m", "pytest", "-q", "-p", "agent_updater", "-p", "no:cacheprovider"]);
    pytest.args(["-k", &format!("not ({})", OF_ITS_INSIDES.join(" or "))]).args(files);
    pytest.arg("tests/test_updater_consistent_snapshot.py").current_dir(source);
    pytest.env("PYTHONPATH", format!("{}:.", fixture("tuf").display()));
    pytest.env("PYTHONDONTWRITEBYTECODE", "1").env("AGENT", bin("agent"));
    let said = run(&mut pytest).ok();
    let passed = said.lines().last().and_then(|line| line.split(" passed").next()).unwrap();
    assert!(passed.parse::<u32>().is_ok_and(|passed| passed >= 40), "{said}");
}
