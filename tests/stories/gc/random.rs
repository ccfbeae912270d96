//! Any store with any roots: the same paths are dead for us as for real Nix.
//!
//! Rows and roots are made up, so that a store of dozens of paths takes no time; the files are there
//! and nothing in them matters.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command},
};

use rusqlite::{Connection, params};
use rustix::fs::{FlockOperation, flock};
use store::local::LocalStore;
use tests::{Random, run, tool};

use super::{command, names};
use crate::local_store::Both;

/// A made-up store.
struct World {
    both: Both,
    chance: Random,
    /// Valid paths, each referring only to those before it.
    paths: Vec<String>,
    /// Holds its temporary roots for as long as it lives.
    _holder: File,
    /// Names paths in its environment.
    user: Child,
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.user.kill());
        drop(self.user.wait());
    }
}

fn new_path(chance: &mut Random, name: &str) -> String {
    let letters = b"0123456789abcdfghijklmnpqrsvwxyz";
    let hash: String = (0..32).map(|_| char::from(*chance.pick(letters))).collect();
    format!("/nix/store/{hash}-{name}")
}

impl World {
    fn new(seed: &mut Random) -> Self {
        let both = Both::new();
        drop(LocalStore::open(&both.root).unwrap());
        let mut chance = seed.clone();
        let paths = rows(&both, &mut chance);
        let leftovers: Vec<_> = (0..3).map(|_| new_path(&mut chance, "leftover")).collect();
        for path in paths.iter().chain(&leftovers) {
            fs::write(both.nix.real(path), "x").unwrap();
        }
        let everything: Vec<_> = paths.iter().chain(&leftovers).cloned().collect();
        for number in 0..chance.below(9) {
            root(&both, &mut chance, &everything, number);
        }
        let pick = |chance: &mut Random| chance.pick(&everything).clone();
        let temporary = both.root.join("nix/var/nix/temproots");
        // The process that wrote the first lives, that of the second does not.
        let (lives, dead) = (temporary.join("4194303"), temporary.join("4194302"));
        let mut holder = File::create(lives).unwrap();
        write!(holder, "{}\0{}\0{}", pick(&mut chance), pick(&mut chance), pick(&mut chance))
            .unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        fs::write(dead, format!("{}\0", pick(&mut chance))).unwrap();
        let mut user = tool("sleep");
        user.arg("600").env("A", format!("{}/bin:/bin:{}!x", pick(&mut chance), pick(&mut chance)));
        seed.number();
        Self { both, chance, paths, _holder: holder, user: user.spawn().unwrap() }
    }

    /// Returns what a command lists.
    fn listed(&self, mut command: Command) -> BTreeSet<String> {
        run(&mut command).ok().lines().map(str::to_owned).collect()
    }
}

/// Makes valid paths up, derivations among them, and what they refer to and were built from.
fn rows(both: &Both, chance: &mut Random) -> Vec<String> {
    let count = 10 + usize::try_from(chance.below(50)).unwrap();
    let paths: Vec<String> = (0..count)
        .map(|n| new_path(chance, &if n % 4 == 0 { format!("n{n}.drv") } else { format!("n{n}") }))
        .collect();
    let database = Connection::open(both.root.join("nix/var/nix/db/db.sqlite")).unwrap();
    database.execute_batch("BEGIN; PRAGMA foreign_keys = 1").unwrap();
    let derivations: Vec<usize> = (0..count).step_by(4).collect();
    for (index, path) in paths.iter().enumerate() {
        let is_built = index % 4 != 0 && chance.once_in(2);
        let deriver = is_built.then(|| *chance.pick(&derivations));
        // One that nobody has any more.
        let lost = (!is_built && chance.once_in(5)).then(|| new_path(chance, "lost.drv"));
        let deriver_path = deriver.map(|deriver| paths[deriver].clone()).or(lost);
        database
            .execute(
                "INSERT INTO ValidPaths (id, path, hash, registrationTime, deriver, narSize)
                 VALUES (?1, ?2, ?3, 1, ?4, 4096)",
                params![index + 1, path, format!("sha256:{}", "0".repeat(64)), deriver_path],
            )
            .unwrap();
        let refer = |to: usize| {
            let sql = "INSERT OR IGNORE INTO Refs VALUES (?1, ?2)";
            database.execute(sql, params![index + 1, to + 1]).unwrap();
        };
        for _ in 0..chance.below(4) {
            if index > 0 {
                refer(usize::try_from(chance.below(index as u64)).unwrap());
            }
        }
        if chance.once_in(5) {
            refer(index);
        }
    }
    let outputs = "INSERT INTO DerivationOutputs SELECT known.id, built.id, built.path
                   FROM ValidPaths built JOIN ValidPaths known ON known.path = built.deriver";
    database.execute_batch(outputs).unwrap();
    for derivation in derivations {
        // An output that was never built, or is gone.
        let (sql, gone) = ("INSERT INTO DerivationOutputs VALUES (?1, 'gone', ?2)", "gone");
        database.execute(sql, params![derivation + 1, new_path(chance, gone)]).unwrap();
    }
    database.execute_batch("COMMIT").unwrap();
    paths
}

