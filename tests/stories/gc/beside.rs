//! Both collectors, and those who add meanwhile.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use store::local::LocalStore;
use tests::{Service, run, shoal};

use crate::local_store::{Both, parse};

use super::{command, gc};

/// Paths that are dead; more than become invalid in one transaction.
const PATHS: usize = 80;

/// Fills a store with dead paths by real Nix; returns the files and their paths, in that order.
fn fill(both: &Both) -> Vec<(PathBuf, String)> {
    let file = |number| {
        let name = format!("file-{number}");
        both.file(&name, &name)
    };
    let files: Vec<_> = (0..PATHS).map(file).collect();
    let added = run(both.nix.command("nix-store").arg("--add").args(&files)).ok();
    let mut paths: Vec<_> = files.into_iter().zip(added.lines().map(str::to_owned)).collect();
    paths.sort_by(|one, other| one.1.cmp(&other.1));
    paths
}

/// Keeps every writer out of the database until it is dropped.
fn hold_up(both: &Both) -> Connection {
    let database = Connection::open(both.root.join("nix/var/nix/db/db.sqlite")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    database
}

/// Waits until somebody collects in this store.
fn collected(both: &Both) {
    let state = both.root.join("nix/var/nix");
    let path = state.join("gc.lock");
    tests::eventually("a collector is at work", || {
        let lock = File::options().write(true).create(true).truncate(false).open(&path).unwrap();
        let busy = flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
        (busy && state.join("gc-socket/socket").exists()).then_some(())
    });
}

#[test]
fn one_collector_waits_for_the_other_whichever_comes_first() {
    let both = Both::new();
    for ours_first in [true, false] {
        fill(&both);
        let (mut ours, mut theirs) = (command(&both, &[]), both.nix.command("nix-store"));
        theirs.arg("--gc");
        let held = hold_up(&both);
        let start = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let (mut first, mut second) = if ours_first {
            let first = start(&mut ours);
            collected(&both);
            (first, Service::start(&mut theirs, "waiting for the big garbage collector lock"))
        } else {
            let first = start(&mut theirs);
            collected(&both);
            (first, Service::start(&mut ours, "waiting for another garbage collector"))
        };
        assert!(first.try_wait().unwrap().is_none() && second.is_running());
        drop(held);
        assert!(first.wait().unwrap().success());
        tests::eventually("the second one ends", || (!second.is_running()).then_some(()));
        assert!(both.nix.valid_paths().is_empty() && super::names(&both.root).is_empty());
        both.nix.verify();
    }
}

/// Our collector has claimed its first paths and is held up before it makes them invalid.
#[test]
fn whoever_adds_while_we_collect_gets_a_whole_path() {
    let both = Both::new();
    let dead = fill(&both);
    let held = hold_up(&both);
    let mut collector = command(&both, &[]).stderr(Stdio::null()).spawn().unwrap();
    collected(&both);
    let add = |(file, _): &(PathBuf, String)| {
        let mut add = both.nix.command("nix-store");
        add.arg("--add").arg(file);
        add
    };
    let ours = |(file, _): &(PathBuf, String)| {
        let mut add = shoal("agent");
        add.args(["store", "add", "--root"]).arg(&both.root).arg(file);
        add
    };

    // The last ones are not being deleted yet: both kinds of adders go on at once, and hold a path
    // that was there all the time. Real Nix speaks to our socket.
    let (last, before_last) = (&dead[PATHS - 1], &dead[PATHS - 2]);
    assert_eq!(run(&mut add(last)).ok().trim(), last.1);
    assert_eq!(run(&mut ours(before_last)).ok().trim(), before_last.1);
    // The first ones are: they wait, and add them anew.
    let mut waiting: Vec<_> = [add(&dead[0]), ours(&dead[1])]
        .iter_mut()
        .map(|adder| adder.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let store = LocalStore::open(&both.root).unwrap();
    store.add_temp_roots(&[parse(&dead[PATHS - 3].1)].into()).unwrap();
    for adder in &mut waiting {
        assert!(adder.try_wait().unwrap().is_none());
    }
    drop(held);
    for adder in waiting {
        let output = adder.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(collector.wait().unwrap().success());
    let left = both.nix.valid_paths();
    for number in [0, 1, PATHS - 3, PATHS - 2, PATHS - 1] {
        assert!(left.contains(&dead[number].1), "{number} of {left:?}");
    }
    assert_eq!(left.len(), 5);
    both.nix.verify();
}

/// Adders of both kinds want the same paths while both collectors run over and over.
#[test]
fn adders_and_both_collectors_run_at_the_same_time() {
    let both = Both::new();
    let trees: Vec<_> = (0..3).map(|number| both.tree(&format!("tree-{number}"))).collect();
    let kept = both.add(&both.file("kept", "x"), &[]);
    LocalStore::open(&both.root).unwrap().add_root("kept", &parse(&kept)).unwrap();
    for _ in 0..if tests::long() { 60 } else { 3 } {
        let mut running = Vec::new();
        for tree in &trees {
            let mut ours = shoal("agent");
            ours.args(["store", "add", "--root"]).arg(&both.root).arg(tree);
            let mut theirs = both.nix.command("nix-store");
            theirs.arg("--add").arg(tree);
            running.extend([ours, theirs, command(&both, &[])]);
        }
        let mut collector = both.nix.command("nix-store");
        collector.arg("--gc");
        running.insert(4, collector);
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
        assert!(both.nix.valid_paths().contains(&kept));
    }
    gc(&both, &[]).ok();
    assert_eq!(both.nix.valid_paths(), [kept]);
}
