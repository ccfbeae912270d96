use std::fs;

use jiff::Timestamp;
use shared::id::HostId;
use shared::report::{Clock, FORMAT, Free, TrustState};
use shared::version::SoftwareVersion;

use super::*;

pub(crate) fn report(counter: u64) -> Report {
    Report {
        format: FORMAT,
        realm: "main".parse().unwrap(),
        host: HostId([1; 32]),
        name: "web-1".parse().unwrap(),
        boot_id: "boot".to_owned(),
        counter,
        nonce: None,
        time: Timestamp::UNIX_EPOCH.into(),
        agent: SoftwareVersion::current(),
        system: "x86_64-linux".parse().unwrap(),
        labels: BTreeMap::new(),
        clock: Clock::Unknown,
        free: Free { store: None, boot: None },
        systems: None,
        trust: TrustState { root: 1, timestamp: None, snapshot: None, signed_at: None },
        profiles: Vec::new(),
    }
}

fn put(outbox: &mut Outbox, counter: u64, worth: Worth) {
    outbox.put(Waiting { report: report(counter), worth }).unwrap();
}

/// Takes everything out, oldest first.
fn drain(outbox: &mut Outbox) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(waiting) = outbox.next() {
        numbers.push(waiting.report.counter);
        outbox.taken(waiting.report.counter);
    }
    numbers
}

#[test]
fn the_newest_state_and_every_end_wait_in_their_order_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::of(folder.path());
    for (number, worth) in [
        (8, Worth::State),
        (9, Worth::End),
        (10, Worth::State),
        (11, Worth::State),
        (12, Worth::End),
        (13, Worth::State),
    ] {
        put(&mut outbox, number, worth);
    }
    let mut again = Outbox::of(folder.path());
    assert_eq!(again.last(), Some(13));
    assert_eq!(drain(&mut again), [9, 12, 13]);
    assert!(drain(&mut again).is_empty());
}

#[test]
fn what_there_is_no_room_for_is_dropped_from_the_oldest_and_never_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::with(folder.path(), Room { reports: 3, bytes: 1 << 20 });
    for number in 1..=9 {
        put(&mut outbox, number, Worth::End);
    }
    assert_eq!(drain(&mut outbox), [7, 8, 9]);
    let mut outbox = Outbox::with(folder.path(), Room { reports: 99, bytes: 10 });
    put(&mut outbox, 10, Worth::End);
    put(&mut outbox, 11, Worth::State);
    assert_eq!(drain(&mut outbox), [11]);
}

#[test]
fn a_damaged_file_is_set_aside_and_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::of(folder.path());
    put(&mut outbox, 1, Worth::End);
    put(&mut outbox, 2, Worth::End);
    let path = folder.path().join("outbox/00000000000000000001.end");
    fs::write(&path, "{\"half\":").unwrap();
    fs::write(folder.path().join("outbox/nonsense.end"), "").unwrap();
    assert_eq!(drain(&mut outbox), [2]);
    assert!(!path.exists() && path.with_extension("aside").exists());
    for number in 3..99 {
        fs::write(folder.path().join(format!("outbox/{number:020}.end")), "").unwrap();
    }
    assert!(drain(&mut outbox).is_empty());
    assert_eq!(outbox.names("aside").len(), MAX_ASIDE);
}

#[test]
fn a_disk_that_takes_nothing_leaves_the_reports_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::of(folder.path());
    put(&mut outbox, 1, Worth::End);
    // Nothing can be written below this name.
    fs::rename(folder.path().join("outbox"), folder.path().join("kept")).unwrap();
    fs::write(folder.path().join("outbox"), "").unwrap();
    for (number, worth) in [(2, Worth::End), (3, Worth::State), (4, Worth::State)] {
        outbox.put(Waiting { report: report(number), worth }).unwrap_err();
    }
    assert_eq!(outbox.next().unwrap().report.counter, 2);
    fs::remove_file(folder.path().join("outbox")).unwrap();
    fs::rename(folder.path().join("kept"), folder.path().join("outbox")).unwrap();
    assert_eq!(drain(&mut outbox), [1, 2, 4]);
}

#[test]
fn a_challenge_numbers_all_that_waits_above_what_the_registry_has_seen() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::of(folder.path());
    for (number, worth) in [(3, Worth::End), (4, Worth::End), (5, Worth::State)] {
        put(&mut outbox, number, worth);
    }
    assert_eq!(outbox.challenged("n1", 90).unwrap(), 93);
    let first = outbox.next().unwrap();
    assert_eq!((first.report.counter, first.report.nonce.as_deref()), (91, Some("n1")));
    assert_eq!(drain(&mut outbox), [91, 92, 93]);
    // A registry that knows nothing of this host is told the same numbers again.
    put(&mut outbox, 94, Worth::State);
    assert_eq!(outbox.challenged("n2", 0).unwrap(), 94);
    assert_eq!(outbox.next().unwrap().report.nonce.as_deref(), Some("n2"));
}
