//! The disk keeps what it was told to flush, and of the rest what it likes.

use std::{fs, panic, path::Path};

use tests::{
    Machine, Nix, Ran, Random, Server,
    guest::{
        disk,
        write_log::{Cache, WriteLog},
    },
    long, run, scratch, shoal,
};

use super::lab::{DISK, Lab, PATHS};

/// Versions that the host takes while its disk takes notes; one more is published.
const ROUNDS: usize = 3;

/// What the machine had said when the power went.
struct Moment {
    /// Rounds that were over.
    over: usize,
    /// The last word.
    last: String,
}

/// Returns what the machine had said before entry `end` was written.
fn moment(marks: &[(usize, Vec<u8>)], end: usize) -> Moment {
    let said = marks.iter().filter(|(entry, _)| *entry < end);
    let said: Vec<_> =
        said.map(|(_, text)| String::from_utf8_lossy(text).trim().to_owned()).collect();
    let over = said.iter().filter(|text| text.ends_with("is over")).count();
    Moment { over, last: said.last().cloned().unwrap_or_default() }
}

/// Switches on what is left of the host, and checks that it lost nothing and converges.
fn judge(lab: &Lab, server: &Server, image: &Path, moment: &Moment) {
    disk::recover(image);
    let folder = scratch();
    let data = folder.path();
    disk::extract(image, data);
    let config = lab.config(&server.url(), data, &lab.path("payload/cache"));
    fs::write(data.join("agent.toml"), config).unwrap();
    let agent = |words: &[&str]| -> Ran {
        run(shoal("agent").arg("--config").arg(data.join("agent.toml")).args(words))
    };
    let profiles = data.join("root/nix/var/nix/profiles/shoal");
    let current = || {
        let link =
            fs::read_link(profiles.join("web")).and_then(|it| fs::read_link(profiles.join(it)));
        link.map_or_else(|_| String::new(), |path| path.to_str().unwrap().to_owned())
    };
    let nix = Nix::at(&data.join("root"));

    if data.join("root/nix/var/nix/db/schema").exists() {
        nix.verify();
    }
    let status = agent(&["status", "--json"]);
    assert!(serde_json::from_str::<serde_json::Value>(&status.stdout).is_ok(), "{status}");
    assert!(lab.may_run(moment.over).contains(&&*current()), "{}: {}", moment.last, current());

    agent(&["once"]).ok();
    nix.verify();
    let newest = ROUNDS + 1;
    assert_eq!(current(), lab.root(newest));
    agent(&["gc", "--keep", "1"]).ok();
    let entries = fs::read_dir(data.join("root/nix/store")).unwrap();
    let entries = entries.filter(|entry| entry.as_ref().unwrap().file_name() != ".links").count();
    assert_eq!(entries, PATHS, "the generation that is kept, and nothing else");
    nix.verify();
}

#[test]
fn whatever_a_disk_keeps_of_what_it_was_not_told_to_flush_the_host_converges() {
    let lab = Lab::new(ROUNDS + 1);
    let server = Server::new(&lab.mirror());
    let (base, image, log) = (lab.path("base.img"), lab.path("data.img"), lab.path("log"));
    disk::make(&base, DISK, None);
    // One sector more, for the marks.
    fs::OpenOptions::new().write(true).open(&base).unwrap().set_len(DISK + 4096).unwrap();
    disk::copy(&base, &image);
    let machine = Machine::new(&lab.path("payload.img")).logged_disk(&image, &log);
    let words = format!("from=1 to={ROUNDS} eager=0 marks={}", DISK / 512);
    let console = machine.start(&words).ends();
    assert!(console.contains("## main ended with 0"), "{console}");

    let log = WriteLog::open(&log);
    let marks = log.written_from(DISK);
    let begin = marks.first().expect("the host says how far it is").0;
    assert!(marks.iter().all(|(_, text)| text.len() == 512), "they went around the cache");
    assert_eq!(moment(&marks, log.len()).over, ROUNDS, "{console}");
    let mut random = Random::new("power::flushes");
    println!("{} entries, {} flushes", log.len(), log.flushes());
    let cut = lab.path("cut.img");
    for count in 0..if long() { 500 } else { 15 } {
        let end = begin + usize::try_from(random.below((log.len() - begin) as u64)).unwrap() + 1;
        let chance = [0, 50, random.below(100), 100][count % 4];
        let moment = moment(&marks, end);
        println!("cut {count}: before entry {end}, {chance} % kept, after `{}`", moment.last);
        log.cut(&base, end, Cache::Kept(chance), &mut random, &cut);
        judge(&lab, &server, &cut, &moment);
    }

    // All of this can fail: a disk that only says that it flushed is found out.
    log.cut(&base, log.len(), Cache::Lying(50), &mut random, &cut);
    let found_out =
        panic::AssertUnwindSafe(|| judge(&lab, &server, &cut, &moment(&marks, log.len())));
    assert!(panic::catch_unwind(found_out).is_err(), "nothing was checked");
}
