//! A collector that is killed anywhere leaves a flawless store, and nothing the next one leaves.

use std::{
    os::unix::{fs::MetadataExt as _, process::ExitStatusExt as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use store::local::LocalStore;
use tests::{Random, run, scratch, shoal, tool};

use super::{command, gc, names};
use crate::local_store::{Both, parse};

/// Dead paths: more than become invalid in two transactions.
const PATHS: u64 = 150;

/// Returns a store with a live closure and many dead paths, among them leftovers, trees, and files
/// that they share with each other and with what lives.
fn fill(both: &Both) -> [String; 2] {
    let files: Vec<_> = (0..PATHS).map(|n| both.file(&format!("f{n}"), &n.to_string())).collect();
    run(both.nix.command("nix-store").arg("--add").args(&files)).ok();
    let mut previous = both.add(&both.tree("tree-0"), &[]);
    for number in 1..4 {
        previous = both.add(&both.tree(&format!("tree-{number}")), &["--reference", &previous]);
    }
    let below = both.add(&both.tree("below"), &[]);
    let live = both.add(&both.file("live", "x"), &["--reference", &below]);
    LocalStore::open(&both.root).unwrap().add_root("live", &parse(&live)).unwrap();
    both.nix.nix_store(&["--optimise"]).fails(0);
    std::fs::create_dir_all(both.root.join("nix/store").join(format!("{}-x/a/b", "9".repeat(32))))
        .unwrap();
    let mut live = [below, live];
    live.sort();
    live
}

/// Copies a store, hard links and all.
fn copy(from: &Path, to: &Path) {
    run(tool("cp").arg("-a").arg(from.join(".")).arg(to)).ok();
}

/// Where a collector ends: at a named step, or when about so much is deleted.
#[derive(Debug)]
enum End {
    Named(String),
    Random { deleted: usize, later: Duration },
}

impl End {
    fn any(chance: &mut Random, round: u64) -> Self {
        if round % 2 == 1 {
            let deleted = usize::try_from(chance.below(PATHS)).unwrap();
            return Self::Random { deleted, later: Duration::from_micros(chance.below(3000)) };
        }
        Self::Named(match (round / 2) % 5 {
            0 => "gc.found".to_owned(),
            1 => format!("gc.invalidated:{}", 1 + chance.below(3)),
            2 => "gc.unsharing".to_owned(),
            _ => format!("gc.deleted:{}", 1 + chance.below(PATHS)),
        })
    }

    /// Runs a collector until there; returns whether it was still at work.
    fn reach(&self, both: &Both) -> bool {
        let mut collector = command(both, &[]);
        collector.stderr(Stdio::null());
        if let Self::Named(name) = self {
            collector.env("SHOAL_CRASH_AT", name);
        }
        let before = names(&both.root).len();
        let mut collector = collector.spawn().unwrap();
        if let Self::Random { deleted, later } = self {
            let gone = || before - names(&both.root).len();
            while gone() < *deleted && collector.try_wait().unwrap().is_none() {
                std::hint::spin_loop();
            }
            std::thread::sleep(*later);
            collector.kill().unwrap();
        }
        let killed = collector.wait().unwrap().signal() == Some(9);
        assert!(killed || matches!(self, Self::Random { .. }), "{self:?} was never reached");
        killed
    }
}

#[test]
fn kill_9_at_any_moment_leaves_a_flawless_store() {
    let mut chance = Random::new("a killed collector");
    let both = Both::new();
    let live = fill(&both);
    let template = scratch();
    copy(&both.root, template.path());

    let mut interrupted = 0;
    for round in 0..if tests::long() { 200 } else { 20 } {
        let both = Both::new();
        copy(template.path(), &both.root);
        let end = End::any(&mut chance, round);
        let killed = end.reach(&both);
        interrupted += usize::from(killed && names(&both.root).len() > live.len());

        both.nix.verify();
        let left = both.nix.valid_paths();
        assert!(live.iter().all(|path| left.contains(path)), "{end:?}: {left:?}");
        // Whoever comes next finds all that was left behind.
        if round % 4 < 2 {
            gc(&both, &[]).ok();
        } else {
            both.nix.collect_garbage();
        }
        assert_eq!(both.nix.valid_paths(), live, "{end:?}");
        assert_eq!(
            names(&both.root),
            live.each_ref().map(|path| parse(path).base_name().to_owned())
        );
        if round % 4 == 0 {
            both.nix.verify();
        }
        // What is shared with nobody is not kept for nobody.
        let links = std::fs::read_dir(both.root.join("nix/store/.links")).unwrap();
        let lonely = links.map(|entry| entry.unwrap().metadata().unwrap());
        assert_eq!(lonely.filter(|metadata| metadata.nlink() == 1).count(), 0, "{end:?}");
    }
    assert!(interrupted > 5, "too few kills came while paths were deleted: {interrupted}");
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
