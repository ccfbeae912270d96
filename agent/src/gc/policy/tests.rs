use proptest::prelude::*;
use shared::id::{Digest, ProfileName};
use shared::version::VersionNumber;

use super::*;
use crate::state::{
    Activation, Attempt, Checkup, Code, Desired, EpochVersion, Obstacle, Pin, Reason, Refused,
    Running, Wanted,
};

const DAY: i64 = 86_400;

fn path(number: u64) -> StorePath {
    let name = format!("9a455acx720hx0zfwn0q7gn8y2jrvllr-web-{number}");
    StorePath::from_base_name(&name).unwrap()
}

fn day(day: i64) -> Timestamp {
    Timestamp::from_second(day * DAY).unwrap()
}

/// One generation a day.
fn generations(count: u64) -> Vec<Generation> {
    let made = |number| Generation {
        number,
        path: path(number),
        created: day(i64::try_from(number).unwrap()),
    };
    (1..=count).map(made).collect()
}

fn profile(state: State) -> Profile {
    let name = ProfileName::parse("web").unwrap();
    let mut known = Profile::new(None, name, Timestamp::UNIX_EPOCH);
    known.state = state;
    known
}

fn steady() -> State {
    State::Steady { obstacle: None }
}

fn running(generation: u64) -> Running {
    let (version, path, checkup) = (None, path(generation), Checkup::default());
    Running { version, path, generation, activation: Activation::None, checkup, unsure: false }
}

fn wanted(number: u64) -> Wanted {
    let version = VersionNumber::new(u32::try_from(number).unwrap()).unwrap();
    Wanted {
        version: EpochVersion { epoch: 0, version },
        path: path(number),
        closure: Digest::parse(&"0".repeat(64)).unwrap(),
        activation: Activation::None,
        checkup: Checkup::default(),
    }
}

const fn confirming(attempt: Attempt, generation: u64) -> State {
    State::Confirming { attempt, generation, begun: Timestamp::UNIX_EPOCH, passed: None }
}

fn attempt(from: Option<u64>, target: Target) -> Attempt {
    let (id, boot_id) = ("a".to_owned(), "b".to_owned());
    Attempt { id, from: from.map(running), target, boot_id, starts: 1, reboots: 0 }
}

fn deleted(known: &Profile, current: u64, systems: &Systems, keep: Option<&Keep>) -> Vec<u64> {
    let generations = generations(6);
    let verdicts = judge(known, &generations, Some(current), systems, keep, day(10));
    let pairs = generations.iter().zip(verdicts);
    pairs.filter(|(_, verdict)| !verdict.keeps()).map(|(it, _)| it.number).collect()
}

#[track_caller]
fn check(known: &Profile, current: u64, newest: usize, since: Option<i64>, expected: &[u64]) {
    let keep = Keep { newest, since: since.map(day) };
    assert_eq!(deleted(known, current, &Systems::default(), Some(&keep)), expected);
}

#[test]
fn the_newest_and_the_current_are_kept() {
    let rests = profile(steady());
    check(&rests, 6, 2, None, &[1, 2, 3, 4]);
    check(&rests, 3, 2, None, &[1, 2, 4]);
    check(&rests, 6, 0, None, &[1, 2, 3, 4, 5]);
    check(&rests, 3, 0, None, &[1, 2, 4, 5, 6]);
    check(&rests, 6, 9, None, &[]);
}

#[test]
fn what_was_current_at_that_time_is_kept() {
    let rests = profile(steady());
    // Generation 4 came on day 4 and still was current at the beginning of day 5.
    check(&rests, 6, 0, Some(5), &[1, 2, 3]);
    check(&rests, 6, 5, Some(5), &[1]);
    check(&rests, 6, 0, Some(0), &[]);
    check(&rests, 1, 0, Some(9), &[2, 3, 4, 5]);
}

