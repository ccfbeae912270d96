//! The whole of trust at work: a realm, a host, and what must not happen between them.

use proptest::prelude::*;

use super::test_realm::{REALM, TestHost, TestRealm, day, key, ring};
use super::writer::{Document, Target, Targets};
use super::{Clock, Error, Refresh, Rules, Synchronised, Verdict};

fn code<T>(result: Result<T, Error>) -> &'static str {
    match result {
        Ok(_) => "accepted",
        Err(error) => error.code(),
    }
}

#[test]
fn a_host_finds_what_was_published_and_knows_who_signed_it() {
    let realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    let found = host.find(&realm, "eu/webshop").expect("found");
    assert_eq!(found.target.get(), b"eu/webshop version 1");
    assert_eq!(found.target.role(), "shop");
    assert_eq!(found.target.signers(), [key("shop", 0).public().key_id()]);
    let sha256 = Target::of(b"eu/webshop version 1").sha256.to_hex();
    assert_eq!(
        host.fetched,
        [
            "2.root.json",
            "timestamp.json",
            "3.snapshot.json",
            "1.targets.json",
            "2.shop.json",
            &format!("eu/{sha256}.webshop"),
        ]
    );
}

#[test]
fn nothing_known_is_fetched_twice() {
    let mut realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    host.find(&realm, "eu/webshop").expect("found");
    host.fetched.clear();
    host.find(&realm, "eu/webshop").expect("found again");
    assert_eq!(host.fetched, ["2.root.json", "timestamp.json"]);

    realm.publish("media", "eu/video", b"another team's news");
    host.fetched.clear();
    host.find(&realm, "eu/webshop").expect("found again");
    assert_eq!(host.fetched, ["2.root.json", "timestamp.json", "4.snapshot.json"]);
}

#[test]
fn after_a_poll_with_nothing_new_the_stored_state_serves_until_it_expires() {
    let realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    host.find(&realm, "eu/webshop").expect("found");
    let open = |days| {
        let clock = Clock::synchronised(day(days));
        Refresh::offline(host.rules.clone(), &host.pinned, host.stored.clone(), clock)
    };
    let trusted = open(2).expect("still fresh");
    let known = host.targets["eu/webshop"].clone();
    let lookup = trusted.lookup("eu/webshop", known).expect("a delegation");
    assert_eq!(lookup.finish().expect("stored").target.get(), b"eu/webshop version 1");
    assert_eq!(code(open(3)), "expired");
}

#[test]
fn a_team_cannot_reach_beyond_its_fence() {
    let mut realm = TestRealm::new();
    realm.publish("shop", "eu/video", b"not ours");
    realm.publish("shop", "eu/_policy", b"nor this");
    let mut host = TestHost::of(&realm);
    assert_eq!(host.find(&realm, "eu/video").expect("found").target.role(), "media");
    assert_eq!(host.find(&realm, "eu/_policy").expect("found").target.role(), "owners.eu");
    assert_eq!(code(host.find(&realm, "us/webshop")), "not_listed");
    assert_eq!(code(host.find(&realm, "../webshop")), "fence");
}

#[test]
fn another_teams_broken_role_does_not_hurt() {
    type Break = fn(&mut TestRealm);
    let broken: [(&str, Break); 4] = [
        ("malformed", |realm| realm.put_role_bytes("media", 3, b"{".to_vec())),
        ("signed by nobody", |realm| {
            let role = realm.with_target("media", "eu/video", b"x");
            realm.put_role(&role, 9);
        }),
        ("expired", |realm| {
            let mut role = realm.with_target("media", "eu/video", b"x");
            role.header.expires = day(-1).into();
            realm.put_role(&role, 0);
        }),
        ("missing", |realm| {
            realm.put_role_bytes("media", 3, Vec::new());
            realm.files.remove("3.media.json");
        }),
    ];
    for (what, break_it) in broken {
        let mut realm = TestRealm::new();
        let mut host = TestHost::of(&realm);
        break_it(&mut realm);
        realm.commit();
        let error = host.find(&realm, "eu/video").expect_err(what);
        assert_eq!(error.verdict() == Verdict::Behind, what == "missing", "{what}");
        host.find(&realm, "eu/webshop").expect(what);
    }
}

