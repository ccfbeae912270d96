//! What the collector of Nix deletes though it was told to keep it.
//!
//! Before it deletes a path it finds all that refers to it, and deletes that first. Who asks it
//! meanwhile to keep the path is told that it will, and then it is deleted all the same: only what
//! was looked at last is looked at again. (NixOS/nix#11923 is one of the ways to see that.)

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use store::lock::LockFile;
use tests::{Ran, Request, Response, Server, eventually, fixture, run, shoal, tool};

use super::held_up::HeldUp;
use crate::local_store::Both;

/// How long a server waits for what a story does meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store with `base`, which is about to be deleted, and a cache with what needs it.
struct World {
    both: Both,
    server: Server,
    key: String,
    /// Valid and dead.
    base: String,
    /// Refers to `base`, and is dead as well: it is deleted first.
    user: String,
    /// In the cache: needs `base` alone.
    simple: String,
    /// In the cache: needs `base`, and something that is not in the store.
    wanted: String,
    other: String,
}

impl World {
    fn new() -> Self {
        let (both, source) = (Both::new(), Both::new());
        let file = |name: &str, contents: &str| both.file(name, contents);
        let base = both.add(&file("base", "base"), &[]);
        let user = both.add(&file("user", &format!("a user of {base}")), &["--reference", &base]);
        // Told to delete both, Nix begins with the first by name, and finds the other from there.
        assert!(base < user, "{base} {user}");
        assert_eq!(source.add(&file("base", "base"), &[]), base);
        let other = source.add(&file("other", "other"), &[]);
        let simple = source.add(&file("simple", &base), &["--reference", &base]);
        let references = ["--reference", &base, "--reference", &other];
        let wanted = source.add(&file("wanted", &format!("{base} {other}")), &references);
        let cache = both.folder.path().join("cache");
        let secret = fixture("nix/keys/other.test-1.secret");
        let to = format!("file://{}?secret-key={}", cache.display(), secret.display());
        run(source.nix.command("nix").args(["copy", "--to", &to, &wanted, &simple])).ok();
        let key = fs::read_to_string(fixture("nix/keys/other.test-1.public")).unwrap();
        let server = Server::new(&cache);
        Self { both, server, key, base, user, simple, wanted, other }
    }

    /// Starts a collector of Nix and holds it up when `user` is not valid any more; `base` is next.
    fn collector(&self) -> HeldUp {
        let mut collector = self.both.nix.command("nix-store");
        collector.args(["--delete", &self.user, &self.base]);
        HeldUp::start(&mut collector, "finding garbage collector roots...\n")
    }

    /// Checks that `wanted` is valid with all that it needs.
    #[track_caller]
    fn check_that_all_is_there(self) {
        self.both.nix.verify();
        let mut all = [self.base, self.other, self.wanted];
        all.sort();
        assert_eq!(self.both.nix.valid_paths(), all);
    }

    fn nix(&self, path: &str) -> Command {
        let mut nix = self.both.nix.command("nix-store");
        nix.args(["--realise", path, "--option", "substituters", &self.server.url()]);
        nix.args(["--option", "trusted-public-keys", &self.key]);
        nix
    }

    fn agent(&self, path: &str) -> Command {
        let mut agent = shoal("agent");
        agent.args(["copy-closure", "--from", &self.server.url(), "--root"]);
        agent.arg(&self.both.root).args(["--trusted-public-key", &self.key, path]);
        agent
    }

    /// Starts a command that wants `wanted`, and returns it as soon as it fetches `other`, which
    /// it gets when it is told to.
    fn fetching(&self, mut command: Command) -> (Child, Sender<()>) {
        let (asked, was_asked) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let other = narinfo_url(&self.both, &self.other);
        self.server.hook(move |request| wait(request, &other, &asked, &may_go_on));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        was_asked.recv_timeout(PATIENCE).unwrap();
        (child, go_on)
    }
}

/// Returns where the cache has the NAR of a path.
fn narinfo_url(both: &Both, path: &str) -> String {
    let hash_part = &path["/nix/store/".len()..][..32];
    let narinfo = both.folder.path().join(format!("cache/{hash_part}.narinfo"));
    let narinfo = fs::read_to_string(narinfo).unwrap();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
    format!("/{}", url.unwrap())
}

/// Says that a file is asked for, and waits before it is answered.
fn wait(
    request: &Request,
    file: &str,
    asked: &Sender<()>,
    may_go_on: &Receiver<()>,
) -> Option<Response> {
    if request.path() == file && asked.send(()).is_ok() {
        // Nobody is there any more once the story is over.
        let _over = may_go_on.recv_timeout(PATIENCE);
    }
    None
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        line: "the fetch".to_owned(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code(),
    }
}

#[test]
fn nix_cannot_realise_what_needs_a_path_that_nix_deletes_after_all() {
    let world = World::new();
    let collector = world.collector();
    let (realise, go_on) = world.fetching(world.nix(&world.wanted));
    let said = collector.go_on();
    assert!(said.contains(&format!("deleting '{}'", world.base)), "{said}");
    go_on.send(()).unwrap();
    let realised = ended(realise);
    let World { base, wanted, .. } = &world;
    let words = if is_old() {
        "Assertion `worker.store.isValidPath(i)' failed".to_owned()
    } else {
        format!("error: reference '{base}' of path '{wanted}' is not a valid path")
    };
    assert!(realised.code != Some(0) && realised.stderr.contains(&words), "{realised}");
    world.both.nix.verify();
}

/// The same with our agent: it fetches again what is gone.
#[test]
fn we_fetch_again_what_nix_deletes_after_all() {
    let world = World::new();
    let collector = world.collector();
    let (copy, go_on) = world.fetching(world.agent(&world.wanted));
    let said = collector.go_on();
    assert!(said.contains(&format!("deleting '{}'", world.base)), "{said}");
    go_on.send(()).unwrap();
    ended(copy).ok();
    world.check_that_all_is_there();
}

#[test]
fn we_fetch_as_well_what_nix_deletes_while_we_wait_for_somebody_else() {
    let world = World::new();
    let lock = world.both.nix.real(&format!("{}.lock", world.other));
    let held = LockFile::acquire(&lock, Duration::ZERO).unwrap();
    let collector = world.collector();
    let mut copy = world.agent(&world.wanted);
    let copy = copy.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let open_files = format!("/proc/{}/fd", copy.id());
    eventually("it waits for the lock", || {
        let files = fs::read_dir(&open_files).unwrap();
        let mut files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.any(|file| file == lock).then_some(())
    });
    let said = collector.go_on();
    assert!(said.contains(&format!("deleting '{}'", world.base)), "{said}");
    drop(held);
    ended(copy).ok();
    world.check_that_all_is_there();
}

#[test]
fn nix_complains_when_nix_registers_what_needs_a_path_that_it_was_about_to_delete() {
    let world = World::new();
    let collector = world.collector();
    run(&mut world.nix(&world.simple)).ok();
    let (said, well) = collector.go_on_to_its_end();
    let World { base, simple, .. } = &world;
    let words = format!("error: cannot delete path '{base}' because it is in use by '{simple}'");
    assert!(said.contains(&words) && well != is_old(), "{said}");
    // Nobody loses anything by it.
    world.both.nix.verify();
    let mut both = [base.clone(), simple.clone()];
    both.sort();
    assert_eq!(world.both.nix.valid_paths(), both);
}

/// Returns whether Nix is of the time when it took this for impossible.
fn is_old() -> bool {
    run(tool("nix-store").arg("--version")).ok().contains(" 2.8.")
}
