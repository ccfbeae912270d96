use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A cache of priority 0, and a clock.
struct Case {
    health: Health,
    now: Instant,
}

impl Case {
    fn new() -> Self {
        Self { health: Health::default(), now: Instant::now() }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn fail(&mut self) -> Option<Duration> {
        self.health.asked(self.now);
        self.health.failed(self.now, self.now, None, 1.0)
    }

    fn lie(&mut self) -> Option<Duration> {
        self.health.asked(self.now);
        self.health.lied(self.now, self.now, 0.0)
    }

    fn deliver(&mut self) {
        self.health.asked(self.now);
        self.health.delivered(self.now);
    }

    fn standing(&self) -> Standing {
        self.health.standing(0, self.now)
    }

    fn is_left_out(&self) -> bool {
        self.standing().is_left_out()
    }
}

#[test]
fn three_failures_in_a_row_leave_a_cache_out_and_one_success_between_them_does_not() {
    let mut case = Case::new();
    for _ in 0..10 {
        assert_eq!((case.fail(), case.fail()), (None, None));
        assert!(case.standing().is_sick && !case.is_left_out());
        case.deliver();
        assert!(!case.standing().is_sick);
    }
    assert_eq!((case.fail(), case.fail()), (None, None));
    assert_eq!(case.fail(), Some(UNREACHABLE.base));
    assert!(case.is_left_out());
}

#[test]
fn a_failure_makes_a_cache_come_last_for_a_minute() {
    let mut case = Case::new();
    case.fail();
    case.pass(SICK_MEMORY - SECOND);
    assert!(case.standing().is_sick);
    case.pass(SECOND);
    assert!(!case.standing().is_sick);
}

#[test]
fn a_cache_comes_back_by_one_request_that_tries_it() {
    let mut case = Case::new();
    let wait: Duration = (0..3).filter_map(|_| case.fail()).sum();
    case.pass(wait - SECOND);
    assert!(case.is_left_out());
    case.pass(SECOND);
    assert!(!case.is_left_out() && case.standing().is_sick);
    case.health.asked(case.now);
    assert!(case.is_left_out(), "others wait for what comes of it");
    case.health.delivered(case.now);
    assert!(!case.is_left_out() && !case.standing().is_sick);
}

#[test]
fn a_trial_that_nobody_ends_makes_room_for_the_next_one() {
    let mut case = Case::new();
    let wait: Duration = (0..3).filter_map(|_| case.fail()).sum();
    case.pass(wait);
    case.health.asked(case.now);
    case.pass(TRIAL - SECOND);
    assert!(case.is_left_out());
    case.pass(SECOND);
    assert!(!case.is_left_out());
}

#[test]
fn each_trial_that_fails_doubles_the_time_up_to_a_cap() {
    let mut case = Case::new();
    let mut waits: Vec<_> = (0..3).filter_map(|_| case.fail()).collect();
    for _ in 0..6 {
        case.pass(*waits.last().unwrap());
        waits.extend(case.fail());
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600].map(Duration::from_secs));
}

#[test]
fn connections_that_break_at_once_count_once() {
    let mut case = Case::new();
    let asked = case.now;
    case.pass(SECOND);
    let waits: Vec<_> =
        (0..12).filter_map(|_| case.health.failed(asked, case.now, None, 1.0)).collect();
    assert_eq!(waits, [UNREACHABLE.base]);
    // So do those of a trial and of what was under way with it.
    case.pass(waits[0]);
    case.health.asked(case.now);
    assert_eq!(case.health.failed(asked, case.now, None, 1.0), None);
    assert_eq!(case.health.failed(case.now, case.now, None, 1.0), Some(2 * UNREACHABLE.base));
}

#[test]
fn a_lie_leaves_out_at_once_and_for_longer_than_any_failure() {
    let mut case = Case::new();
    let wait = case.lie().unwrap();
    assert!(wait >= UNREACHABLE.cap, "{wait:?}");
    assert!(case.is_left_out());
    // Good answers do not make it honest before the time, also not as the last resort.
    case.pass(SECOND);
    case.deliver();
    assert!(case.is_left_out());
    // Nor does it get away with a failure.
    assert_eq!((case.fail(), case.fail()), (None, None));
    case.fail();
    assert_eq!(case.standing().left_out.unwrap().1, Why::Lied);
    case.pass(wait);
    assert!(!case.is_left_out());
    case.deliver();
    assert!(!case.standing().is_sick);
}

#[test]
fn that_it_does_not_have_something_makes_no_liar_honest() {
    let mut case = Case::new();
    let wait = case.lie().unwrap();
    case.pass(wait);
    case.health.asked(case.now);
    case.health.answered(case.now);
    assert!(!case.is_left_out(), "the next one tries it");
    case.health.asked(case.now);
    assert!(case.is_left_out());
}

#[test]
fn a_liar_that_lies_again_is_left_out_for_longer_and_a_day_later_it_begins_anew() {
    let mut case = Case::new();
    let longest = |case: &mut Case| {
        case.health.asked(case.now);
        case.health.lied(case.now, case.now, 1.0).unwrap()
    };
    let mut waits = Vec::new();
    for _ in 0..7 {
        let wait = longest(&mut case);
        case.pass(wait);
        case.deliver();
        waits.push(wait.as_secs() / 60);
    }
    assert_eq!(waits, [20, 40, 80, 160, 320, 360, 360]);
    case.pass(LIE_MEMORY);
    assert_eq!(longest(&mut case), LIAR.base);
}

