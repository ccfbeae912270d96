//! Our local store and real Nix's are the same store: each reads what the other wrote.

mod collector;
mod databases;
mod edges;
mod profiles;
mod signals;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use shared::nix::{Sha256, StorePath};
use tempfile::TempDir;
use tests::{Nix, Ran, run, scratch, shoal, tool};

/// A folder with one store in it, which both sides use.
pub(crate) struct Both {
    pub(crate) folder: TempDir,
    pub(crate) root: PathBuf,
    pub(crate) nix: Nix,
}

impl Both {
    pub(crate) fn new() -> Self {
        let folder = scratch();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let nix = Nix::at(&root);
        Self { folder, root, nix }
    }

    /// Runs `agent store …` on this store.
    #[track_caller]
    pub(crate) fn agent(&self, arguments: &[&str]) -> Ran {
        run(shoal("agent").arg("store").args(arguments).arg("--root").arg(&self.root))
    }

    /// Adds a tree by our command, and returns its path.
    #[track_caller]
    pub(crate) fn add(&self, source: &Path, more: &[&str]) -> String {
        let mut arguments = vec!["add", source.to_str().unwrap()];
        arguments.extend(more);
        self.agent(&arguments).ok().trim().to_owned()
    }

    /// Makes a file with some contents, and returns its path.
    pub(crate) fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// Makes a tree with one of everything that a store can hold.
    pub(crate) fn tree(&self, name: &str) -> PathBuf {
        let tree = self.folder.path().join(name);
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::create_dir(tree.join("empty")).unwrap();
        fs::write(tree.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(tree.join("bin/run"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::write(tree.join("large"), vec![b'x'; 300_000]).unwrap();
        fs::write(tree.join("name with spaces, ä and \\"), name).unwrap();
        symlink("../large", tree.join("bin/link")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        tree
    }
}

pub(crate) fn parse(path: &str) -> StorePath {
    StorePath::parse(path).unwrap()
}

#[test]
fn what_we_add_nix_finds_flawless() {
    let both = Both::new();
    let tree = both.tree("tree");
    let first = both.add(&tree, &[]);
    let second = both.add(&tree, &["--name", "other-1.0", "--reference", &first]);
    let third = both.add(&both.file("f", "x"), &["--reference", &first, "--reference", &second]);
    both.nix.verify();
    both.agent(&["verify", "--check-contents"]).ok();

    let mut all = [first.clone(), second.clone(), third.clone()];
    all.sort();
    assert_eq!(both.nix.valid_paths(), all);
    let query = |what, path: &str| both.nix.nix_store(&["-q", what, path]).ok();
    assert_eq!(query("--references", &second).trim(), first);
    let mut references = [first.clone(), second.clone()];
    references.sort();
    assert_eq!(query("--references", &third).lines().collect::<Vec<_>>(), references);
    assert_eq!(query("--requisites", &third).lines().count(), 3);
    assert_eq!(query("--hash", &first).trim(), both.nix.dump_hash(&first));

    let info = both.nix.nix(&["path-info", "--json", &second]).ok();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    let json = both.agent(&[
        "add",
        "--json",
        "--name",
        "other-1.0",
        "--reference",
        &first,
        tree.to_str().unwrap(),
    ]);
    let json: serde_json::Value = serde_json::from_str(&json.ok()).unwrap();
    assert_eq!(info[0]["path"], json["path"]);
    assert_eq!(info[0]["narSize"], json["nar_size"]);
    assert_eq!(info[0]["ca"], json["ca"]);
    assert_eq!(info[0]["references"], json["references"]);
    let hash = Sha256::parse(info[0]["narHash"].as_str().unwrap()).unwrap();
    assert_eq!(hash.to_string(), json["nar_hash"].as_str().unwrap());
}

#[test]
fn a_tree_gets_the_path_that_nix_store_add_gives_it() {
    let both = Both::new();
    let theirs = Both::new();
    for tree in [both.tree("tree"), both.file("file-1.0.txt", "contents"), {
        let link = both.folder.path().join("link");
        symlink("target", &link).unwrap();
        link
    }] {
        let path = theirs.nix.nix_store(&["--add", tree.to_str().unwrap()]).ok();
        assert_eq!(both.add(&tree, &[]), path.trim());
    }
    assert_eq!(both.nix.valid_paths(), theirs.nix.valid_paths());
}

#[test]
fn a_store_is_used_by_our_agent_and_by_nix_in_turn() {
    let both = Both::new();
    let mut previous: Option<String> = None;
    let mut all = Vec::new();
    for round in 0..6 {
        let source = both.tree(&format!("tree-{round}"));
        let path = if round % 2 == 0 {
            let reference = previous.iter().flat_map(|path| ["--reference", path]);
            both.add(&source, &reference.collect::<Vec<_>>())
        } else {
            both.nix.nix_store(&["--add", source.to_str().unwrap()]).ok().trim().to_owned()
        };
        both.nix.verify();
        both.agent(&["verify", "--check-contents"]).ok();
        all.push(path.clone());
        all.sort();
        assert_eq!(both.nix.valid_paths(), all);
        previous = Some(path);
    }
    // What Nix says of a path, we say too, and the other way round.
    let store = store::local::LocalStore::open(&both.root).unwrap();
    for path in &all {
        let info = store.path_info(&parse(path)).unwrap().unwrap();
        let query = |what| both.nix.nix_store(&["-q", what, path]).ok().trim().to_owned();
        assert_eq!(info.nar_hash.to_string(), query("--hash"));
        assert_eq!(info.nar_size.to_string(), query("--size"));
        let references: Vec<String> = info.references.iter().map(ToString::to_string).collect();
        assert_eq!(references.join("\n"), query("--references"));
    }
}

#[test]
fn a_tree_that_nix_optimised_stays_what_it_is() {
    let both = Both::new();
    let tree = both.tree("tree");
    let first = both.add(&tree, &[]);
    let second = both.add(&tree, &["--name", "again"]);
    both.nix.nix_store(&["--optimise"]).fails(0);
    both.nix.verify();
    both.agent(&["verify", "--check-contents"]).ok();
    let third = both.add(&tree, &["--name", "third", "--reference", &first]);
    both.nix.nix_store(&["--delete", &second]).fails(0);
    both.nix.nix_store(&["--delete", &first]).fails(1);
    both.nix.verify();
    assert_eq!(both.nix.valid_paths().len(), 2, "{third}");
}

#[test]
fn derivations_that_nix_made_are_copied_with_their_outputs() {
    let both = Both::new();
    let expression = "derivation { name = \"x\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; \
        outputs = [ \"out\" \"dev\" ]; args = [ (builtins.toFile \"script\" \"echo\") ]; }";
    let made = run(both.nix.command("nix-instantiate").args(["-E", expression])).ok();
    let derivation = made.trim().trim_end_matches("!out");
    let from = store::local::LocalStore::open(&both.root).unwrap();
    let closure = from.closure(&[parse(derivation)].into()).unwrap();
    assert_eq!(closure.len(), 2);

    let copy = Both::new();
    let to = store::local::LocalStore::open(&copy.root).unwrap();
    let paths = closure.keys().cloned().collect();
    to.add_temp_roots(&paths).unwrap();
    let locks = to.lock_paths(&paths, std::time::Duration::from_secs(9)).unwrap();
    for info in closure.values() {
        let nar = tool("nix-store").arg("--dump").arg(from.real_path(&info.path)).output().unwrap();
        to.import(info, &mut &nar.stdout[..], &locks).unwrap();
    }
    to.register(&closure.into_values().collect::<Vec<_>>()).unwrap();
    drop(locks);

    copy.nix.verify();
    let outputs = |root: &Path| {
        let database = rusqlite::Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap();
        let sql = "SELECT v.path || ' ' || o.id || ' ' || o.path FROM DerivationOutputs o
                   JOIN ValidPaths v ON v.id = drv ORDER BY 1";
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(outputs(&copy.root).len(), 2);
    assert_eq!(outputs(&copy.root), outputs(&both.root));
    let valid = copy.nix.nix_store(&["-q", "--outputs", derivation]).ok();
    assert_eq!(valid.lines().count(), 2);
}

#[test]
fn damage_is_found_as_nix_finds_it() {
    let both = Both::new();
    let good = both.add(&both.file("good", "x"), &[]);
    let changed = both.add(&both.file("changed", "x"), &[]);
    let gone = both.add(&both.file("gone", "x"), &["--reference", &good]);
    let real = both.nix.real(&changed);
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&real, "y").unwrap();
    fs::remove_file(both.nix.real(&gone)).unwrap();

    let quick = both.agent(&["verify"]);
    assert!(quick.stdout.contains(&gone) && !quick.stdout.contains(&changed), "{quick}");
    assert!(quick.fails(1).contains("bad_paths"));
    let whole = both.agent(&["verify", "--check-contents"]);
    assert_eq!(whole.stdout.lines().count(), 2, "{whole}");
    assert!(whole.stdout.contains(&gone) && whole.stdout.contains(&changed), "{whole}");
    let nix = both.nix.nix_store(&["--verify", "--check-contents"]);
    assert!(nix.stderr.contains(&changed) && nix.stderr.contains(&gone), "{nix}");
}

#[test]
fn archives_are_those_of_nix() {
    let both = Both::new();
    let tree = both.tree("tree");
    let dump = |command: &mut std::process::Command| command.output().unwrap().stdout;
    let ours = dump(shoal("agent").args(["store", "dump"]).arg(&tree));
    assert!(ours == dump(tool("nix-store").arg("--dump").arg(&tree)));

    let restored = both.folder.path().join("restored");
    let mut restore = shoal("agent");
    tests::process::run_with_input(restore.args(["store", "restore"]).arg(&restored), &ours).ok();
    assert!(ours == dump(tool("nix-store").arg("--dump").arg(&restored)));
    let again = tests::process::run_with_input(&mut restore, &ours);
    assert!(again.fails(3).contains("restored"), "what exists is not overwritten");

    let archive = both.folder.path().join("tree.nar");
    fs::write(&archive, &ours).unwrap();
    let archive = archive.to_str().unwrap();
    for flags in [&[][..], &["-R"], &["-l"], &["-R", "-l"]] {
        for path in ["/", "/bin", "/bin/link"] {
            let ls = |command: &mut std::process::Command| {
                run(command.args(flags).args([archive, path])).ok().trim_end().to_owned()
            };
            let theirs = ls(both.nix.command("nix").args(["nar", "ls"]));
            let ours = ls(shoal("agent").args(["store", "ls"]));
            if path != "/bin/link" {
                assert_eq!(ours, theirs, "{flags:?} {path}");
            }
            let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
            let theirs = json(ls(both.nix.command("nix").args(["nar", "ls", "--json"])));
            assert_eq!(json(ls(shoal("agent").args(["store", "ls", "--json"]))), theirs);
        }
    }
    run(shoal("agent").args(["store", "ls", archive, "/nope"])).fails(1);
}

#[test]
fn a_check_of_the_store_says_how_much_it_was() {
    let both = Both::new();
    let paths = ["a", "b"].map(|name| both.add(&both.tree(name), &[]));
    let told = both.agent(&["verify", "--check-contents", "--json"]).ok();
    let line: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!((&line["schema"], &line["event"]), (&"progress.v1".into(), &"checked".into()));
    assert_eq!((&line["paths"], &line["all_paths"]), (&2.into(), &2.into()), "{line}");
    let size: u64 = both
        .nix
        .nix_store(&["--query", "--size", &paths[0], &paths[1]])
        .ok()
        .lines()
        .map(|line| line.parse::<u64>().unwrap())
        .sum();
    assert_eq!((&line["bytes"], &line["all_bytes"]), (&size.into(), &size.into()), "{line}");
}
