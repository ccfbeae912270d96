//! Whatever ends a substitution, and whenever: a store without a fault, and nothing left behind
//! once the next run has come to its end.

mod closure;
mod listing;
mod subject;

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustix::process::Signal;
use tests::{Random, run};

use self::subject::{Subject, WAYS, Way, World};

/// Rounds that run at the same time.
const HANDS: usize = 2;

/// Returns what all stories here share, as long as one of them needs it.
fn world() -> Arc<World> {
    static WORLD: Mutex<Weak<World>> = Mutex::new(Weak::new());
    let mut shared = WORLD.lock().unwrap_or_else(PoisonError::into_inner);
    let world = shared.upgrade().unwrap_or_else(|| Arc::new(World::new()));
    *shared = Arc::downgrade(&world);
    world
}

/// Does `work` so many times, with several hands; each time gets its number.
fn repeat(times: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= times {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

/// Does `work` so many times, each time with chance of its own; a round that fails says how to have
/// it again, as the first one.
fn roll(story: &str, rounds: u64, work: impl Fn(&mut Random) + Sync) {
    let seed = Random::new(story).seed();
    repeat(rounds, |round| {
        let seed = seed.wrapping_add(round);
        let hint = Hint(format!("{story}: round {round} is the first with SHOAL_SEED={seed}"));
        work(&mut Random::seeded(seed));
        drop(hint);
    });
}

/// Words for whoever looks at a failure.
struct Hint(String);

impl Drop for Hint {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.0);
        }
    }
}

#[test]
fn kill_9_at_any_moment_of_a_substitution() {
    let world = world();
    let (kills, died) = (AtomicU64::new(0), AtomicU64::new(0));
    roll("crashes", if tests::long() { 1000 } else { 50 }, |random| {
        let subject = Subject::new(&world, *random.pick(&WAYS));
        // Every third time, whoever tidies up dies over it as well.
        for _ in 0..if random.once_in(3) { 2 } else { 1 } {
            kills.fetch_add(1, Ordering::Relaxed);
            died.fetch_add(subject.kill(&world, random).into(), Ordering::Relaxed);
            subject.check_interrupted();
        }
        subject.arrive(&world);
        subject.check_arrived(&world);
    });
    let (kills, died) = (kills.into_inner(), died.into_inner());
    println!("{died} of {kills} kills came in time");
    assert!(died > kills / 4, "{died} of {kills} kills came in time");
}

/// Places, and at which passage to die there; see the agent's module `crash`.
const PLACES: [&str; 15] = [
    "substitute.rooted",
    "substitute.locked",
    "substitute.started",
    "substitute.unpacked",
    // Within the largest path, which comes first.
    "substitute.unpacked:9",
    "substitute.unpacked:60",
    "substitute.finished",
    "substitute.finished:40",
    "substitute.finished:124",
    "substitute.finished:125",
    "substitute.registering",
    "substitute.synced",
    "substitute.inserted",
    "substitute.committed",
    "substitute.unlocked",
];

/// Places that only a host with a manifest passes.
const MORE_PLACES: [&str; 3] = ["fetch.valid", "fetch.rooted", "root.removed"];

#[test]
fn kill_9_at_every_step_of_a_substitution() {
    let world = world();
    assert_eq!(world.closure.paths, 125, "the last path that finishes has a place here");
    let copies = PLACES.iter().map(|place| (*place, Way::Folder));
    let hosts = PLACES.iter().chain(&MORE_PLACES).map(|place| (*place, Way::Once));
    // In CI, each step where it is closest to what is under test.
    let hosts = hosts.skip(if tests::long() { 0 } else { 12 });
    let all: Vec<(&str, Way)> = copies.chain(hosts).collect();
    repeat(all.len() as u64, |number| {
        let (place, way) = all[usize::try_from(number).unwrap()];
        let subject = Subject::new(&world, way);
        let died = subject.command(&world).env("SHOAL_CRASH_AT", place).output().unwrap();
        assert_eq!(died.status.signal(), Some(9), "{way:?} never passed `{place}`: {died:?}");
        subject.check_interrupted();
        subject.arrive(&world);
        subject.check_arrived(&world);
    });
}

#[test]
fn a_signal_stops_a_substitution_and_leaves_nothing_behind() {
    let world = world();
    let stopped = AtomicU64::new(0);
    roll("signals", if tests::long() { 100 } else { 10 }, |random| {
        let subject = Subject::new(&world, *random.pick(&WAYS));
        // To a daemon, that a terminal ends is nothing.
        let ends = if subject.way() == Way::Daemon { 2 } else { 3 };
        let signal = *random.pick(&[Signal::INT, Signal::TERM, Signal::HUP][..ends]);
        let ended = subject.stop(&world, random, signal);
        match (subject.way(), ended.code()) {
            (Way::Daemon, Some(0)) => {}
            (Way::Folder | Way::Server | Way::Once, Some(130)) => {
                stopped.fetch_add(1, Ordering::Relaxed);
            }
            // It was there already.
            (Way::Folder | Way::Server | Way::Once, Some(0)) => {}
            // It came before anybody listened: as a crash.
            _ if ended.signal() == Some(signal.as_raw()) => {}
            (way, _) => panic!("{way:?} ended with {ended} at {signal:?}"),
        }
        if ended.signal().is_none() {
            subject.check_stopped();
        }
        subject.check_interrupted();
        subject.arrive(&world);
        subject.check_arrived(&world);
    });
    assert!(stopped.into_inner() > 0, "no signal came in time");
}

#[test]
fn of_two_at_the_same_closure_one_is_killed_and_the_other_brings_it() {
    let world = world();
    roll("two", if tests::long() { 100 } else { 6 }, |random| {
        let subject = Subject::new(&world, *random.pick(&[Way::Folder, Way::Server]));
        let mut second = subject.command(&world);
        let second = thread::scope(|scope| {
            let second = scope.spawn(|| run(&mut second));
            subject.kill(&world, random);
            second.join().unwrap()
        });
        second.ok();
        subject.check_interrupted();
        // Whatever the dead one wrote down, the next one finds.
        subject.arrive(&world);
        subject.check_arrived(&world);
    });
}