#[test]
fn each_generation_has_its_reason() {
    let mut known = profile(State::Staged { target: Target::Generation { running: running(2) } });
    known.running = Some(running(3));
    let systems = Systems {
        booted: Some(path(1)),
        activated: Some(path(4)),
        boot_defaults: [path(5)].into(),
    };
    let keep = Keep { newest: 2, since: Some(day(8)) };
    let generations = generations(9);
    let verdicts = judge(&known, &generations, Some(6), &systems, Some(&keep), day(10));
    let told: Vec<_> = verdicts.iter().map(|it| (it.code(), it.text(day(10)))).collect();
    let expected = [
        ("booted", "booted from it"),
        ("staged", "a switch to it waits"),
        ("last_good", "last good"),
        ("activated", "the activated system"),
        ("boot_default", "boots from it next"),
        ("current", "current"),
        ("recent", "replaced only 2d ago"),
        ("newest", "one of the newest 2"),
        ("newest", "one of the newest 2"),
    ];
    assert_eq!(told, expected.map(|(code, text)| (code, text.to_owned())));

    let four = &generations[..4];
    let judge = |keep| judge(&profile(steady()), four, Some(4), &Systems::default(), keep, day(10));
    let old = judge(Some(&keep));
    assert_eq!(old[1], Verdict::Delete { replaced: Some(day(3)) });
    assert_eq!(old[1].text(day(10)), "replaced 7d ago");
    assert_eq!(judge(None)[1], Verdict::Keep(Why::NoRule));
}

#[test]
fn nothing_goes_of_a_profile_that_is_pinned_until_the_pin_ends() {
    let mut pinned = profile(steady());
    let pin = |until| Pin { reason: "by hand".to_owned(), since: Timestamp::UNIX_EPOCH, until };
    pinned.pin = Some(pin(None));
    check(&pinned, 6, 0, None, &[]);
    pinned.pin = Some(pin(Some(day(11))));
    check(&pinned, 6, 0, None, &[]);
    pinned.pin = Some(pin(Some(day(9))));
    check(&pinned, 6, 4, None, &[1, 2]);
}

#[test]
fn nothing_goes_of_a_profile_that_is_switching_or_has_failed() {
    let reason = || Reason::new(Code::Interrupted, "x");
    let under_way = || attempt(Some(5), Target::Wanted { wanted: wanted(6) });
    for state in [
        State::Starting,
        State::Switching { attempt: under_way() },
        State::RebootPending { attempt: under_way(), generation: 6 },
        confirming(under_way(), 6),
        State::RollingBack { attempt: under_way(), reason: reason(), restored: None },
        State::Failed { reason: reason(), above: None },
    ] {
        check(&profile(state), 6, 0, None, &[]);
    }
}

#[test]
fn a_switch_names_what_it_leads_to_and_back_to() {
    let under_way = attempt(Some(2), Target::Wanted { wanted: wanted(3) });
    let known = profile(State::Switching { attempt: under_way });
    let verdicts = judge(&known, &generations(4), Some(4), &Systems::default(), None, day(10));
    let codes: Vec<_> = verdicts.into_iter().map(Verdict::code).collect();
    assert_eq!(codes, ["unsettled", "rollback_target", "attempt", "current"]);
}

#[test]
fn what_is_wanted_is_needed_while_it_is_held_and_no_longer() {
    let mut known = profile(steady());
    known.running = Some(running(1));
    known.desired = Desired::Freeze { reason: Reason::new(Code::PolicyHold, "x") };
    known.wanted = Some(wanted(2));
    assert_eq!(paths_of(&known), [&path(1), &path(2)].into());
    let at = Timestamp::UNIX_EPOCH;
    let reason = Reason::new(Code::ActivationFailed, "x");
    known.refused = Some(Refused { version: wanted(2).version, reason: reason.clone(), at });
    assert_eq!(paths_of(&known), [&path(1)].into());

    let obstacle = Obstacle { wanted: wanted(3), reason, until: at, failures: 1 };
    known.state = State::Steady { obstacle: Some(obstacle) };
    assert_eq!(paths_of(&known), [&path(1), &path(3)].into());
    known.state = State::RollingBack {
        attempt: attempt(Some(4), Target::Wanted { wanted: wanted(5) }),
        reason: Reason::new(Code::HealthFailed, "x"),
        restored: None,
    };
    assert_eq!(paths_of(&known), [&path(1), &path(4), &path(5)].into());
}

fn some_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (1..15_u64).prop_map(|number| Target::Wanted { wanted: wanted(number) }),
        (1..15_u64).prop_map(|number| Target::Generation { running: running(number) }),
        Just(Target::Nothing),
    ]
}

