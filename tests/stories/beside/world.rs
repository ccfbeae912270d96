//! A store, caches with closures that overlap, and everybody who wants them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use shared::nix::StorePath;
use store::local::LocalStore;
use tempfile::TempDir;
use tests::{Daemon, Nix, Random, Server, fixture, run, scratch, shoal};

use super::lanes::{Told, Work};
use crate::gc::names;

/// Paths in the caches.
const PATHS: usize = 30;
/// Those of them that are asked for: the last ones, which need most of the others.
const WANTED: usize = 10;

/// A store path and all that it needs, itself too.
type Closure = (String, BTreeSet<String>);

pub(super) struct World {
    folder: TempDir,
    nix: Nix,
    daemon: Daemon,
    server: Server,
    cache: PathBuf,
    key: String,
    closures: Vec<Closure>,
    /// Roots, by their links, that were there before the round.
    roots: BTreeMap<PathBuf, Closure>,
    /// Roots of what our agent copies in the round.
    ours: BTreeMap<PathBuf, Closure>,
    /// Roots of what only Nix is sure to realise in the round.
    theirs: BTreeMap<PathBuf, Closure>,
    number: u32,
}

impl World {
    pub(super) fn new(random: &mut Random) -> Self {
        let folder = scratch();
        let source = folder.path().join("source");
        let closures = make_closures(&source, random);
        let cache = folder.path().join("cache");
        let secret = fixture("nix/keys/other.test-1.secret");
        let to =
            format!("file://{}?compression=zstd&secret-key={}", cache.display(), secret.display());
        let paths: Vec<&str> = closures.iter().map(|closure| &*closure.0).collect();
        run(Nix::at(&source).command("nix").args(["copy", "--to", &to]).args(paths)).ok();
        let nix = Nix::at(&folder.path().join("root"));
        let (daemon, server) = (nix.daemon(), Server::new(&cache));
        let key = fs::read_to_string(fixture("nix/keys/other.test-1.public")).unwrap();
        let closures = closures.into_iter().skip(PATHS - WANTED).collect();
        let none = BTreeMap::new;
        let (roots, ours, theirs) = (none(), none(), none());
        Self { folder, nix, daemon, server, cache, key, closures, roots, ours, theirs, number: 0 }
    }

    /// Lets go of a third of the roots.
    pub(super) fn drop_some_roots(&mut self, random: &mut Random) {
        self.roots.retain(|link, _| {
            let kept = !random.once_in(3);
            if !kept {
                fs::remove_file(link).unwrap();
            }
            kept
        });
    }

    /// `agent copy-closure`, twice.
    pub(super) fn copies(&mut self, random: &mut Random) -> Vec<Work> {
        let mut copy = || {
            let mut agent = shoal("agent");
            agent.args(["copy-closure", "--from", &self.cache(random), "--root"]);
            agent.arg(self.nix.root()).args(["--trusted-public-key", &self.key]);
            for closure in self.choose(random) {
                agent.arg(&closure.0);
                let root = self.maybe_root(closure, random);
                self.ours.extend(root);
            }
            Work::Ours(agent)
        };
        vec![copy(), copy()]
    }

    /// `nix-store --realise`, twice.
    pub(super) fn realisations(&mut self, random: &mut Random) -> Vec<Work> {
        let mut realise = || {
            let mut nix = self.nix_store(random);
            nix.args(["--option", "substituters", &self.cache(random)]);
            nix.args(["--option", "trusted-public-keys", &self.key, "--realise"]);
            let chosen = self.choose(random);
            nix.args(chosen.iter().map(|closure| &closure.0));
            if let [one] = &chosen[..]
                && random.once_in(2)
            {
                let link = self.next_link("result");
                nix.arg("--add-root").arg(&link);
                self.theirs.insert(link, one.clone());
            } else {
                for closure in chosen {
                    let root = self.maybe_root(closure, random);
                    self.theirs.extend(root);
                }
            }
            Work::Nix(nix)
        };
        vec![realise(), realise()]
    }

    /// `agent gc`, twice.
    pub(super) fn collections(&self, random: &mut Random) -> Vec<Work> {
        let mut collect = || {
            let mut agent = shoal("agent");
            agent.args(["gc", "--root"]).arg(self.nix.root());
            if random.once_in(2) {
                agent.args(["--max-freed", &random.below(300_000).to_string()]);
            }
            Work::Ours(agent)
        };
        vec![collect(), collect()]
    }

    /// `nix-store --gc`, twice, and sometimes its other work on all of a store.
    pub(super) fn collections_of_nix(&self, random: &mut Random) -> Vec<Work> {
        let mut all = Vec::new();
        for more in [
            &["--gc"][..],
            &["--gc"],
            &["--optimise"],
            &["--verify"],
            &["--verify", "--check-contents"],
        ] {
            if more[0] != "--gc" && !random.once_in(3) {
                continue;
            }
            let mut nix = self.nix_store(random);
            nix.args(more);
            if more[0] == "--gc" && random.once_in(2) {
                nix.args(["--max-freed", &random.below(300_000).to_string()]);
            }
            all.push(Work::Nix(nix));
        }
        random.shuffle(&mut all);
        all
    }