#[test]
fn a_part_of_a_team_publishes_within_both_fences() {
    let mut realm = TestRealm::new();
    let mut shop = realm.roles["shop"].clone();
    shop.header.version += 1;
    shop.delegate(super::writer::Delegation {
        role: "shop.ci".to_owned(),
        ring: ring("shop.ci", 0),
        patterns: vec!["*/web-ci*".parse().expect("a pattern")],
    })
    .expect("a delegation");
    realm.put_role(&shop, 0);
    realm.put_role(&Targets::empty("shop.ci", realm.header(1, 300)), 0);
    realm.publish("shop.ci", "eu/web-ci", b"by the CI");
    realm.publish("shop.ci", "us/web-ci", b"beyond the team's fence");
    let mut host = TestHost::of(&realm);
    assert_eq!(host.find(&realm, "eu/web-ci").expect("found").target.role(), "shop.ci");
    assert_eq!(code(host.find(&realm, "us/web-ci")), "not_listed");
}

#[test]
fn a_mirror_that_lags_is_behind_not_untrusted() {
    let old = TestRealm::new();
    let mut new = old.clone();
    new.publish("shop", "eu/webshop", b"2");
    let mut host = TestHost::of(&old);
    host.find(&new, "eu/webshop").expect("found");
    let error = host.refresh(&old).expect_err("older");
    assert_eq!((error.verdict(), error.code()), (Verdict::Behind, "source_behind"));

    let mut torn = old.clone();
    torn.files.insert("timestamp.json".to_owned(), new.files["timestamp.json"].clone());
    let error = TestHost::of(&old).refresh(&torn).expect_err("no snapshot");
    assert_eq!(error.verdict(), Verdict::Behind);

    let mut lying = new.clone();
    lying.files.insert("4.snapshot.json".to_owned(), old.files["3.snapshot.json"].clone());
    let error = TestHost::of(&old).refresh(&lying).expect_err("older snapshot");
    assert_eq!(error.verdict(), Verdict::Behind);
    host.find(&new, "eu/webshop").expect("the next source has it");
}

#[test]
fn the_same_version_with_other_content_is_a_fork_and_with_other_signatures_is_not() {
    let realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    host.refresh(&realm).expect("fresh");

    let mut fork = realm.clone();
    fork.timestamp -= 1;
    fork.today = 1;
    fork.write_timestamp();
    assert_eq!(code(host.refresh(&fork)), "fork");

    let mut fork = realm.clone();
    fork.versions.insert("shop".to_owned(), 5);
    fork.snapshot -= 1;
    fork.commit();
    assert_eq!(code(host.refresh(&fork)), "fork");

    let mut resigned = realm.clone();
    let bytes = &realm.files["timestamp.json"];
    let mut document =
        Document::read(bytes, "timestamp", &Rules::shoal(REALM)).expect("a timestamp");
    document.sign(&key("stranger", 0));
    resigned.files.insert("timestamp.json".to_owned(), document.to_bytes());
    host.refresh(&resigned).expect("the same content");
}

#[test]
fn a_snapshot_takes_nothing_back() {
    let realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    host.refresh(&realm).expect("fresh");
    for version in [None, Some(1)] {
        let mut changed = realm.clone();
        changed.versions.remove("shop");
        changed.versions.extend(version.map(|version| ("shop".to_owned(), version)));
        changed.commit();
        assert_eq!(code(host.refresh(&changed)), "rollback", "{version:?}");
    }
}

#[test]
fn a_chain_of_roots_leads_to_the_last() {
    let mut realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    host.refresh(&realm).expect("fresh");
    realm.root.header.version = 2;
    realm.root.root.keys = vec![key("root", 1).public(), key("root", 2).public()];
    realm.write_root(&[0, 1, 2]);
    realm.root.header.version = 3;
    realm.write_root(&[1, 2]);
    let trusted = host.refresh(&realm).expect("the third root");
    assert_eq!(trusted.version("root"), Some(3));

    for (what, signers) in [("by the old keys alone", &[0, 1][..]), ("by the new alone", &[1, 2])] {
        let mut forged = realm.clone();
        forged.root.header.version = 4;
        forged.root.root.keys = vec![key("root", 3).public(), key("root", 4).public()];
        forged.write_root(signers);
        assert_eq!(code(host.refresh(&forged)), "bad_signature", "{what}");
    }
    let mut skipped = realm.clone();
    skipped.root.header.version = 5;
    skipped.write_root(&[1, 2]);
    let bytes = skipped.files["5.root.json"].clone();
    skipped.files.insert("4.root.json".to_owned(), bytes);
    assert_eq!(code(host.refresh(&skipped)), "root_version");
}

