//! Every kind of root there is, made for real; then both collectors are asked what is dead.

use std::{collections::BTreeSet, fs};

use store::local::LocalStore;
use tests::tool;

use super::script;
use crate::local_store::{Both, parse};

/// Run as root of a mount namespace in which the store lies at `/nix`, so that running processes
/// have the store's own names. `path NAME` is the store path of that name.
const SCRIPT: &str = r#"
    mkdir -p /nix
    mount --bind "$ROOT/nix" /nix
    path() { ls -d /nix/store/????????????????????????????????-"$1"; }
    roots=/nix/var/nix/gcroots
    processes=
    wait_for() { until "$@"; do sleep 0.01; done; }

    # Files and links.
    mkdir -p $roots/auto $roots/a/b "$HERE/outside"
    ln -s "$(path direct)" $roots/direct
    ln -s "$(path nested)" $roots/a/b/nested
    ln -s "$(path inside)/bin/run" $roots/inside
    ln -s direct-twice $roots/twice; ln -s "$(path twice)" $roots/direct-twice
    : > $roots/"$(basename "$(path named)")"
    ln -s "$(path missing-user)" "$HERE/result"; ln -s "$HERE/result" $roots/auto/result
    ln -s "$HERE/gone" $roots/auto/dangling
    ln -s "$HERE/gone" $roots/dangling
    ln -s "$HERE/one" $roots/three; ln -s "$HERE/two" "$HERE/one"; ln -s "$(path three)" "$HERE/two"
    ln -s "$HERE/outside" $roots/folder; ln -s "$(path behind-folder)" "$HERE/outside/link"
    ln -s /nix/store/9a455acx720hx0zfwn0q7gn8y2jrvllr-invalid $roots/invalid
    nix-env -p /nix/var/nix/profiles/one --set "$(path generation-1)"
    nix-env -p /nix/var/nix/profiles/one --set "$(path generation-2)"

    # Built by Nix, so derivers and outputs are known: one kept by its output, one whose output is
    # kept only where outputs are, one dead with its output.
    for kind in output derivation neither; do
        echo "derivation { name = \"built-$kind\"; system = builtins.currentSystem;
            builder = \"/bin/sh\"; args = [ \"-c\" \"echo $kind > \$out\" ]; }" > "$HERE/$kind.nix"
        nix-store -r "$(nix-instantiate "$HERE/$kind.nix")" > "$HERE/$kind"
    done
    ln -s "$(cat "$HERE/output")" $roots/output
    ln -s "$(path built-derivation.drv)" $roots/derivation

    # A program that the kernel starts by itself; its setting is seen in this namespace only.
    echo "$(path kernel)/bin/poweroff" > "$HERE/poweroff_cmd"
    mount --bind "$HERE/poweroff_cmd" /proc/sys/kernel/poweroff_cmd

    # Processes.
    "$(path exe)" 600 & processes="$processes $!"
    (cd "$(path cwd)"; exec sleep 600) & processes="$processes $!"
    sleep 600 3< "$(path fd)" & processes="$processes $!"
    "$LOADER" "$(path map)" 600 & mapper=$! processes="$processes $!"
    env LONG_PATH="/usr/bin:$(path environ)/bin:/bin" sleep 600 & processes="$processes $!"
    trap 'kill $processes' EXIT
    ready() { tail -c 4 /proc/$1/cmdline | grep -q 600; }
    for process in $processes; do wait_for ready $process; done
    wait_for grep -q -- -map /proc/$mapper/maps
"#;

/// Adds a tree of this name, with a reference if it has one, and returns its path.
fn add(both: &Both, name: &str, references: &[&str]) -> String {
    let flags = references.iter().flat_map(|path| ["--reference", path]);
    both.add(&both.file(name, name), &flags.collect::<Vec<_>>())
}

/// Fills the store with what the script roots, and what it does not.
fn fill(both: &Both) {
    for name in ["direct", "nested", "twice", "named", "missing-user", "three", "behind-folder"] {
        let below = add(both, &format!("below-{name}"), &[]);
        add(both, name, &[&below]);
    }
    for name in ["generation-1", "generation-2", "fd", "temporary", "dead-process", "unrooted"] {
        let below = add(both, &format!("below-{name}"), &[]);
        add(both, name, &[&below]);
    }
    for name in ["inside", "cwd", "environ", "kernel"] {
        both.add(&both.tree(name), &[]);
    }
    for name in ["exe", "map"] {
        // A program of its own each: the names of programs in `/proc` lead to files, not links.
        let program = both.folder.path().join(name);
        fs::copy("/bin/sleep", &program).unwrap();
        both.add(&program, &[]);
    }
}

/// Returns the program interpreter of this machine's programs.
fn loader() -> String {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let found = paths.find(|path| path.rsplit('/').next().unwrap().starts_with("ld-linux"));
    found.expect("the stories are linked dynamically").to_owned()
}

