use std::collections::BTreeMap;

use super::*;
use crate::{manifest::HostFacts, version::SoftwareVersion};

fn host(name: &str) -> HostFacts {
    let system = "x86_64-linux".parse().unwrap();
    HostFacts { name: name.parse().unwrap(), system, labels: BTreeMap::new() }
}

/// An entry for these hosts, or for every one.
fn entry(hosts: &[&str], number: u64) -> Entry {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let selector =
        Selector { system: "x86_64-linux".parse().unwrap(), hosts, labels: BTreeMap::new() };
    let path = format!("/nix/store/{}-system-{number}", "0".repeat(32)).parse().unwrap();
    Entry { selector, path, closure: Digest([7; 32]), paths: number + 1, nar_size: 1 }
}

/// One entry for each of so many hosts, and one for all others.
fn fleet(size: u64) -> Vec<Entry> {
    let own = (0..size).map(|number| entry(&[&format!("host-{number}")], number));
    own.chain([entry(&[], size)]).collect()
}

#[test]
fn every_host_finds_in_its_shard_what_it_would_have_found_in_the_manifest() {
    let entries = fleet(2000);
    let (shards, files) = split(&entries).unwrap();
    assert!(files.len() > 2 && files.iter().all(|file| file.len() <= MAX_LEN));
    for number in 0..2001 {
        let host = host(&format!("host-{number}"));
        let index = shards.index_of(&host.name);
        assert_eq!(shards.digest_of(&host.name), Some(Digest::of(&files[index])));
        let shard = shards.read(index, &files[index]).unwrap();
        let found = shard.entries.iter().find(|entry| entry.selector.matches(&host));
        assert_eq!(found, entries.iter().find(|entry| entry.selector.matches(&host)), "{number}");
    }
}

#[test]
fn the_first_bits_of_the_sha_256_of_its_name_say_where_a_host_belongs() {
    // printf host-1 | sha256sum: 4a17…
    let name = "host-1".parse().unwrap();
    let at = |bits: u8| Shards { bits, digests: Vec::new() }.index_of(&name);
    assert_eq!((at(1), at(4), at(8), at(16)), (0, 0x4, 0x4a, 0x4a17));
}

#[test]
fn the_shards_of_ten_thousand_hosts_fit_into_a_manifest_and_those_of_far_more_do_not() {
    let (shards, _) = split(&fleet(10_000)).unwrap();
    assert!(shards.is_complete() && serde_json::to_vec(&shards).unwrap().len() < 32 * 1024);
    let all: Vec<Entry> = std::iter::repeat_n(fleet(2000), 80).flatten().collect();
    assert_eq!(split(&all).unwrap_err(), ShardError::TooMany);
}

#[test]
fn a_shard_is_refused_that_is_not_the_one_or_not_of_its_form() {
    let (mut shards, files) = split(&fleet(4)).unwrap();
    let other = shards.read(0, &files[1]).unwrap_err();
    assert!(matches!(other, ShardError::OtherBytes { .. }), "{other}");
    assert!(shards.read(2, &files[0]).is_err(), "there is none");
    let mut refused = |bytes: &[u8]| {
        shards.digests[0] = Digest::of(bytes);
        shards.read(0, bytes).unwrap_err()
    };
    assert_eq!(refused(br#"{"format":2,"tree":[]}"#), ShardError::Format(2));
    assert!(refused(br#"{"format":2}"#).is_unsupported());
    for bytes in [&b"{}"[..], b"[]", br#"{"format":1}"#, br#"{"format":1,"entries":[],"x":1}"#] {
        assert!(matches!(refused(bytes), ShardError::Json(_)));
    }
    assert!(matches!(refused(&vec![b' '; MAX_LEN + 1]), ShardError::Json(_)));
    let mut empty = entry(&[], 0);
    empty.paths = 0;
    let bytes =
        |entry| serde_json::to_vec(&Shard { format: FORMAT, entries: vec![entry] }).unwrap();
    assert!(matches!(refused(&bytes(empty)), ShardError::Entry { number: 1, .. }));
    let strangers = (0..).map(|number| format!("host-{number}"));
    let mut strangers = strangers.filter(|name| place(mark(&name.parse().unwrap()), 1) == 1);
    let stranger = bytes(entry(&[&strangers.next().unwrap()], 0));
    assert!(matches!(refused(&stranger), ShardError::Entry { number: 1, .. }));
}

#[test]
fn shards_that_are_put_together_are_the_manifest_again() {
    let mut entries = fleet(300);
    // Entries for hosts of several shards, and for all, between the others.
    entries.insert(0, entry(&["host-1", "host-2", "host-3", "host-4", "host-5"], 1000));
    entries.insert(150, entry(&["host-200", "host-1"], 1001));
    let mut labelled = entry(&[], 1002);
    labelled.selector.labels.insert("region".parse().unwrap(), "eu".parse().unwrap());
    entries.insert(200, labelled);
    let (shards, files) = split(&entries).unwrap();
    let read = files.iter().enumerate().map(|(index, file)| shards.read(index, file).unwrap());
    let joined = join(read.collect()).unwrap();
    assert_eq!(joined.len(), entries.len());
    assert_eq!(split(&joined).unwrap(), (shards, files));

    let (one, two) = (entry(&[], 1), entry(&["host-1"], 2));
    let shard =
        |entries: [&Entry; 2]| Shard { format: FORMAT, entries: entries.map(Entry::clone).into() };
    let torn = join(vec![shard([&one, &two]), shard([&two, &one])]);
    assert_eq!(torn, Err(ShardError::Order));
}

#[test]
fn a_manifest_has_shards_only_if_it_is_too_long_without() {
    let manifest = |hosts| {
        let text = crate::manifest::tests::golden();
        let mut manifest = Manifest::parse(text.as_bytes(), SoftwareVersion::current()).unwrap();
        manifest.entries = fleet(hosts);
        manifest
    };
    let (small, files) = fit(manifest(3)).unwrap();
    assert!(small.shards.is_none() && files.is_empty() && small.entries.len() == 4);
    let (large, files) = fit(manifest(2000)).unwrap();
    assert!(large.entries.is_empty() && large.to_bytes().is_ok());
    assert_eq!(large.shards.unwrap().digests.len(), files.len());
    let mut broken = manifest(2000);
    broken.activation.timeout = 0;
    assert!(matches!(fit(broken), Err(FitError::Manifest(_))));
}
