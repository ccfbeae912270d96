//! Substitution on disks that are too small, or become so: real file systems, filled to the page.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use tests::{Builder, Nix, Ran, Response, Server, SmallDisk, long, run, shoal, tool};

/// Bytes of a page, in which a tmpfs counts.
const PAGE: u64 = 4096;

/// What there is to fetch, and a store on a small disk that it is fetched into.
struct Story {
    builder: Builder,
    index: PathBuf,
    disk: SmallDisk,
    nix: Nix,
    /// What is in the store before.
    before: Vec<String>,
}

impl Story {
    /// Three paths in a row, each with these files, and a store with one other path.
    fn new(disk: SmallDisk, files: &[(&str, &str)]) -> Self {
        let builder = Builder::new();
        let mut top = String::new();
        for name in ["one", "two", "three"] {
            let references: Vec<&str> =
                Some(top.as_str()).filter(|it| !it.is_empty()).into_iter().collect();
            let marked: Vec<_> = files.iter().copied().chain([("name", name)]).collect();
            top = builder.add(name, &marked, &references);
        }
        builder.push_with(&top, &["--compression", "none"]).ok();
        let index = builder.root().join("index");
        let mut closure = shoal("registry");
        closure.env("HOME", "/nonexistent").args(["closure-index", "--cache"]);
        fs::write(&index, run(closure.arg(builder.cache_url()).arg(&top)).ok()).unwrap();
        let nix = Nix::at(&disk.path().join("root"));
        let mut story = Self { builder, index, disk, nix, before: Vec::new() };
        let mut add = shoal("agent");
        add.args(["store", "add", "--name", "own", "--root"]).arg(story.nix.root());
        run(&mut story.disk.inside(add.arg(&story.index))).ok();
        story.before = story.paths();
        story
    }

    /// Substitutes from `cache` with further options.
    fn copy_from(&self, cache: &str, options: &[&str]) -> Command {
        let mut agent = shoal("agent");
        agent.args(["copy-closure", "--from", cache, "--root"]).arg(self.nix.root());
        self.disk.inside(agent.arg("--closure-index").arg(&self.index).args(options))
    }

    fn copy(&self) -> Ran {
        run(&mut self.copy_from(&self.builder.cache_url(), &[]))
    }

