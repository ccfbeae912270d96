//! Where machines differ or fail: full disks, read-only mounts, plain users, kill -9.

use std::{fs, path::Path, process::Stdio};

use tests::{Ran, bin, run, tool};

use super::Both;

/// As root of a user and mount namespace of its own.
const ROOT: [&str; 3] = ["--user", "--map-root-user", "--mount"];
/// As somebody who is not root.
const PLAIN: [&str; 3] = ["--user", "--map-user=1000", "--map-group=1000"];

/// Runs a shell script in a namespace; it knows `$AGENT`, `$ROOT`, `$NIX` and its arguments.
#[track_caller]
fn script(both: &Both, namespace: [&str; 3], script: &str, arguments: &[&Path]) -> Ran {
    let nix = both.nix.command("nix-store");
    let mut command = tool("unshare");
    command.envs(nix.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command.env("AGENT", bin("agent")).env("ROOT", &both.root);
    command.env("NIX", format!("nix-store --store local?root={}", both.root.display()));
    run(command.args(namespace).args(["sh", "-euc", script, "sh"]).args(arguments))
}

#[test]
fn a_full_disk_leaves_nothing_half_valid() {
    let both = Both::new();
    let small = both.file("small", "x");
    let large = both.folder.path().join("large");
    fs::create_dir(&large).unwrap();
    for number in 0..20 {
        fs::write(large.join(number.to_string()), vec![b'x'; 1 << 20]).unwrap();
    }
    let script = r#"
        mount -t tmpfs -o size=20m none "$ROOT"
        "$AGENT" store add --root "$ROOT" "$1"
        code=0; "$AGENT" store add --root "$ROOT" "$2" || code=$?
        echo "large: $code"
        ls "$ROOT/nix/store"
        $NIX --verify --check-contents
        "$AGENT" store verify --check-contents --root "$ROOT"
    "#;
    let ran = self::script(&both, ROOT, script, &[&small, &large]);
    assert!(ran.stdout.contains("large: 3") && ran.stderr.contains("disk_full"), "{ran}");
    assert!(!ran.stdout.contains("-large"), "what was unpacked is removed: {ran}");
    ran.ok();
}

#[test]
fn a_disk_that_is_full_at_any_point_leaves_a_flawless_store() {
    let both = Both::new();
    let small = both.tree("small");
    let script = r#"
        mount -t tmpfs -o size=16m none "$ROOT"
        mkdir "$ROOT/x" && echo x > "$ROOT/x/first"
        "$AGENT" store add --root "$ROOT" "$ROOT/x/first" > /dev/null
        for free in 0 4 16 40 100 300 304 308 312 316 320 324 340 360 400 600; do
            head -c "$((64 * 1024 * 1024))" /dev/zero > "$ROOT/filler" 2> /dev/null || true
            truncate -s "-${free}K" "$ROOT/filler"
            code=0
            said=$("$AGENT" store add --root "$ROOT" --name "small-$free" "$1" 2>&1) || code=$?
            echo "$free: $code $said"
            rm "$ROOT/filler"
            "$AGENT" store verify --check-contents --root "$ROOT"
        done
        $NIX --verify --check-contents
        echo "there: $(ls "$ROOT/nix/store" | grep -c small)"
        echo "valid: $(nix --store "local?root=$ROOT" path-info --all | grep -c small)"
    "#;
    let ran = self::script(&both, ROOT, script, &[&small]);
    assert!(ran.stdout.starts_with("0: 3 error[disk_full]"), "{ran}");
    assert!(ran.stdout.contains("in Nix's database"), "also at the very end: {ran}");
    assert!(ran.stdout.contains("600: 0"), "{ran}");
    let number = |label: &str| {
        ran.stdout.lines().find_map(|line| line.strip_prefix(label)).map(str::to_owned)
    };
    assert_eq!(number("there: "), number("valid: "), "{ran}");
    ran.ok();
}

#[test]
fn a_store_on_a_read_only_mount_is_written_by_us_alone() {
    let both = Both::new();
    let first = both.add(&both.file("first", "x"), &[]);
    let second = both.file("second", "x");
    let script = r#"
        store="$ROOT/nix/store"
        mount --bind "$store" "$store"
        mount -o remount,ro,bind "$store"
        if touch "$store/x" 2> /dev/null; then echo writable; fi
        "$AGENT" store add --root "$ROOT" "$1"
        if touch "$store/x" 2> /dev/null; then echo writable; fi
        $NIX --verify --check-contents
    "#;
    let ran = self::script(&both, ROOT, script, &[&second]);
    assert!(ran.stdout.contains("-second") && !ran.stdout.contains("writable"), "{ran}");
    let added = ran.ok();
    assert_eq!(both.nix.valid_paths().len(), 2);
    assert!(both.nix.valid_paths().contains(&added.trim().to_owned()), "beside {first}");
    both.nix.verify();
}

#[test]
fn a_plain_user_has_a_store_of_their_own() {
    let both = Both::new();
    let tree = both.tree("tree");
    let script = r#"
        [ "$(id -u)" = 1000 ]
        "$AGENT" store add --root "$ROOT" "$1"
        "$AGENT" store add --root "$ROOT" "$1"
        $NIX --verify --check-contents
        $NIX --gc
        [ -z "$(ls "$ROOT/nix/store")" ]
    "#;
    self::script(&both, PLAIN, script, &[&tree]).ok();
}

#[test]
fn whoever_may_only_read_a_store_reads_it() {
    let both = Both::new();
    let path = both.add(&both.file("x", "x"), &[]);
    let script = r#"
        chmod -R a-w "$ROOT"
        if touch "$ROOT/nix/var/nix/db/x" 2> /dev/null; then exit 1; fi
        "$AGENT" store verify --check-contents --root "$ROOT"
        chmod -R u+w "$ROOT"
        $NIX --verify
        rm -f "$ROOT/nix/var/nix/db/db.sqlite-"*
        chmod -R a-w "$ROOT"
        "$AGENT" store verify --check-contents --root "$ROOT"
        code=0; "$AGENT" store add --root "$ROOT" "$1" || code=$?
        chmod -R u+w "$ROOT"
        echo "add: $code"
    "#;
    let ran = self::script(&both, PLAIN, script, &[&both.folder.path().join("x")]);
    assert!(ran.stdout.contains("add: 3"), "{ran}");
    ran.ok();
    assert_eq!(both.nix.valid_paths(), [path]);
}

#[test]
fn kill_9_at_any_point_leaves_a_flawless_store() {
    let both = Both::new();
    let source = both.folder.path().join("many");
    for folder in 0..20 {
        let folder = source.join(folder.to_string());
        fs::create_dir_all(&folder).unwrap();
        for file in 0..50 {
            fs::write(folder.join(file.to_string()), file.to_string()).unwrap();
        }
    }
    let path = Both::new().add(&source, &[]);
    let unpacked = || fs::read_dir(both.nix.real(&path)).map_or(0, Iterator::count);
    for enough in [0, 1, 5, 10, 15, 19, 20, 20, 20] {
        let mut command = tool(bin("agent"));
        command.args(["store", "add", "--root"]).arg(&both.root).arg(&source);
        let mut agent = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while unpacked() < enough && agent.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        agent.kill().unwrap();
        agent.wait().unwrap();
        both.nix.verify();
        assert!(both.nix.valid_paths().len() <= 1);
        let is_whole = unpacked() == 20;
        assert!(is_whole || both.nix.valid_paths().is_empty(), "it was killed before it was done");
        if is_whole || enough >= 10 {
            // The next round starts from what the previous one left, or from nothing.
            let deleted = both.nix.nix_store(&["--delete", &path]);
            assert!(deleted.code.is_some());
        }
    }
    assert_eq!(both.add(&source, &[]), path);
    both.nix.verify();
}