/// Makes a root of a kind that chance picks, or something that only looks like one.
fn root(both: &Both, chance: &mut Random, paths: &[String], number: u64) {
    let state = both.root.join("nix/var/nix");
    let outside = both.folder.path().join(format!("outside-{number}"));
    fs::create_dir(&outside).unwrap();
    let path = chance.pick(paths).clone();
    let link = |target: &str, at: &Path| {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(target, at).unwrap();
    };
    let roots = state.join("gcroots");
    let name = format!("r{number}");
    let result = outside.join("result");
    match chance.below(14) {
        0 => link(&path, &roots.join(&name)),
        1 => link(&path, &roots.join("per-user/somebody/deep/er").join(&name)),
        2 => link(&format!("{path}/bin/inner"), &roots.join(&name)),
        3 => fs::write(roots.join(path.rsplit('/').next().unwrap()), "").unwrap(),
        4 => {
            link(&path, &result);
            link(result.to_str().unwrap(), &roots.join("auto").join(&name));
        }
        5 => link(outside.join("gone").to_str().unwrap(), &roots.join("auto").join(&name)),
        6 => {
            link(&path, &outside.join("second"));
            link("second", &result);
            link(result.to_str().unwrap(), &roots.join(&name));
        }
        7 => {
            link(&path, &state.join(format!("profiles/{name}-1-link")));
            link(&format!("{name}-1-link"), &state.join("profiles").join(&name));
        }
        8 => link(&path, &state.join(format!("profiles/per-user/somebody/{name}-17-link"))),
        9 => link(&path, &state.join(format!("profiles/shoal/{name}-2-link"))),
        10 => {
            link(&path, &result);
            link(outside.to_str().unwrap(), &roots.join(&name));
        }
        11 => {
            link(&path, &roots.join(format!("beside-{number}")));
            link(&format!("../gcroots/beside-{number}"), &roots.join(&name));
        }
        12 => link(&format!("/nix/store/not-a-path-{number}"), &roots.join(&name)),
        _ => {
            fs::write(&result, &path).unwrap();
            link(result.to_str().unwrap(), &roots.join(&name));
        }
    }
}

#[test]
fn whatever_the_store_and_its_roots_the_same_is_dead() {
    let mut seed = Random::new("random roots");
    let mut seen = (0, 0);
    for round in 0..if tests::long() { 200 } else { 20 } {
        let mut world = World::new(&mut seed);
        let [outputs, derivations] = [world.chance.once_in(2), !world.chance.once_in(3)];
        let configuration = format!("keep-outputs = {outputs}\nkeep-derivations = {derivations}");
        let ours = |arguments: &[&str]| {
            let mut command = command(&world.both, arguments);
            command.env("NIX_CONFIG", &configuration);
            command
        };
        let theirs = |arguments: &[&str]| {
            let mut command = world.both.nix.command("nix-store");
            command.env("NIX_CONFIG", &configuration).args(arguments);
            command
        };
        // Ours first: Nix 2.8 removes stale roots even where it only prints.
        let dead = world.listed(ours(&["--dry-run"]));
        assert_eq!(dead, world.listed(theirs(&["--gc", "--print-dead"])), "{configuration}");

        let mut collect = if round % 2 == 0 { ours(&[]) } else { theirs(&["--gc"]) };
        run(&mut collect).ok();
        let all: BTreeSet<_> = world.paths.iter().cloned().collect();
        let live: Vec<_> = all.difference(&dead).cloned().collect();
        assert_eq!(world.both.nix.valid_paths(), live);
        let left = names(&world.both.root);
        assert!(dead.iter().all(|path| !left.contains(&path.replace("/nix/store/", ""))));
        assert_eq!(world.listed(ours(&["--dry-run"])), BTreeSet::new());
        assert_eq!(world.listed(theirs(&["--gc", "--print-dead"])), BTreeSet::new());
        run(&mut theirs(&["--verify"])).ok();
        seen = (seen.0 + live.len(), seen.1 + dead.len());
    }
    assert!(seen.0 > 100 && seen.1 > 100, "too few were live or dead: {seen:?}");
}