#[test]
fn who_asks_for_a_pause_gets_it_up_to_a_cap() {
    let mut case = Case::new();
    let pause = |case: &mut Case, seconds: u64| {
        case.health.failed(case.now, case.now, Some(Duration::from_secs(seconds)), 0.0)
    };
    assert_eq!(pause(&mut case, 7), Some(7 * SECOND));
    assert!(case.is_left_out());
    case.pass(7 * SECOND);
    assert!(!case.is_left_out());
    assert_eq!(pause(&mut case, u64::MAX), Some(MAX_ASKED));
}

#[test]
fn what_was_under_way_before_does_not_bring_a_cache_back() {
    let mut case = Case::new();
    let asked = case.now;
    case.pass(SECOND);
    for _ in 0..3 {
        case.fail();
    }
    case.health.delivered(asked);
    assert!(case.is_left_out());
    // The last resort does: it was asked although it was left out, and is well.
    case.deliver();
    assert!(!case.is_left_out());
}

#[test]
fn the_lower_priority_is_first_then_the_healthy_then_the_order_given() {
    let now = Instant::now();
    let well = |priority| Health::default().standing(priority, now);
    assert_eq!(choose(&[]), None);
    assert_eq!(choose(&[well(10), well(5), well(5)]), Some(1));
    let mut sick = Case::new();
    sick.fail();
    let sick = |priority| sick.health.standing(priority, sick.now);
    assert_eq!(choose(&[sick(5), well(5)]), Some(1));
    assert_eq!(choose(&[well(6), sick(5)]), Some(1), "priority outranks a single failure");
}

#[test]
fn of_caches_that_are_all_left_out_the_least_bad_is_chosen() {
    let (mut liar, mut gone, mut long_gone) = (Case::new(), Case::new(), Case::new());
    liar.lie();
    for _ in 0..3 {
        gone.fail();
        long_gone.fail();
    }
    long_gone.pass(UNREACHABLE.base);
    long_gone.fail();
    let now = liar.now;
    let all = [&liar, &long_gone, &gone].map(|case| case.health.standing(0, now));
    assert_eq!(choose(&all), Some(2));
    assert_eq!(choose(&all[..2]), Some(0), "the other one was tried again, and failed");
    assert_eq!(choose(&[all[0], all[2]]), Some(1), "who may be back is better than a liar");
    assert_eq!(
        choose(&all[..1]),
        Some(0),
        "a liar is better than nothing: what it says is checked"
    );
    let well = Health::default().standing(99, now);
    assert_eq!(choose(&[all[2], well]), Some(1), "whatever its priority");
}

#[test]
fn the_last_resort_that_delivers_is_asked_before_one_that_does_not() {
    let (mut liar, mut gone) = (Case::new(), Case::new());
    liar.lie();
    assert_eq!((0..3).filter_map(|_| gone.fail()).count(), 1);
    let choice = |liar: &Case, gone: &Case| choose(&[liar.standing(), gone.standing()]);
    assert_eq!(choice(&liar, &gone), Some(1));
    gone.pass(SECOND);
    gone.fail();
    liar.deliver();
    assert_eq!(choice(&liar, &gone), Some(0), "else each path would wait for it in vain");
    liar.pass(SECOND);
    liar.lie();
    assert_eq!(choice(&liar, &gone), Some(1));
}

#[test]
fn a_much_slower_cache_comes_after_its_peers_and_gets_its_chance_again() {
    let mut case = Case::new();
    let slow = |case: &mut Case, rate: u64| {
        case.health = Health::default();
        for _ in 0..5 {
            case.health.measured(SECOND / 10, SECOND, rate, case.now);
        }
        case.health.clone()
    };
    let (mib, now) = (1024 * 1024, case.now);
    let [crawls, walks, runs] = [mib / 8, mib, 8 * mib].map(|rate| slow(&mut case, rate));
    let order = |peers: [&Health; 2], now| choose(&peers.map(|peer| peer.standing(0, now)));
    assert_eq!(order([&crawls, &walks], now), Some(1));
    assert_eq!(
        order([&crawls, &Health::default()], now),
        Some(1),
        "somebody unknown may be faster"
    );
    assert_eq!(order([&walks, &runs], now), Some(1));
    assert_eq!(order([&runs, &walks], now), Some(0));
    assert_eq!(order([&walks, &Health::default()], now), Some(0), "fast enough");
    assert_eq!(order([&crawls, &walks], now + SPEED_MEMORY), Some(0));
    // Never against a priority.
    assert_eq!(choose(&[crawls.standing(1, now), runs.standing(2, now)]), Some(0));
}

#[test]
fn small_answers_say_nothing_of_the_rate() {
    let mut case = Case::new();
    for _ in 0..50 {
        // 1 KiB within 5 ms is no 200 KiB/s cache.
        case.health.measured(SECOND / 100, SECOND / 200, 1024, case.now);
    }
    assert_eq!(choose(&[case.standing(), Health::default().standing(0, case.now)]), Some(0));
}

#[test]
fn a_cache_is_far_if_all_its_first_answers_took_long() {
    let (soon, late) = (NEAR, NEAR + Duration::from_millis(1));
    let after = |answers: &[Duration]| {
        let mut health = Health::default();
        answers.iter().for_each(|took| health.began(*took));
        health
    };
    assert!(!after(&[late; 3]).is_far(), "too early to tell");
    assert!(!after(&[late, late, soon, late]).is_far());
    let mut far = after(&[late, late, late, late, soon]);
    assert!(far.is_far(), "on a connection that is there already, the fifth took half as long");
    far.opened(soon);
    assert!(!far.is_far());
}