    /// What lies in the store directory.
    fn paths(&self) -> Vec<String> {
        let folder = self.disk.outside_of(&self.nix.real("/nix/store"));
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Has real Nix look at every path, and counts them.
    fn verify(&self, paths: usize) {
        let check = |arguments: &[&str]| {
            let mut command = self.nix.command("nix-store");
            run(&mut self.disk.inside(command.args(arguments)))
        };
        let checked = check(&["--verify", "--check-contents"]);
        assert!(checked.stderr.lines().all(|line| line.ends_with("...")), "{checked}");
        checked.ok();
        let mut query = self.nix.command("nix");
        let listed = run(&mut self.disk.inside(query.args(["path-info", "--all"]))).ok();
        assert_eq!(listed.lines().count(), paths, "{listed}");
    }

    /// A run that the disk was too small for: it says so, and what it took is free again.
    fn check_failed(&self, ran: &Ran, free: (u64, u64)) {
        assert_eq!(ran.code, Some(3), "{ran}");
        assert!(ran.stderr.starts_with("error[disk_full]"), "{ran}");
        assert!(ran.stderr.contains("next: agent gc --root"), "{ran}");
        assert_eq!(self.paths(), self.before, "{ran}");
        let now = self.disk.free();
        // On ext4 a directory never shrinks.
        let kept = if self.disk.is_ext4() { 4 * PAGE } else { 0 };
        assert!(now.0 + kept >= free.0 && now.1 >= free.1, "{free:?} free, then {now:?}: {ran}");
    }

    /// Takes away all that was not there before.
    fn start_again(&self) {
        self.disk.give_back();
        let own = self.before.iter().find(|name| name.ends_with("-own")).unwrap();
        let mut link = tool("ln");
        link.arg("-sfn").arg(format!("/nix/store/{own}"));
        link.arg(self.nix.root().join("nix/var/nix/gcroots/own"));
        run(&mut self.disk.inside(&link)).ok();
        let mut gc = shoal("agent");
        run(&mut self.disk.inside(gc.args(["gc", "--root"]).arg(self.nix.root()))).ok();
        assert_eq!(self.paths(), self.before);
    }

    /// Once there is room, the next run takes everything, and real Nix finds no fault.
    fn converges(&self) {
        self.disk.give_back();
        self.copy().ok();
        self.verify(4);
        assert_eq!(self.paths().len(), self.before.len() + 3, "{:?}", self.paths());
    }
}

/// More files than anybody thinks of who knows the sizes of NARs alone.
fn many_files() -> Vec<(String, &'static str)> {
    (0..60).map(|number| (format!("d{}/{number}", number % 4), "x")).collect()
}

/// Every number below `end`, or few of them, but all of the last ones.
fn points(end: u64, last: u64, few: u64) -> Vec<u64> {
    let step = if long() { 1 } else { (end / few).max(1) };
    (0..end).filter(|number| number % step == 0 || end - number <= last).collect()
}

/// What of a disk runs out.
#[derive(Clone, Copy)]
enum Resource {
    Pages,
    Inodes,
}

/// Lets the disk be full at one point of a substitution after the other.
fn sweep(disk: SmallDisk, resource: Resource) {
    let files = many_files();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
    let story = Story::new(disk, &files);
    let amount = |(bytes, inodes): (u64, u64)| match resource {
        Resource::Pages => bytes / PAGE,
        Resource::Inodes => inodes,
    };
    let before = amount(story.disk.free());
    story.copy().ok();
    let took = before - amount(story.disk.free());
    story.start_again();
    let (mut unpacking, mut registering) = (0, 0);
    for left in points(took + 40, 50, 12) {
        match resource {
            Resource::Pages => story.disk.leave_bytes(left * PAGE),
            Resource::Inodes => story.disk.leave_inodes(left),
        }
        let free = story.disk.free();
        let ran = story.copy();
        if ran.code == Some(0) {
            story.verify(4);
            story.start_again();
            continue;
        }
        let stopped = ran.stderr.contains("because cannot write");
        let says_what_is_left = [" inodes are left", " 1 inode are left"];
        let says_it = says_what_is_left.iter().any(|words| ran.stderr.contains(words));
        assert!(!stopped || says_it, "{ran}");
        unpacking += usize::from(stopped);
        registering += usize::from(ran.stderr.contains("in Nix's database"));
        story.check_failed(&ran, free);
    }
    assert!(unpacking >= 5, "{unpacking}");
    // The database has its files by then; it needs pages.
    assert!(registering > 0 || matches!(resource, Resource::Inodes));
    story.verify(1);
    story.converges();
}

#[test]
fn a_disk_that_is_full_at_any_page_of_a_substitution_is_as_empty_afterwards_as_before() {
    sweep(SmallDisk::tmpfs("size=32m"), Resource::Pages);
}

#[test]
fn a_disk_that_lacks_one_inode_at_any_file_of_a_substitution_has_them_all_back_afterwards() {
    sweep(SmallDisk::tmpfs("size=32m,nr_inodes=500"), Resource::Inodes);
}

#[test]
fn what_cannot_fit_is_refused_before_a_nar_is_asked_for() {
    let text = "x".repeat(1 << 20);
    let story = Story::new(SmallDisk::tmpfs("size=32m,nr_inodes=600"), &[("large", &text)]);
    let server = Server::new(&story.builder.cache());
    let refused = |options: &[&str]| {
        let ran = run(&mut story.copy_from(&server.url(), options));
        story.check_failed(&ran, story.disk.free());
        let asked = server.take_requests();
        assert!(asked.iter().all(|asked| !asked.path().starts_with("/nar/")), "{asked:?}");
        ran.stderr
    };
    story.disk.leave_bytes(3 << 20);
    let said = refused(&[]);
    assert!(said.contains("MiB are needed, ") && said.contains("KiB are missing"), "{said}");
    story.disk.give_back();
    let said = refused(&["--min-free", "22M"]);
    assert!(said.contains("22.0 MiB must stay free"), "{said}");
    story.disk.leave_inodes(100);
    let said = refused(&[]);
    assert!(said.contains("inodes are needed, ") && said.contains("inodes are missing"), "{said}");
    story.converges();
}

/// Somebody else fills the disk up while a NAR is on its way.
#[test]
fn a_floor_holds_whenever_somebody_else_fills_the_disk() {
    let text = "x".repeat(1 << 20);
    let story = Story::new(SmallDisk::tmpfs("size=32m"), &[("large", &text)]);
    const FLOOR: u64 = 8 << 20;
    for (number, left) in [(1, FLOOR - PAGE), (2, FLOOR + PAGE), (3, FLOOR + (1 << 20)), (1, 0)] {
        let free = story.disk.free();
        let server = Server::new(&story.builder.cache());
        let (filler, folder) = (story.disk.filler(), story.builder.cache());
        let nars = AtomicUsize::new(0);
        server.hook(move |asked| {
            let nar = asked.path().starts_with("/nar/");
            if nar && nars.fetch_add(1, Ordering::Relaxed) + 1 == number {
                filler.leave_bytes(left);
            }
            Some(Response::file(&folder, asked))
        });
        let ran = run(&mut story.copy_from(&server.url(), &["--min-free", "8M"]));
        assert!(ran.stderr.contains("8.0 MiB must stay free"), "{ran}");
        story.disk.give_back();
        story.check_failed(&ran, free);
    }
    story.verify(1);
    story.converges();
}

/// As on a laptop's disk. Only root can mount one: for others the story fails and says so.
#[test]
fn an_ext4_that_fills_up_anywhere_is_as_empty_afterwards_as_before() {
    let disk = || SmallDisk::ext4("48M", "96M", "-b 4096 -m 0 -N 512");
    sweep(disk(), Resource::Pages);
    sweep(disk(), Resource::Inodes);
}

#[test]
fn what_a_disk_keeps_for_root_is_not_for_us() {
    let text = "x".repeat(1 << 20);
    let disk = SmallDisk::ext4("48M", "96M", "-b 4096 -m 25");
    let story = Story::new(disk, &[("large", &text)]);
    story.disk.leave_bytes(PAGE);
    let (free, said) = (story.disk.free(), story.copy());
    assert!(free.0 <= PAGE, "{free:?}");
    story.check_failed(&said, free);
    story.converges();
}

/// A disk behind the disk is full, as with thin volumes: what is written is lost, and the kernel
/// says so only when it is synced.
#[test]
fn what_a_failing_disk_lost_never_becomes_valid() {
    let text: String = (0..400_000).map(|number| format!("{number:x}")).collect();
    let disk = SmallDisk::ext4("48M", "40M", "-b 4096 -m 0");
    let story = Story::new(disk, &[("large", &text)]);
    story.disk.sync();
    story.disk.backing().leave_bytes(256 * 1024);
    let ran = story.copy();
    assert_eq!(ran.code, Some(3), "{ran}");
    assert!(ran.stderr.contains("os error 5") || ran.stderr.contains("os error 30"), "{ran}");
    story.disk.backing().leave_bytes(u64::MAX);
    story.disk.repair();
    story.verify(1);
    story.converges();
}

#[test]
fn too_few_descriptors_are_told_and_leave_nothing_behind() {
    let story = Story::new(SmallDisk::tmpfs("size=32m"), &[("a/b/c/d/e/f", "deep")]);
    let mut told = 0;
    for limit in 14..40 {
        let mut limited = tool("prlimit");
        let copy = story.copy_from(&story.builder.cache_url(), &[]);
        limited.arg(format!("--nofile={limit}:{limit}")).arg(copy.get_program());
        limited.args(copy.get_args());
        let ran = run(&mut limited);
        if ran.code == Some(0) {
            story.start_again();
            continue;
        }
        assert_eq!(ran.code, Some(3), "{ran}");
        told += usize::from(ran.stderr.contains("LimitNOFILE"));
        // What had arrived whole may stay; everything else has gone.
        story.verify(story.paths().len() - 1);
        story.start_again();
    }
    assert!(told > 3, "{told}");
    story.verify(1);
    story.converges();
}