#[test]
fn a_stored_root_serves_only_the_pin_it_was_reached_from() {
    let mut realm = TestRealm::new();
    realm.root.header.version = 2;
    realm.write_root(&[0, 1]);
    let mut host = TestHost::of(&realm);
    host.refresh(&realm).expect("fresh");
    host.fetched.clear();
    host.refresh(&realm).expect("fresh");
    assert_eq!(host.fetched[0], "3.root.json");
    host.pinned = realm.files["2.root.json"].clone();
    host.refresh(&realm).expect("pinned anew");
    assert_eq!(host.stored.root, Some(host.pinned.clone()));
    let stranger = TestRealm::new();
    host.pinned = stranger.files["1.root.json"].clone();
    host.refresh(&realm).expect("the chain is walked again");
}

#[test]
fn new_online_keys_forget_versions_and_times_that_ran_ahead() {
    let mut realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    let mut stolen = realm.clone();
    stolen.timestamp = 4_000_000_000;
    stolen.today = 2000;
    stolen.root.header.expires = day(9000).into();
    stolen.write_timestamp();
    let clock = Clock { now: day(0), synchronised: Synchronised::No };
    host.refresh_at(&stolen, clock).expect("accepted, alas");
    assert_eq!(code(host.refresh(&realm)), "source_behind");

    realm.rotate_online_keys();
    realm.today = 1;
    realm.commit();
    let clock = Clock { now: day(1), synchronised: Synchronised::No };
    let trusted = host.refresh_at(&realm, clock).expect("recovered");
    assert_eq!((trusted.version("root"), trusted.version("timestamp")), (Some(2), Some(4)));
    assert_eq!(trusted.now(), day(1));
}

#[test]
fn new_online_keys_take_back_nothing_that_others_signed() {
    let old = TestRealm::new();
    let mut realm = old.clone();
    realm.publish("shop", "eu/webshop", b"eu/webshop version 2");
    let mut host = TestHost::of(&realm);
    host.find(&realm, "eu/webshop").expect("found");

    // The snapshot is new, and a registry would lead back to what was there before.
    let mut back = old;
    back.timestamp = realm.timestamp;
    back.rotate_online_keys();
    back.commit();
    let error = host.find(&back, "eu/webshop").expect_err("an older role");
    assert_eq!(error.verdict(), Verdict::Behind);

    // With another key for the role, the old one is forgotten with all that it signed.
    let mut targets = back.roles["targets"].clone();
    targets.header.version += 1;
    targets.delegations[0].ring = ring("shop", 1);
    back.put_role(&targets, 0);
    back.put_role(&back.roles["shop"].clone(), 1);
    back.commit();
    let found = host.find(&back, "eu/webshop").expect("signed by the new key");
    assert_eq!(found.target.get(), b"eu/webshop version 1");

    let mut without = back.clone();
    targets.header.version -= 1;
    without.put_role(&targets, 0);
    without.rotate_online_keys();
    without.commit();
    let error = host.refresh(&without).expect_err("older targets");
    assert_eq!(error.verdict(), Verdict::Behind);
}

#[test]
fn expiry_is_judged_by_the_later_of_clock_and_signed_time() {
    let mut realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    realm.today = 2;
    realm.write_timestamp();
    host.refresh(&realm).expect("fresh");
    let now =
        |days, synchronised| Clock { now: day(days), synchronised }.effective(host.stored.floor);
    assert_eq!(now(-400, Synchronised::No), day(2), "a clock without battery");
    assert_eq!(now(-400, Synchronised::Yes), day(-399), "never outranked by more than a day");
    assert_eq!(now(5, Synchronised::Yes), day(5));
}

#[test]
fn a_freeze_ends_in_expiry() {
    let mut realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    for (today, expected) in [(0, "accepted"), (2, "accepted"), (3, "expired"), (400, "expired")] {
        realm.today = today;
        assert_eq!(code(host.refresh(&realm)), expected, "{today}");
    }
}

#[test]
fn no_key_signs_itself_eternity() {
    let mut realm = TestRealm::new();
    let mut role = realm.with_target("shop", "eu/webshop", b"for ever");
    role.header.expires = day(100_000).into();
    realm.put_role(&role, 0);
    realm.root.header.version = 2;
    realm.root.header.expires = day(100_000).into();
    realm.write_root(&[0, 1]);
    let mut targets = realm.roles["targets"].clone();
    targets.header.version = 2;
    targets.header.expires = day(100_000).into();
    realm.put_role(&targets, 0);
    realm.commit();
    let mut host = TestHost::of(&realm);
    host.find(&realm, "eu/webshop").expect("fresh");
    for (today, expected) in [(179, "accepted"), (180, "expired")] {
        realm.today = today;
        realm.commit();
        assert_eq!(code(host.find(&realm, "eu/webshop")), expected, "{today}");
    }
    targets.header.version = 3;
    realm.put_role(&targets, 0);
    for (today, expected) in [(399, "accepted"), (400, "expired")] {
        realm.today = today;
        realm.commit();
        assert_eq!(code(host.find(&realm, "eu/webshop")), expected, "{today}: version 3 is new");
    }
}

