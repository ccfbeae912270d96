//! A collector that is killed anywhere leaves a flawless store, and nothing the next one leaves.

use std::{
    process::Stdio,
    time::{Duration, SystemTime},
};

use store::local::LocalStore;
use tests::{copy_folder, run, scratch, shoal};

use crate::local_store::{Both, parse};

use super::{command, gc, names};

/// Dead paths.
const PATHS: usize = 300;

/// Returns a store with a live path and many dead ones, among them leftovers and trees.
fn fill(both: &Both) -> String {
    let files: Vec<_> = (0..PATHS).map(|n| both.file(&format!("f{n}"), &n.to_string())).collect();
    run(both.nix.command("nix-store").arg("--add").args(&files)).ok();
    let mut previous = both.add(&both.tree("tree-0"), &[]);
    for number in 1..4 {
        previous = both.add(&both.tree(&format!("tree-{number}")), &["--reference", &previous]);
    }
    let live = both.add(&both.file("live", "x"), &[]);
    LocalStore::open(&both.root).unwrap().add_root("live", &parse(&live)).unwrap();
    live
}

#[test]
fn kill_9_at_any_moment_leaves_a_flawless_store() {
    let both = Both::new();
    let live = fill(&both);
    let template = scratch();
    copy_folder(&both.root, template.path());
    let whole = names(&both.root).len();

    let rounds = if tests::long() { 100 } else { 10 };
    let mut interrupted = 0;
    for round in 0..rounds {
        let copy = Both::new();
        copy_folder(template.path(), &copy.root);
        let mut collector = command(&copy, &[]).stderr(Stdio::null()).spawn().unwrap();
        // When about so much is deleted, and a random moment later.
        let enough = whole * round / rounds;
        while whole - names(&copy.root).len() < enough && collector.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(
            random() % if round == 0 { 50_000 } else { 5_000 },
        ));
        collector.kill().unwrap();
        collector.wait().unwrap();

        copy.nix.verify();
        let left = copy.nix.valid_paths();
        assert!(left.contains(&live));
        interrupted += usize::from((2..PATHS).contains(&left.len()));
        // Whoever comes next finds all that was left behind.
        if round % 2 == 0 {
            gc(&copy, &[]).ok();
        } else {
            copy.nix.collect_garbage();
        }
        assert_eq!(copy.nix.valid_paths(), std::slice::from_ref(&live));
        assert_eq!(names(&copy.root), [parse(&live).base_name()]);
        copy.nix.verify();
    }
    assert!(interrupted > 0, "no kill came while paths were deleted");
}

fn random() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

#[test]
fn a_socket_that_a_killed_collector_left_keeps_nobody_waiting() {
    let both = Both::new();
    let path = both.add(&both.file("x", "x"), &[]);
    gc(&both, &[]).ok();
    assert!(both.root.join("nix/var/nix/gc-socket/socket").exists());
    let mut add = shoal("agent");
    add.args(["store", "add", "--root"]).arg(&both.root).arg(both.folder.path().join("x"));
    assert_eq!(run(&mut add).ok().trim(), path);
    let source = both.folder.path().join("x");
    assert_eq!(both.nix.nix_store(&["--add", source.to_str().unwrap()]).ok().trim(), path);
}
