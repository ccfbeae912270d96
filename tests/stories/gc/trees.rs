//! Whatever lies in a store directory, and whatever it is mounted on.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use serde_json::Value;
use tests::{run, tool};

use super::{gc, names, script};
use crate::local_store::Both;

/// Returns the disk space below a folder that a name for it in this folder is the last for.
fn disk(folder: &Path) -> u64 {
    let printed = run(tool("du").args(["--summarize", "--block-size=1"]).arg(folder)).ok();
    printed.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_is_freed_is_counted_once_however_many_names_it_had() {
    let both = Both::new();
    for name in ["one", "two", "three"] {
        both.add(&both.tree(name), &[]);
    }
    both.nix.nix_store(&["--optimise"]).fails(0);
    // And links that are nobody's doing, within a path and between paths.
    let store = both.root.join("nix/store");
    let leftover = store.join(format!("{}-leftover", "9".repeat(32)));
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("a"), vec![b'y'; 200_000]).unwrap();
    fs::hard_link(leftover.join("a"), leftover.join("b")).unwrap();
    fs::hard_link(leftover.join("a"), both.folder.path().join("lives on")).unwrap();
    fs::write(leftover.join("c"), vec![b'z'; 100_000]).unwrap();
    fs::hard_link(leftover.join("c"), leftover.join("d")).unwrap();

    let before = disk(&store);
    let lives_on = fs::metadata(both.folder.path().join("lives on")).unwrap().blocks() * 512;
    let freed: Value = serde_json::from_str(&gc(&both, &["--json"]).ok()).unwrap();
    assert!(names(&both.root).is_empty());
    let expected = before - disk(&store) - lives_on;
    assert_eq!(freed["freed"].as_u64(), Some(expected), "{freed}");
}

#[test]
fn enough_is_what_is_really_free_in_an_optimised_store() {
    let both = Both::new();
    // Each file twice, in two paths that die: only the second death frees it.
    for number in 0..8_u8 {
        for copy in ["a", "b"] {
            let name = format!("{copy}{number}");
            let file = both.folder.path().join(&name);
            fs::write(&file, vec![number; 100_000]).unwrap();
            run(both.nix.command("nix-store").arg("--add").arg(&file)).ok();
        }
    }
    both.nix.nix_store(&["--optimise"]).fails(0);
    let store = both.root.join("nix/store");
    let before = disk(&store);
    let told: Value =
        serde_json::from_str(&gc(&both, &["--max-freed", "250K", "--json"]).ok()).unwrap();
    assert_eq!(told["enough"], true, "{told}");
    assert_eq!(told["freed"].as_u64(), Some(before - disk(&store)), "{told}");
    assert!(told["freed"].as_u64().unwrap() >= 250 * 1024, "{told}");
    assert!(both.nix.valid_paths().len() >= 4, "not everything had to go");
    both.nix.verify();
}

/// Root without the right to overlook modes: what every user is in their own store.
const PLAIN: &str = "setpriv --bounding-set=-all --inh-caps=-all";

#[test]
fn modes_depth_and_owners_keep_nothing_that_may_be_deleted() {
    let both = Both::new();
    let script = format!(
        r#"
        {PLAIN} "$AGENT" store add --root "$ROOT" "$HERE/x" > /dev/null
        store="$ROOT/nix/store"; cd "$store"
        locked=99999999999999999999999999999999-locked
        mkdir -p $locked/a/b; echo > $locked/a/b/file; ln -s /etc $locked/a/link
        deep=88888888888888888888888888888888-deep
        mkdir $deep; cd $deep
        for level in $(seq 300); do mkdir -p d/d/d; cd d/d/d; done; echo > leaf
        cd "$store"
        chmod 000 $locked/a/b/file $locked/a/b $locked/a $locked $deep/d/d $deep
        {PLAIN} "$AGENT" gc --root "$ROOT"
        echo "left: $(ls "$store")"; test -e /etc/passwd
        "#
    );
    both.file("x", "x");
    let printed = self::script(&both, &script, &[]);
    assert!(printed.stderr.contains("1 store path, 2 leftovers deleted, "), "{printed}");
    assert!(printed.ok().ends_with("left: \n"));
}

#[test]
fn a_store_on_a_read_only_mount_loses_nothing_or_is_mounted_writable_for_us_alone() {
    let both = Both::new();
    both.file("x", "x");
    let script = format!(
        r#"
        "$AGENT" store add --root "$ROOT" "$HERE/x" > /dev/null
        mount --bind "$ROOT/nix/store" "$ROOT/nix/store"
        mount -o remount,bind,ro "$ROOT/nix/store"
        code=0; {PLAIN} "$AGENT" gc --root "$ROOT" || code=$?
        echo "plain: $code $(ls "$ROOT/nix/store")"
        nix-store --store "local?root=$ROOT" --verify --check-contents
        "$AGENT" gc --root "$ROOT"
        echo "root: $? $(ls "$ROOT/nix/store")"
        ! touch "$ROOT/nix/store/other" 2> /dev/null && echo "still read-only"
        "#
    );
    let printed = self::script(&both, &script, &[]);
    assert!(printed.stderr.contains("1 store path deleted"), "{printed}");
    let text = printed.to_string();
    let printed = printed.ok();
    assert!(printed.contains("plain: 3 ") && printed.contains("-x\n"), "{text}");
    assert!(printed.contains("root: 0 \nstill read-only"), "{text}");
}

#[test]
fn a_folder_that_nobody_may_change_is_told_and_goes_once_it_may() {
    let both = Both::new();
    let path = both.add(&both.tree("tree"), &[]);
    let inner = both.nix.real(&path).join("bin");
    let script = r#"
        # Not in a variable of the environment, where it would be a root.
        set -- "$ROOT"/nix/store/*-tree/bin
        mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
        code=0; "$AGENT" gc --root "$ROOT" || code=$?
        echo "code: $code"
        nix-store --store "local?root=$ROOT" --verify --check-contents
    "#;
    let ran = self::script(&both, script, &[]);
    assert!(ran.stderr.contains("error[gc_stuck]"), "{ran}");
    assert!(ran.ok().contains("code: 3"));
    assert!(both.nix.valid_paths().is_empty() && names(&both.root).len() == 1);
    fs::set_permissions(&inner, Permissions::from_mode(0o000)).unwrap();
    gc(&both, &[]).ok();
    assert!(names(&both.root).is_empty());
}