fn some_state() -> impl Strategy<Value = State> {
    let under_way = (proptest::option::of(1..15_u64), some_target());
    let under_way = under_way.prop_map(|(from, target)| attempt(from, target));
    let reason = || Reason::new(Code::Interrupted, "x");
    let obstacle = move |number| Obstacle {
        wanted: wanted(number),
        reason: reason(),
        until: Timestamp::UNIX_EPOCH,
        failures: 1,
    };
    prop_oneof![
        Just(State::Starting),
        proptest::option::of(1..15_u64)
            .prop_map(move |number| State::Steady { obstacle: number.map(obstacle) }),
        (1..15_u64).prop_map(|number| State::Fetching {
            wanted: wanted(number),
            failures: 0,
            pause: None
        }),
        some_target().prop_map(|target| State::Staged { target }),
        (under_way, 1..15_u64, 0..4_u8).prop_map(move |(attempt, generation, kind)| match kind {
            0 => State::Switching { attempt },
            1 => State::RebootPending { attempt, generation },
            2 => confirming(attempt, generation),
            _ => State::RollingBack { attempt, reason: reason(), restored: None },
        }),
        Just(State::Failed { reason: reason(), above: None }),
    ]
}

fn some_profile() -> impl Strategy<Value = Profile> {
    let number = || proptest::option::of(1..15_u64);
    (some_state(), number(), number(), any::<bool>()).prop_map(
        |(state, last_good, next, pinned)| {
            let mut known = profile(state);
            known.running = last_good.map(running);
            known.wanted = next.map(wanted);
            known.pin = pinned.then(|| Pin {
                reason: "x".to_owned(),
                since: Timestamp::UNIX_EPOCH,
                until: None,
            });
            known
        },
    )
}

fn some_keep() -> impl Strategy<Value = Keep> {
    let since = proptest::option::of(0..20_i64);
    (0..16_usize, since).prop_map(|(newest, since)| Keep { newest, since: since.map(day) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_rule_what_is_needed_stays(
        known in some_profile(),
        count in 0..15_u64,
        current in proptest::option::of(1..15_u64),
        booted in proptest::option::of(1..15_u64),
        keep in some_keep(),
    ) {
        let generations = generations(count);
        let systems = Systems { booted: booted.map(path), ..Systems::default() };
        let judge = |keep: Option<&Keep>| {
            judge(&known, &generations, current, &systems, keep, day(20))
        };
        let verdicts = judge(Some(&keep));
        prop_assert_eq!(verdicts.len(), generations.len());
        // What the switch, if one is under way, leads to and back to; under its own number or path.
        let needed = paths_of(&known);
        let rests = matches!(known.state, State::Steady { .. } | State::Fetching { .. } | State::Staged { .. });
        for (index, (generation, verdict)) in generations.iter().zip(&verdicts).enumerate() {
            let newer = generations.len() - 1 - index;
            if verdict.keeps() {
                continue;
            }
            prop_assert!(rests && known.pin.is_none());
            prop_assert_ne!(Some(generation.number), current);
            prop_assert_ne!(Some(generation.number), booted);
            prop_assert_ne!(Some(generation.number), known.running.as_ref().map(|it| it.generation));
            prop_assert!(newer >= keep.newest);
            let replaced = generations.get(index + 1).map(|next| next.created);
            prop_assert!(keep.since.is_none_or(|since| replaced.is_some_and(|at| at < since)));
            // Its path stays for as long as a journal needs it, whatever becomes of the link.
            if let State::Staged { target: Target::Generation { running } } = &known.state {
                prop_assert_ne!(generation.number, running.generation);
                prop_assert!(needed.contains(&running.path));
            }
        }
        prop_assert!(judge(None).iter().all(|verdict| verdict.keeps()));
        // Whoever keeps more deletes nothing else.
        let more = Keep { newest: keep.newest + 1, since: keep.since };
        for (less, more) in verdicts.iter().zip(judge(Some(&more))) {
            prop_assert!(!less.keeps() || more.keeps());
        }
    }

    #[test]
    fn every_path_of_the_journal_is_a_root(known in some_profile()) {
        let needed = paths_of(&known);
        if let Some(running) = &known.running {
            prop_assert!(needed.contains(&running.path));
        }
        let text = serde_json::to_value(&known.state).unwrap().to_string();
        for number in 1..15 {
            let path = path(number);
            if text.contains(&format!("{path}\"")) {
                prop_assert!(needed.contains(&path), "{}", text);
            }
        }
    }
}
