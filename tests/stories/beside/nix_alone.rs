//! What real Nix does to itself when two of its processes meet: the only faults that the rounds
//! overlook, shown here with nobody else in the store.
//!
//! `deleted` has one more.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rusqlite::Connection;
use store::lock::LockFile;
use tests::{eventually, run, shoal, tool};

use super::held_up::HeldUp;
use crate::local_store::Both;

/// Returns a process that wants to add `file` and stops once it has a temporary root, and what it
/// waits for.
fn adding(both: &Both, file: &Path, add: &mut Command) -> (Child, LockFile, String) {
    // Only to learn its path.
    let path = Both::new().add(file, &[]);
    let lock = both.nix.real(&format!("{path}.lock"));
    let lock = LockFile::acquire(&lock, Duration::ZERO).unwrap();
    let child = add.arg(file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let temp_roots = both.root.join(format!("nix/var/nix/temproots/{}", child.id()));
    eventually("it has a temporary root", || {
        fs::read_to_string(&temp_roots).is_ok_and(|roots| roots.contains(&path)).then_some(())
    });
    (child, lock, path)
}

/// Starts a collector of Nix and holds it up when it has read the permanent roots, but not yet the
/// temporary ones.
fn collector_between_roots(both: &Both) -> HeldUp {
    // Read after all in `gcroots`; Nix has to speak of it.
    let nothing = "/nix/store/9a455acx720hx0zfwn0q7gn8y2jrvllr-nothing";
    symlink(nothing, both.root.join("nix/var/nix/profiles/invalid")).unwrap();
    let mut collector = both.nix.command("nix-store");
    HeldUp::start(collector.arg("--gc"), "finding garbage collector roots...\n")
}

#[test]
fn nix_collects_what_nix_added_and_rooted_while_its_collector_looked_for_roots() {
    let both = Both::new();
    both.nix.verify();
    let file = both.file("a", "a");
    let mut add = both.nix.command("nix-store");
    let (mut adder, lock, path) = adding(&both, &file, add.arg("--add"));
    let collector = collector_between_roots(&both);
    symlink(&path, both.root.join("nix/var/nix/gcroots/web")).unwrap();
    drop(lock);
    assert!(adder.wait().unwrap().success());
    assert_eq!(both.nix.valid_paths(), [&*path]);
    let said = collector.go_on();
    assert!(said.contains(&format!("deleting '{path}'")), "{said}");
    assert!(both.nix.valid_paths().is_empty(), "its root is there, and it is gone");
}

/// The same with our agent: it does not leave before the collector knows.
#[test]
fn nix_keeps_what_we_added_and_rooted_while_its_collector_looked_for_roots() {
    let both = Both::new();
    both.nix.verify();
    let file = both.file("a", "a");
    let mut add = shoal("agent");
    add.args(["store", "add", "--root"]).arg(&both.root);
    let (mut adder, lock, path) = adding(&both, &file, &mut add);
    let collector = collector_between_roots(&both);
    symlink(&path, both.root.join("nix/var/nix/gcroots/web")).unwrap();
    drop(lock);
    assert!(adder.wait().unwrap().success());
    let said = collector.go_on();
    assert!(!said.contains(&format!("deleting '{path}'")), "{said}");
    assert_eq!(both.nix.valid_paths(), [&*path]);
    both.nix.verify();
}

#[test]
fn nix_forgets_what_nix_adds_while_it_verifies() {
    let both = Both::new();
    both.nix.verify();
    let mut verify = both.nix.command("nix-store");
    let verify = HeldUp::start(verify.arg("--verify"), "reading the Nix store...\n");
    let mut add = both.nix.command("nix-store");
    let path = run(add.arg("--add").arg(both.file("a", "a"))).ok();
    assert_eq!(both.nix.valid_paths(), [path.trim()]);
    let said = verify.go_on();
    assert!(said.contains(&format!("path '{}' disappeared", path.trim())), "{said}");
    assert!(both.nix.valid_paths().is_empty());
}

#[test]
fn nix_says_that_its_database_is_busy_when_nix_registers_at_the_same_time() {
    let both = Both::new();
    both.nix.verify();
    let database = Connection::open(both.root.join("nix/var/nix/db/db.sqlite")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let adders: Vec<Child> = ["a", "b"]
        .map(|name| {
            let mut add = both.nix.command("nix-store");
            add.arg("--add").arg(both.file(name, name)).stdout(Stdio::null());
            add.stderr(Stdio::piped()).spawn().unwrap()
        })
        .into();
    eventually("both wait to write", || {
        // In `nanosleep` or `clock_nanosleep`, as SQLite waits.
        let asleep = |adder: &Child| {
            let call = fs::read_to_string(format!("/proc/{}/syscall", adder.id())).unwrap();
            call.starts_with("35 ") || call.starts_with("230 ")
        };
        adders.iter().all(asleep).then_some(())
    });
    database.execute_batch("ROLLBACK").unwrap();
    let said: String = adders
        .into_iter()
        .map(|adder| {
            let output = adder.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stderr).unwrap()
        })
        .collect();
    let is_busy = |line: &str| line.starts_with("warning: ") && line.ends_with(" is busy");
    assert!(said.lines().all(is_busy), "{said}");
    // 2.34 does not say it.
    if run(tool("nix-store").arg("--version")).ok().contains(" 2.8.") {
        assert!(!said.is_empty());
    }
    assert_eq!(both.nix.valid_paths().len(), 2);
}
