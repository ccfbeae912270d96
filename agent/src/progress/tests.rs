use std::cell::Cell;

use expect_test::expect;
use shared::nix::StorePath;
use store::substitute::{FaultCause, Plan};

use super::*;

fn path(number: usize) -> StorePath {
    StorePath::from_base_name(&format!("{}-p", format!("{number:02}").repeat(16))).unwrap()
}

fn plan(paths: usize, nar_size: u64) -> Plan {
    Plan { missing: (0..paths).map(path).collect(), nar_size, valid: 3 }
}

const MIB: u64 = 1 << 20;

#[test]
fn every_event_names_its_form() {
    let told =
        |line: &Line<'_>| serde_json::to_string(&Told { schema: "progress.v1", line }).unwrap();
    let lines = [
        Line::Planned { paths: 2, nar_size: 9, valid: 1 },
        Line::Progress { paths: 1, unpacked: 5, downloaded: 4, rate: None, seconds_left: None },
        Line::Progress {
            paths: 1,
            unpacked: 5,
            downloaded: 4,
            rate: Some(2),
            seconds_left: Some(2),
        },
        Line::Finished { path: "/p".to_owned(), cache: "c" },
        Line::Fault { path: "/p".to_owned(), cache: "c", text: "t".to_owned() },
        Line::Done { paths: 2, nar_size: 9, downloaded: 8, seconds: 3, caches: &[] },
    ];
    expect![[r#"
        {"schema":"progress.v1","event":"planned","paths":2,"nar_size":9,"valid":1}
        {"schema":"progress.v1","event":"progress","paths":1,"unpacked":5,"downloaded":4}
        {"schema":"progress.v1","event":"progress","paths":1,"unpacked":5,"downloaded":4,"rate":2,"seconds_left":2}
        {"schema":"progress.v1","event":"finished","path":"/p","cache":"c"}
        {"schema":"progress.v1","event":"fault","path":"/p","cache":"c","text":"t"}
        {"schema":"progress.v1","event":"done","paths":2,"nar_size":9,"downloaded":8,"seconds":3,"caches":[]}"#]]
    .assert_eq(&lines.iter().map(told).collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_lines_of_a_whole_run_with_a_cache_that_fails_in_the_middle() {
    let counters = Counters::default();
    let part = counters.part();
    let now = Cell::new(Duration::ZERO);
    let hear = |event: &Event<'_>| counters.hear(&part, event, now.get());
    let mut lines = Vec::new();
    let mut at = |seconds: u64| {
        now.set(Duration::from_secs(seconds));
        lines.push(counters.text(now.get(), None));
    };
    at(0);
    hear(&Event::Discovered { paths: 7 });
    at(1);
    hear(&Event::Planned(&plan(3, 100 * MIB)));
    at(2);
    let (one, other) = ("https://one.example", "https://other.example");
    hear(&Event::Started { path: &path(0), cache: one, nar_size: 60 * MIB });
    hear(&Event::Unpacked(50 * MIB));
    at(12);
    hear(&Event::Dropped(50 * MIB));
    let cause = FaultCause::Absent;
    let fault = Fault { cache: one.to_owned(), path: path(0), cause };
    hear(&Event::Faulty(&fault));
    at(22);
    hear(&Event::Started { path: &path(0), cache: other, nar_size: 60 * MIB });
    hear(&Event::Unpacked(60 * MIB));
    hear(&Event::Finished { path: &path(0), cache: other });
    at(32);
    // More than was said, or counted twice: nobody sees more than all of it.
    hear(&Event::Unpacked(70 * MIB));
    hear(&Event::Finished { path: &path(1), cache: one });
    at(42);
    hear(&Event::Spared { paths: 1, nar_size: 10 });
    at(43);
    hear(&Event::Registering);
    at(44);
    lines.push(counters.done().text(75));
    expect![[r#"
        asking what there is to do
        7 paths known so far
        0%, 0 B of 100.0 MiB, 0/3 paths
        50%, 50.0 MiB of 100.0 MiB, 0/3 paths, 4.5 MiB/s, 12s left, from https://one.example
        0%, 0 B of 100.0 MiB, 0/3 paths, 0 B/s, stalled, from https://one.example
        60%, 60.0 MiB of 100.0 MiB, 1/3 paths, 3.0 MiB/s, 14s left, from https://other.example (1), https://one.example (0)
        99%, 100.0 MiB of 100.0 MiB, 2/3 paths, 5.0 MiB/s, from https://one.example (1), https://other.example (1)
        100%, 100.0 MiB of 100.0 MiB, 3/3 paths, 4.7 MiB/s, from https://one.example (1), https://other.example (1)
        all is here; it is written to disk and becomes valid
        copied 3 paths, 100.0 MiB (0 B downloaded) in 1m 15s"#]].assert_eq(&lines.join("\n"));
    assert_eq!(counters.faults(), [(1, fault.line())]);
    assert_eq!(Counters::default().done().text(1), "everything is there already");
}

#[test]
fn two_closures_at_once_are_counted_together_and_one_that_begins_again_once() {
    let counters = Counters::default();
    let parts = [counters.part(), counters.part()];
    let hear = |part: usize, event: &Event<'_>| counters.hear(&parts[part], event, Duration::ZERO);
    hear(0, &Event::Planned(&plan(3, 100)));
    hear(1, &Event::Planned(&plan(2, 50)));
    hear(0, &Event::Unpacked(40));
    hear(0, &Event::Finished { path: &path(0), cache: "c" });
    hear(1, &Event::Unpacked(5));
    let numbers = || {
        let done = counters.done();
        (done.paths, done.nar_size, done.finished, done.unpacked, done.phase)
    };
    assert_eq!(numbers(), (5, 150, 1, 45, Phase::Fetching));
    // The disk was full; room was made, and it begins again.
    hear(0, &Event::Ended);
    hear(0, &Event::Planned(&plan(3, 100)));
    assert_eq!(numbers(), (5, 150, 0, 5, Phase::Fetching));
    hear(0, &Event::Ended);
    hear(1, &Event::Ended);
    assert_eq!(counters.done().phase, Phase::Over);
}
