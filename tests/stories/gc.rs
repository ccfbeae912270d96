//! Our garbage collector and real Nix's: the same store, the same roots, the same dead paths.

mod beside;
mod crashes;
mod generations;
mod random;
mod roots;
mod trees;

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use tests::{Ran, bin, run, shoal, tool};

use crate::local_store::Both;

/// Prepares `agent gc` on this store.
fn command(both: &Both, arguments: &[&str]) -> Command {
    let mut command = shoal("agent");
    command.args(["gc", "--root"]).arg(&both.root).args(arguments);
    command
}

#[track_caller]
fn gc(both: &Both, arguments: &[&str]) -> Ran {
    run(&mut command(both, arguments))
}

/// Runs a shell script as root of a mount namespace; it knows `$AGENT`, `$ROOT`, `$HERE` and Nix.
#[track_caller]
fn script(both: &Both, script: &str, more: &[(&str, &str)]) -> Ran {
    let nix = both.nix.command("nix-store");
    let mut command = tool("unshare");
    command.envs(nix.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.env("AGENT", bin("agent")).env("ROOT", &both.root).env("HERE", both.folder.path());
    command.envs(more.iter().copied());
    run(command.args(["--user", "--map-root-user", "--mount", "sh", "-euc", script]))
}

/// Returns the names in the store directory, without that of the links.
pub(crate) fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("nix/store")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != ".links").collect();
    names.sort();
    names
}

#[test]
fn it_says_what_it_freed_and_stops_when_that_is_enough() {
    let both = Both::new();
    for number in 0..100 {
        fs::write(both.folder.path().join(format!("f{number}")), vec![b'x'; 8192 + number])
            .unwrap();
    }
    let files: Vec<_> = (0..100).map(|n| both.folder.path().join(format!("f{n}"))).collect();
    run(both.nix.command("nix-store").arg("--add").args(&files)).ok();
    fs::write(both.root.join("nix/store/.unknown"), "x").unwrap();

    let listed = gc(&both, &["--dry-run"]);
    assert!(listed.stderr.contains("100 store paths, 1 leftover would be deleted, "), "{listed}");
    assert_eq!(listed.ok().lines().count(), 101);
    assert_eq!(both.nix.valid_paths().len(), 100);

    // The leftover takes a block, each path three; the estimate of a path is its archive.
    let some = gc(&both, &["--max-freed", "64K", "--json"]).ok();
    let some: Value = serde_json::from_str(&some).unwrap();
    assert_eq!((&some["enough"], &some["leftovers"]), (&true.into(), &1.into()), "{some}");
    let (freed, paths) = (some["freed"].as_u64().unwrap(), some["paths"].as_u64().unwrap());
    assert!((65_536..90_000).contains(&freed) && (4..9).contains(&paths), "{some}");
    assert_eq!(both.nix.valid_paths().len() as u64, 100 - paths);
    both.nix.verify();
    assert!(gc(&both, &["--max-freed", "0"]).fails(0).contains("0 store paths deleted, 0 B freed"));

    let rest = gc(&both, &["-v"]).fails(0);
    assert!(rest.contains(&format!("{} store paths deleted, ", 100 - paths)), "{rest}");
    assert!(both.nix.valid_paths().is_empty() && names(&both.root).is_empty());
    gc(&both, &["--max-freed", "much"]).fails(2);
    gc(&both, &["--keep", "1"]).fails(2);
}

#[test]
fn what_an_optimised_store_shares_is_freed_with_its_last_path() {
    let both = Both::new();
    let tree = both.tree("tree");
    let first = both.add(&tree, &[]);
    both.add(&tree, &["--name", "again"]);
    both.nix.nix_store(&["--optimise"]).fails(0);
    let links = || fs::read_dir(both.root.join("nix/store/.links")).unwrap().count();
    assert!(links() > 0);
    store::local::LocalStore::open(&both.root)
        .unwrap()
        .add_root("kept", &crate::local_store::parse(&first))
        .unwrap();
    let before = links();
    gc(&both, &[]).ok();
    assert_eq!((both.nix.valid_paths(), links()), (vec![first], before));
    both.nix.verify();
    fs::remove_file(both.root.join("nix/var/nix/gcroots/shoal/kept")).unwrap();
    let freed: Value = serde_json::from_str(&gc(&both, &["--json"]).ok()).unwrap();
    assert!(freed["freed"].as_u64().unwrap() > 300_000, "{freed}");
    assert_eq!((names(&both.root), links()), (Vec::new(), 0));
}