    /// The same tree, by both kinds of adders.
    pub(super) fn additions(&self, random: &mut Random) -> Vec<Work> {
        let tree = self.folder.path().join("added");
        if !tree.exists() {
            fs::create_dir(&tree).unwrap();
            fs::write(tree.join("file"), random.bytes(5000)).unwrap();
        }
        let mut nix = self.nix_store(random);
        nix.arg("--add").arg(&tree);
        let mut agent = shoal("agent");
        agent.args(["store", "add", "--root"]).arg(self.nix.root()).arg(&tree);
        let mut both = vec![Work::Nix(nix), Work::Ours(agent)];
        random.shuffle(&mut both);
        both
    }

    /// Everything that was rooted is there and whole, and nothing else is left behind, but for what
    /// Nix loses by itself (see `nix_alone`).
    #[track_caller]
    pub(super) fn check(&mut self, round: u32, told: &Told) {
        self.nix.verify();
        let valid: BTreeSet<String> = self.nix.valid_paths().into_iter().collect();
        let (forgotten, deleted) = (told.forgotten(), told.deleted());
        if told.gave_up {
            // It said so: what it did not realise need not be there, nor what it did not root.
            self.theirs.retain(|link, closure| {
                let is_linked = link.symlink_metadata().is_ok();
                let is_valid = valid.contains(&closure.0);
                if is_linked && !is_valid {
                    fs::remove_file(link).unwrap();
                }
                is_linked && is_valid
            });
        }
        let whole = |link: &Path, closure: &Closure, lost_by_nix: &BTreeSet<String>| {
            assert_eq!(fs::read_link(link).unwrap(), Path::new(&closure.0), "{}", link.display());
            let lost: BTreeSet<String> = closure.1.difference(&valid).cloned().collect();
            let whose = format!("round {round}: {} lost {lost:?}\n{told}", link.display());
            assert!(lost.is_empty() || !lost.is_disjoint(lost_by_nix), "{whose}");
            if !lost.is_empty() {
                fs::remove_file(link).unwrap();
            }
            lost.is_empty()
        };
        self.roots.retain(|link, closure| whole(link, closure, &BTreeSet::new()));
        self.ours.retain(|link, closure| whole(link, closure, &forgotten));
        self.theirs.retain(|link, closure| whole(link, closure, &(&forgotten | &deleted)));
        self.roots.append(&mut self.ours);
        self.roots.append(&mut self.theirs);
        let names = names(self.nix.root()).into_iter().map(|name| format!("/nix/store/{name}"));
        let names: BTreeSet<String> = names.collect();
        let left: BTreeSet<_> = names.difference(&valid).cloned().collect();
        assert!(left.is_subset(&forgotten), "round {round}: left behind: {left:?}\n{told}");
    }

    /// Without roots nothing stays.
    #[track_caller]
    pub(super) fn empty(self) {
        for link in self.roots.keys() {
            fs::remove_file(link).unwrap();
        }
        run(shoal("agent").args(["gc", "--root"]).arg(self.nix.root())).ok();
        assert_eq!(self.nix.valid_paths(), Vec::<String>::new());
        self.nix.verify();
    }

    /// Real Nix, at work itself or by its daemon.
    fn nix_store(&self, random: &mut Random) -> Command {
        if random.once_in(2) {
            self.nix.command("nix-store")
        } else {
            self.nix.command_through(&self.daemon, "nix-store")
        }
    }

    fn cache(&self, random: &mut Random) -> String {
        if random.once_in(2) {
            self.server.url()
        } else {
            format!("file://{}", self.cache.display())
        }
    }

    /// Chooses one or two closures.
    fn choose(&self, random: &mut Random) -> Vec<Closure> {
        let first = random.pick(&self.closures).clone();
        let second = random.pick(&self.closures).clone();
        if random.once_in(2) || second.0 == first.0 { vec![first] } else { vec![first, second] }
    }

    /// Roots what may not be there yet: as soon as it is valid, it has to stay.
    fn maybe_root(&mut self, closure: Closure, random: &mut Random) -> Option<(PathBuf, Closure)> {
        random.once_in(2).then(|| {
            let link = self.next_link("root/nix/var/nix/gcroots/story");
            symlink(&closure.0, &link).unwrap();
            (link, closure)
        })
    }

    fn next_link(&mut self, folder: &str) -> PathBuf {
        self.number += 1;
        let folder = self.folder.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        folder.join(self.number.to_string())
    }
}

/// Makes trees that refer to some of those before them.
fn make_closures(source: &Path, random: &mut Random) -> Vec<Closure> {
    fs::create_dir(source).unwrap();
    let store = LocalStore::open(source).unwrap();
    let mut closures: Vec<Closure> = Vec::new();
    for number in 0..PATHS {
        let tree = source.join(format!("tree-{number}"));
        fs::create_dir_all(tree.join("bin")).unwrap();
        let size = if random.once_in(6) { 400_000 } else { 4_000 };
        fs::write(tree.join("bin/program"), random.bytes(size)).unwrap();
        // The same in many, so that there is something to share.
        fs::write(tree.join("license"), "free\n".repeat(300)).unwrap();
        let mut references = BTreeSet::new();
        let mut closure = BTreeSet::new();
        for _ in 0..random.below(4).min(number as u64) {
            let (path, needs) = random.pick(&closures);
            references.insert(StorePath::parse(path).unwrap());
            closure.extend(needs.iter().cloned());
        }
        let name = format!("tree-{number}");
        let path = store.add(&tree, &name, &references).unwrap().path.to_string();
        closure.insert(path.clone());
        closures.push((path, closure));
    }
    closures
}
