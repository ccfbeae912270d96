//! Real Nix collects garbage, before, after and while we use the store.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use store::local::LocalStore;

use super::{Both, parse};

#[test]
fn the_collector_keeps_what_we_rooted_and_removes_the_rest() {
    let both = Both::new();
    let add = |name: &str, more: &[&str]| both.add(&both.file(name, name), more);
    let below = add("below", &[]);
    let permanent = add("permanent", &["--reference", &below]);
    let indirect = add("indirect", &[]);
    let unused = add("unused", &["--reference", &below]);
    let store = LocalStore::open(&both.root).unwrap();
    store.add_root("eu-prod/web", &parse(&permanent)).unwrap();
    let link = both.folder.path().join("result");
    symlink(&indirect, &link).unwrap();
    store.add_indirect_root(&link).unwrap();
    drop(store);

    both.nix.collect_garbage();
    let mut kept = [below, permanent, indirect];
    kept.sort();
    assert_eq!(both.nix.valid_paths(), kept);
    assert!(!both.nix.real(&unused).exists());
    both.nix.verify();

    let store = LocalStore::open(&both.root).unwrap();
    store.remove_root("eu-prod/web").unwrap();
    fs::remove_file(&link).unwrap();
    drop(store);
    both.nix.collect_garbage();
    assert!(both.nix.valid_paths().is_empty());
    let left: Vec<_> = fs::read_dir(both.root.join("nix/store")).unwrap().collect();
    assert_eq!(left.len(), 1, "only .links stays: {left:?}");
}

#[test]
fn the_collector_sweeps_what_a_crash_left_in_the_store() {
    let both = Both::new();
    let kept = both.add(&both.file("kept", "x"), &[]);
    let store = LocalStore::open(&both.root).unwrap();
    store.add_root("kept", &parse(&kept)).unwrap();
    drop(store);
    let name = "9a455acx720hx0zfwn0q7gn8y2jrvllr-half";
    let half = both.root.join("nix/store").join(name);
    fs::create_dir_all(half.join("a/b")).unwrap();
    fs::write(half.with_extension("lock"), "").unwrap();
    // A dead process's roots; no process has this number.
    fs::write(both.root.join("nix/var/nix/temproots/4194304"), format!("{kept}\0")).unwrap();
    both.nix.collect_garbage();
    assert_eq!(both.nix.valid_paths(), [kept]);
    assert!(!half.exists());
    assert_eq!(fs::read_dir(both.root.join("nix/var/nix/temproots")).unwrap().count(), 0);
}

#[test]
fn temp_roots_hold_as_long_as_the_store_is_open() {
    let both = Both::new();
    let paths: Vec<String> =
        ["a", "b"].iter().map(|name| both.add(&both.file(name, name), &[])).collect();
    let store = LocalStore::open(&both.root).unwrap();
    store.add_temp_roots(&[parse(&paths[0])].into()).unwrap();
    both.nix.collect_garbage();
    assert_eq!(both.nix.valid_paths(), paths[..1]);
    drop(store);
    both.nix.collect_garbage();
    assert!(both.nix.valid_paths().is_empty());
}

#[test]
fn what_is_unpacked_but_not_registered_is_not_collected() {
    let both = Both::new();
    let source = both.tree("tree");
    let elsewhere = Both::new();
    let path = parse(&elsewhere.add(&source, &[]));
    let from = LocalStore::open(&elsewhere.root).unwrap();
    let info = from.path_info(&path).unwrap().unwrap();

    let store = LocalStore::open(&both.root).unwrap();
    store.add_temp_roots(&[path.clone()].into()).unwrap();
    let locks = store.lock_paths(&[path.clone()].into(), Duration::ZERO).unwrap();
    let nar = tests::tool("nix-store").arg("--dump").arg(&source).output().unwrap().stdout;
    store.import(&info, &mut &nar[..], &locks).unwrap();
    both.nix.collect_garbage();
    assert!(locks.holds(&path) && both.nix.real(&path.to_string()).exists());
    assert!(both.nix.real(&format!("{path}.lock")).exists(), "nobody else can take the lock");
    store.register(&[info]).unwrap();
    drop(locks);
    both.nix.collect_garbage();
    both.nix.verify();
    assert_eq!(both.nix.valid_paths(), [path.to_string()]);
}

/// A collector that has read all roots and is held up at the first path that it would delete.
#[test]
fn a_collector_at_work_hears_of_new_roots() {
    let both = Both::new();
    let mut paths = Vec::new();
    for number in 0..20 {
        let name = format!("file-{number}");
        paths.push(both.add(&both.file(&name, &name), &[]));
    }
    let store = LocalStore::open(&both.root).unwrap();
    let state = both.root.join("nix/var/nix");
    let database = Connection::open(state.join("db/db.sqlite")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut collector: Command = both.nix.command("nix-store");
    let mut collector =
        collector.arg("--gc").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let gc_lock = fs::File::open(state.join("gc.lock")).unwrap();
    tests::eventually("the collector is at work", || {
        let free = flock(&gc_lock, FlockOperation::NonBlockingLockShared).is_ok();
        if free {
            flock(&gc_lock, FlockOperation::Unlock).unwrap();
        }
        (!free && state.join("gc-socket/socket").exists()).then_some(())
    });

    // The answer comes while the collector waits, unless this is the very path that it has begun
    // to delete; then it comes when that is done.
    let chosen = parse(&paths[7]);
    let (sender, receiver) = mpsc::channel();
    let asked = thread::spawn(move || {
        store.add_temp_roots(&[chosen.clone()].into()).unwrap();
        sender.send(()).unwrap();
        let valid = !store.valid(&[chosen].into()).unwrap().is_empty();
        (store, valid)
    });
    let at_once = receiver.recv_timeout(Duration::from_secs(10)).is_ok();
    database.execute_batch("ROLLBACK").unwrap();
    let (store, valid) = asked.join().unwrap();
    assert!(collector.wait().unwrap().success());
    assert!(valid || !at_once);
    let left = both.nix.valid_paths();
    assert_eq!(left, if valid { vec![paths[7].clone()] } else { Vec::new() });
    both.nix.verify();
    drop(store);
}

/// Adders of both kinds want the same paths while a collector runs over and over.
#[test]
fn adders_and_collectors_of_both_kinds_run_at_the_same_time() {
    let both = Both::new();
    let trees: Vec<_> = (0..3).map(|number| both.tree(&format!("tree-{number}"))).collect();
    let kept = both.add(&both.file("kept", "x"), &[]);
    LocalStore::open(&both.root).unwrap().add_root("kept", &parse(&kept)).unwrap();
    for _ in 0..4 {
        let mut running = Vec::new();
        for tree in trees.iter().chain(&trees) {
            let mut ours = tests::shoal("agent");
            ours.args(["store", "add", "--root"]).arg(&both.root).arg(tree);
            let mut theirs = both.nix.command("nix-store");
            theirs.arg("--add").arg(tree);
            running.push(ours);
            running.push(theirs);
        }
        let mut collector = both.nix.command("nix-store");
        collector.arg("--gc");
        running.insert(5, collector);
        let start = |command: &mut Command| {
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = running.iter_mut().map(start).collect();
        for (child, command) in children.into_iter().zip(&running) {
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command:?}: {said}");
        }
        both.nix.verify();
        both.agent(&["verify", "--check-contents"]).ok();
        assert!(both.nix.valid_paths().contains(&kept));
    }
}