/// Returns the part of what a script printed that follows this heading.
fn part(printed: &str, heading: &str) -> BTreeSet<String> {
    let lines = printed.lines().skip_while(|line| *line != format!("== {heading}")).skip(1);
    lines.take_while(|line| !line.starts_with("== ")).map(ToOwned::to_owned).collect()
}

#[test]
fn the_same_paths_are_dead_as_for_real_nix() {
    let both = Both::new();
    fill(&both);
    let store = LocalStore::open(&both.root).unwrap();
    let find = |name: &str| {
        let paths = both.nix.valid_paths();
        let found = paths.into_iter().find(|path| parse(path).name() == name);
        found.unwrap_or_else(|| panic!("there is no {name}"))
    };
    // A process that lives, and one that does not; then what they left in the store.
    store.add_temp_roots(&[parse(&find("temporary"))].into()).unwrap();
    let temporary_lock = both.nix.real(&format!("{}.lock", find("temporary")));
    fs::write(&temporary_lock, "").unwrap();
    let dead_process = both.root.join("nix/var/nix/temproots/4194304");
    fs::write(&dead_process, format!("{}\0", find("dead-process"))).unwrap();
    let leftover = both.root.join("nix/store/9a455acx720hx0zfwn0q7gn8y2jrvllr-leftover");
    fs::create_dir_all(leftover.join("a/b")).unwrap();
    fs::write(leftover.with_extension("lock"), "").unwrap();

    // Ours first: Nix 2.8 deletes unknown names even where it only prints.
    let rest = r#"
        echo "== ours"; "$AGENT" gc --dry-run
        echo "== ours-with-outputs"; "$AGENT" gc --dry-run --keep-outputs
        echo "== theirs"; nix-store --gc --print-dead
        echo "== theirs-with-outputs"
        nix-store --option keep-outputs true --gc --print-dead
        echo "== valid"; nix --extra-experimental-features nix-command path-info --all
        echo "== collected"; "$AGENT" gc
        echo "== verified"; nix-store --verify --check-contents
        echo "== left"; nix --extra-experimental-features nix-command path-info --all
    "#;
    let printed = script(&both, &format!("{SCRIPT}\n{rest}"), &[("LOADER", &loader())]).ok();
    let (ours, theirs) = (part(&printed, "ours"), part(&printed, "theirs"));
    assert_eq!(ours, theirs);
    assert_eq!(part(&printed, "ours-with-outputs"), part(&printed, "theirs-with-outputs"));

    let mut names: Vec<_> = ours.iter().map(|path| parse(path).name().to_owned()).collect();
    names.sort();
    let mut dead = vec![
        "behind-folder",
        "built-derivation",
        "built-neither",
        "built-neither.drv",
        "dead-process",
        "leftover",
        "leftover.lock",
        "three",
        "unrooted",
    ];
    dead.extend(["below-behind-folder", "below-dead-process", "below-three", "below-unrooted"]);
    dead.sort_unstable();
    assert_eq!(names, dead, "as many kinds of roots as there are");

    let left: BTreeSet<_> = part(&printed, "valid").difference(&ours).cloned().collect();
    assert_eq!(part(&printed, "left"), left);
    assert!(temporary_lock.exists() && !leftover.exists() && !dead_process.exists());
    let roots = both.root.join("nix/var/nix/gcroots");
    assert!(roots.join("auto/dangling").symlink_metadata().is_err(), "stale, and ours to remove");
    for name in ["dangling", "auto/result"] {
        assert!(roots.join(name).symlink_metadata().is_ok(), "{name} is not ours to remove");
    }
    both.nix.verify();
}

#[test]
fn what_runs_below_another_root_by_its_real_name_is_kept() {
    let both = Both::new();
    let program = both.folder.path().join("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let path = both.add(&program, &[]);
    let mut running = tool(both.nix.real(&path)).arg("600").spawn().unwrap();
    let kept = super::gc(&both, &[]);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(both.nix.valid_paths(), [path], "{kept}");
    super::gc(&both, &[]).ok();
    assert!(both.nix.valid_paths().is_empty());
}

#[test]
fn what_somebody_holds_in_the_store_directory_is_spared() {
    let both = Both::new();
    both.add(&both.file("x", "x"), &[]);
    let store = both.root.join("nix/store");
    for folder in ["tmp-1-held", "tmp-2-free", ".hidden"] {
        fs::create_dir(store.join(folder)).unwrap();
    }
    let held = fs::File::open(store.join("tmp-1-held")).unwrap();
    let lock = store.join("9a455acx720hx0zfwn0q7gn8y2jrvllr-x.lock");
    let locked = fs::File::create(&lock).unwrap();
    for file in [&held, &locked] {
        rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
    super::gc(&both, &[]).ok();
    assert_eq!(super::names(&both.root), ["9a455acx720hx0zfwn0q7gn8y2jrvllr-x.lock", "tmp-1-held"]);
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::Unlock).unwrap();
    drop(held);
    super::gc(&both, &[]).ok();
    assert!(super::names(&both.root).is_empty());
    assert_eq!(locked.metadata().unwrap().len(), 1, "who waited for it sees that it is stale");
}