#[test]
fn a_file_of_another_realm_is_refused_even_if_the_keys_are_the_same() {
    let realm = TestRealm::new();
    let mut host = TestHost::of(&realm);
    host.rules = Rules::shoal("other");
    assert_eq!(code(host.refresh(&realm)), "wrong_realm");
}

#[test]
fn only_what_was_asked_for_is_taken() {
    let realm = TestRealm::new();
    let host = TestHost::of(&realm);
    let clock = Clock::synchronised(day(0));
    let mut refresh = Refresh::new(host.rules, &host.pinned, host.stored, clock).expect("a root");
    let timestamp = realm.files["timestamp.json"].clone();
    assert_eq!(code(refresh.feed("timestamp.json", Some(timestamp))), "untrusted");
    assert!(matches!(refresh.finish(), Err(Error::Unfinished)));
}

#[test]
fn more_delegations_than_anybody_needs_are_refused_before_they_are_compared() {
    let mut targets = TestRealm::new().roles["targets"].clone();
    let patterns = (0..5000).map(|number| format!("eu/p{number}").parse().expect("a pattern"));
    targets.delegations[0].patterns = patterns.collect();
    let error = targets.document().expect_err("too many");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("more than 4096 patterns"));
}

#[test]
fn oversized_files_are_refused_before_they_are_parsed() {
    let mut realm = TestRealm::new();
    let size = 10 * 1024 * 1024;
    realm.files.insert("timestamp.json".to_owned(), vec![b'['; size]);
    assert_eq!(code(TestHost::of(&realm).refresh(&realm)), "too_large");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever bit of whatever file flips, a host ends with an error or with the same bytes.
    #[test]
    fn no_flipped_bit_changes_what_a_host_takes(file: prop::sample::Index, bit: prop::sample::Index) {
        let mut realm = TestRealm::new();
        realm.rotate_online_keys();
        realm.commit();
        let sha256 = Target::of(b"eu/webshop version 1").sha256.to_hex();
        let names = ["2.root.json", "timestamp.json", "4.snapshot.json", "1.targets.json",
            "2.shop.json", &format!("eu/{sha256}.webshop")];
        let name = names[file.index(names.len())];
        let bytes = realm.files.get_mut(name).expect("a file");
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = TestHost::of(&realm).find(&realm, "eu/webshop");
        prop_assert!(result.is_err(), "{name} bit {bit}");
    }

    /// Whatever JSON stands in the place of whatever member, reading it ends, and in no panic.
    #[test]
    fn no_misplaced_value_brings_a_reader_down(
        file: prop::sample::Index,
        place: prop::sample::Index,
        value in prop::sample::select(vec![
            "null", "true", "-1", "0", "1.5", "1e999", "18446744073709551615", "{}", "[]",
            "[[[[[]]]]]", "\"\"", "\"../..\"", "\"\u{e9}\"", "{\"\":{}}",
            "\"9999-99-99T99:99:99Z\"", "[{\"name\":\"x\",\"keyids\":[],\"threshold\":0}]",
        ]),
    ) {
        let realm = TestRealm::new();
        let names = ["1.root.json", "timestamp.json", "3.snapshot.json", "1.targets.json"];
        let text = String::from_utf8(realm.files[names[file.index(4)]].clone()).expect("text");
        let members: Vec<usize> = text.match_indices("\":").map(|(at, _)| at + 2).collect();
        let start = members[place.index(members.len())];
        let length = value_length(&text[start..]);
        let changed = format!("{}{value}{}", &text[..start], &text[start + length..]);
        for rules in [Rules::shoal(REALM), Rules::conformance()] {
            for role in ["root", "timestamp", "snapshot", "targets", "shop"] {
                drop(Document::read(changed.as_bytes(), role, &rules));
            }
        }
    }
}

/// Returns the length of the JSON value that a text begins with.
fn value_length(text: &str) -> usize {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    values.next().expect("a value").expect("JSON");
    values.byte_offset()
}