#[test]
fn a_full_disk_is_emptied() {
    let both = Both::new();
    let large = both.folder.path().join("large");
    fs::write(&large, vec![b'x'; 4 << 20]).unwrap();
    let script = r#"
        mount -t tmpfs -o size=24m none "$ROOT"
        "$AGENT" store add --root "$ROOT" "$HERE/large" > /dev/null
        ln -s "$("$AGENT" store add --root "$ROOT" --name kept "$HERE/large")" \
            "$ROOT/nix/var/nix/gcroots/kept"
        head -c 64M /dev/zero > "$ROOT/filler" 2> /dev/null || true
        if "$AGENT" store add --root "$ROOT" --name no "$HERE/large" 2> /dev/null; then exit 1; fi
        "$AGENT" gc --root "$ROOT"
        nix-store --store "local?root=$ROOT" --verify --check-contents
        ls -s "$ROOT/nix/var/nix/db/reserved"
        ls "$ROOT/nix/store"
    "#;
    let ran = self::script(&both, script, &[]);
    assert!(ran.stderr.contains("1 store path deleted"), "{ran}");
    let printed = ran.ok();
    assert!(printed.contains("8192 "), "the space for the next collector is back: {printed}");
    assert!(printed.contains("-kept") && !printed.contains("-large"), "{printed}");
}

/// The database cannot grow, so nothing may become invalid; a little room is enough for all.
#[test]
fn a_disk_without_room_for_the_database_loses_nothing_and_a_little_room_is_enough() {
    let both = Both::new();
    for number in 0..200 {
        fs::write(both.folder.path().join(format!("f{number}")), number.to_string()).unwrap();
    }
    let script = r#"
        mount -t tmpfs -o size=24m none "$ROOT"
        store="local?root=$ROOT"
        nix-store --store "$store" --add "$HERE"/f* > /dev/null
        fill() { head -c 64M /dev/zero >> "$ROOT/filler" 2> /dev/null || true; }
        fill; rm -f "$ROOT/nix/var/nix/db/reserved"; fill
        gc() { code=0; "$AGENT" gc --root "$ROOT" || code=$?; echo "$code"; }
        echo "full: $(gc) $(nix --extra-experimental-features nix-command \
            --store "$store" path-info --all 2> /dev/null | wc -l)"
        truncate -s -128K "$ROOT/filler"
        echo "a little: $(gc)"
        rm "$ROOT/filler"
        nix-store --store "$store" --verify --check-contents
        echo "left: $(ls "$ROOT/nix/store")"
    "#;
    let ran = self::script(&both, script, &[]);
    assert!(ran.stderr.contains("error[disk_full]") && ran.stderr.contains("by hand"), "{ran}");
    assert!(ran.stderr.contains("200 store paths deleted"), "{ran}");
    let told = ran.ok();
    assert!(told.contains("full: 3") && told.contains("a little: 0"), "{told}");
    assert!(told.ends_with("left: \n"), "{told}");
}

#[test]
fn what_cannot_be_deleted_is_told_and_stops_nothing_else() {
    let both = Both::new();
    both.add(&both.tree("tree"), &[]);
    both.add(&both.file("other", "x"), &[]);
    let script = r#"
        mount -t tmpfs none "$(echo "$ROOT"/nix/store/*-tree/bin)"
        code=0; "$AGENT" gc --root "$ROOT" || code=$?
        echo "first: $code"; ls "$ROOT/nix/store"
        code=0; "$AGENT" gc --root "$ROOT" 2> /dev/null || code=$?
        echo "second: $code"
        nix-store --store "local?root=$ROOT" --verify --check-contents
        umount "$ROOT"/nix/store/*-tree/bin
        "$AGENT" gc --root "$ROOT"
        echo "left: $(ls "$ROOT/nix/store")"
    "#;
    let ran = self::script(&both, script, &[]);
    assert!(
        ran.stderr.contains("warning: cannot delete") && ran.stderr.contains("gc_stuck"),
        "{ran}"
    );
    let printed = ran.ok();
    assert!(printed.contains("first: 3") && printed.contains("second: 3"), "{printed}");
    assert!(!printed.contains("-other") && printed.contains("-tree"), "{printed}");
    assert!(printed.ends_with("left: \n"), "{printed}");
}
