//! One case after the other, told as sentences.

use super::*;

#[test]
fn a_first_switch_goes_through_every_state_to_converged() {
    let mut host = Host::new();
    host.feed(Event::Desired(run(1, 1)));
    let mut words = vec![host.profile.explain(host.now).word];
    while !host.pending.is_empty() {
        host.act(End::Works);
        words.push(host.profile.explain(host.now).word);
    }
    use StateWord::{Confirming, Converged, Fetching, Switching, Waiting};
    assert_eq!(words, [Fetching, Waiting, Switching, Confirming, Converged]);
    assert_eq!(host.profile.running.as_ref().unwrap().version, Some(version(0, 1)));
}

fn converged_on(number: u32, root: u8) -> Host {
    let mut host = Host::new();
    host.feed(Event::Desired(run(number, root)));
    host.settle();
    assert_eq!(host.profile.explain(host.now).word, StateWord::Converged);
    host
}

fn until_switching(host: &mut Host) {
    while !matches!(host.pending.first(), Some(Action::Switch(_))) {
        host.act(End::Works);
    }
}

#[test]
fn a_failed_version_is_rolled_back_and_refused_until_a_newer_one_or_retry() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 2)));
    until_switching(&mut host);
    host.act(End::Fails);
    host.settle();
    let explained = host.profile.explain(host.now);
    assert_eq!(explained.word, StateWord::RolledBack);
    assert_eq!(explained.reason.unwrap().code, Code::ActivationFailed);
    assert_eq!(explained.next.unwrap(), "agent retry app");
    assert_eq!(host.active, Some(path(1)));

    host.feed(Event::Desired(run(2, 2)));
    assert!(host.pending.is_empty(), "not tried again by itself");
    host.feed(Event::Retry);
    host.settle();
    assert_eq!(host.active, Some(path(2)));

    host.feed(Event::Desired(run(3, 3)));
    until_switching(&mut host);
    host.act(End::Fails);
    host.settle();
    host.feed(Event::Desired(run(4, 3)));
    host.settle();
    assert_eq!(host.active, Some(path(3)));
}

#[test]
fn an_older_version_is_not_taken() {
    let mut host = converged_on(5, 1);
    host.feed(Event::Desired(run(4, 2)));
    let explained = host.profile.explain(host.now);
    assert_eq!(explained.reason.unwrap().code, Code::VersionWentBack);
    assert!(host.pending.is_empty());
    let epoch = Desired::Run { wanted: wanted(version(1, 1), 2) };
    host.feed(Event::Desired(epoch));
    host.settle();
    assert_eq!(host.active, Some(path(2)), "a higher epoch begins anew");
}

#[test]
fn a_pin_lets_fetch_but_not_switch() {
    let mut host = converged_on(1, 1);
    host.happens(Happening::Pin);
    host.feed(Event::Desired(run(2, 2)));
    host.settle();
    assert!(matches!(host.profile.state, State::Staged { .. }));
    assert_eq!(host.profile.explain(host.now).word, StateWord::Pinned);
    host.happens(Happening::Unpin);
    host.settle();
    assert_eq!(host.active, Some(path(2)));
}

#[test]
fn a_pin_that_ends_wakes_the_profile() {
    let mut host = converged_on(1, 1);
    let until = host.now.checked_add(SignedDuration::from_secs(60)).unwrap();
    host.pin = Some(Pin { reason: "until tea".into(), since: host.now, until: Some(until) });
    host.feed(Event::Desired(run(2, 2)));
    host.settle();
    assert_eq!(host.profile.wakes_at(host.now), Some(until));
    host.happens(Happening::Later(60));
    host.settle();
    assert_eq!(host.active, Some(path(2)));
}

#[test]
fn a_signed_hold_keeps_what_runs_and_a_signed_stop_removes_it() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 2)));
    host.feed(Event::Desired(freeze(Code::PolicyHold)));
    host.settle();
    assert_eq!(host.profile.explain(host.now).word, StateWord::Held);
    assert_eq!(host.active, Some(path(1)));
    host.feed(Event::Desired(stop()));
    host.settle();
    assert_eq!(host.link(), None);
    assert_eq!(host.active, None);
    assert_eq!(host.profile.explain(host.now).word, StateWord::Converged);
}

#[test]
fn a_stop_that_fails_is_loud_and_taken_up_by_retry_alone() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(stop()));
    until_switching(&mut host);
    host.act(End::Fails);
    assert_eq!(host.profile.explain(host.now).word, StateWord::Failed);
    host.feed(Event::Desired(stop()));
    assert!(host.pending.is_empty());
    host.feed(Event::Retry);
    host.settle();
    assert_eq!(host.link(), None);
}

#[test]
fn a_failed_rollback_changes_nothing_more_until_a_newer_version_comes() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 2)));
    until_switching(&mut host);
    host.act(End::Fails);
    host.act(End::Fails);
    let explained = host.profile.explain(host.now);
    assert_eq!(explained.word, StateWord::Failed);
    assert_eq!(explained.reason.unwrap().code, Code::RollbackFailed);
    assert_eq!(host.link().unwrap().path, path(1));
    host.feed(Event::Desired(run(2, 2)));
    assert!(host.pending.is_empty());
    host.feed(Event::Desired(run(3, 3)));
    host.settle();
    assert_eq!(host.active, Some(path(3)));
}

#[test]
fn an_interrupted_switch_is_taken_up_once_and_then_rolled_back() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 2)));
    until_switching(&mut host);
    host.act(End::CrashBetween);
    assert!(matches!(host.pending.as_slice(), [Action::Switch(_)]));
    host.act(End::CrashBetween);
    assert!(matches!(host.pending.as_slice(), [Action::RollBack(_)]));
    host.settle();
    assert_eq!(host.active, Some(path(1)));
    assert_eq!(host.profile.refused.as_ref().unwrap().reason.code, Code::Interrupted);
}

#[test]
fn a_switch_that_goes_on_without_us_is_waited_for_however_often_we_are_restarted() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 2)));
    until_switching(&mut host);
    host.act(End::CrashBetween);
    let facts = Facts { at_work: true, ..host.facts() };
    for _ in 0..10 {
        let (profile, actions) = recover(host.profile.clone(), &facts, host.now);
        assert!(matches!(actions.as_slice(), [Action::Switch(_)]), "{actions:?}");
        assert_eq!(profile.state, host.profile.state);
    }
}

#[test]
fn an_unchanged_root_takes_the_new_version_without_a_switch() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 1)));
    assert!(host.pending.is_empty());
    assert_eq!(host.profile.running.as_ref().unwrap().version, Some(version(0, 2)));
    assert_eq!(host.profile.explain(host.now).word, StateWord::Converged);
}

#[test]
fn a_full_disk_waits_and_an_absent_cache_is_tried_again_with_growing_pauses() {
    let mut host = Host::new();
    host.feed(Event::Desired(run(1, 2)));
    host.act(End::Fails);
    let explained = host.profile.explain(host.now);
    assert_eq!(
        (explained.word, explained.reason.unwrap().code),
        (StateWord::Waiting, Code::DiskFull)
    );

    let mut host = Host::new();
    host.feed(Event::Desired(run(1, 1)));
    let mut pauses = Vec::new();
    for _ in 0..10 {
        host.act(End::Fails);
        assert_eq!(host.profile.explain(host.now).word, StateWord::Fetching);
        let until = host.profile.wakes_at(host.now).unwrap();
        pauses.push(until.duration_since(host.now).as_secs());
        host.feed(Event::Woke);
        assert!(host.pending.is_empty(), "too early");
        host.now = until;
        host.feed(Event::Woke);
    }
    assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
}

#[test]
fn what_a_stranger_put_there_is_what_a_failed_first_switch_goes_back_to() {
    let mut host = Host::new();
    host.happens(Happening::Stranger(3));
    host.feed(Event::Desired(run(1, 1)));
    until_switching(&mut host);
    host.act(End::Fails);
    host.settle();
    assert_eq!(host.link().unwrap().path, path(3));
}

#[test]
fn a_lost_journal_keeps_what_runs_until_the_operator_or_a_newer_version_says_otherwise() {
    let mut host = converged_on(1, 1);
    let name = ProfileName::parse("app").unwrap();
    host.profile = Profile::lost(name, "line 1".into(), host.now);
    host.restart();
    assert_eq!(host.profile.running.as_ref().unwrap().path, path(1));
    host.feed(Event::Desired(run(2, 2)));
    assert_eq!(host.profile.explain(host.now).word, StateWord::Failed);
    host.feed(Event::Desired(run(2, 2)));
    assert!(host.pending.is_empty());
    host.feed(Event::Desired(run(3, 2)));
    host.settle();
    assert_eq!(host.active, Some(path(2)));
}

#[test]
fn closed_windows_hold_back_fetch_and_switch_each_for_itself_and_say_until_when() {
    let mut host = converged_on(1, 2);
    let until = host.now.checked_add(SignedDuration::from_hours(1)).unwrap();
    let told = |host: &Host| {
        let explained = host.profile.explain(host.now);
        (explained.word, explained.reason.unwrap().code, explained.until)
    };
    host.happens(Happening::Windows(false, false, true));
    host.feed(Event::Desired(run(2, 4)));
    assert!(host.pending.is_empty());
    assert_eq!(told(&host), (StateWord::Waiting, Code::WindowClosed, Some(until)));
    assert_eq!(host.profile.wakes_at(host.now), Some(until));
    host.happens(Happening::Windows(true, false, true));
    host.settle();
    assert!(matches!(host.profile.state, State::Staged { .. }), "fetched, and not switched");
    assert_eq!(told(&host), (StateWord::Waiting, Code::WindowClosed, Some(until)));
    assert_eq!(host.profile.wakes_at(host.now), Some(until));
    assert_eq!(host.active, Some(path(2)));
    // Somebody on the host may go back at any time.
    host.happens(Happening::RollBack(0));
    host.settle();
    assert_eq!(host.profile.explain(host.now).word, StateWord::Pinned);
    host.happens(Happening::Unpin);
    host.happens(Happening::Windows(true, true, true));
    host.settle();
    assert_eq!(host.active, Some(path(4)));
    // What team or owners stop is stopped in a window as well.
    host.happens(Happening::Windows(true, false, true));
    host.feed(Event::Desired(stop()));
    host.settle();
    assert_eq!(host.active, Some(path(4)));
    host.happens(Happening::Windows(true, true, true));
    host.settle();
    assert_eq!(host.active, None);
}

#[test]
fn what_falls_ill_after_it_was_confirmed_is_told_and_stays() {
    let mut host = converged_on(1, 1);
    let explained = |host: &Host| host.profile.explain(host.now);
    host.happens(Happening::Looked(false));
    let told = explained(&host);
    assert_eq!((told.word, told.reason.unwrap().code), (StateWord::Failed, Code::Unhealthy));
    assert_eq!(told.next.unwrap(), "agent health app");
    assert_eq!((host.pending.len(), host.active.clone()), (0, Some(path(1))));
    assert_eq!(host.profile.healthy_since, None);
    host.feed(Event::Looked(99, None));
    assert_eq!(explained(&host).word, StateWord::Failed, "that was another generation");
    host.happens(Happening::Looked(true));
    assert_eq!(explained(&host).word, StateWord::Converged);
    // A newer version that passes its checks is the cure as well.
    host.happens(Happening::Looked(false));
    host.feed(Event::Desired(run(2, 3)));
    host.settle();
    assert_eq!(explained(&host).word, StateWord::Converged);
}

#[test]
fn what_is_not_healthy_after_going_back_either_is_loud() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 3)));
    until_switching(&mut host);
    host.act(End::Works);
    host.act(End::Fails);
    assert!(matches!(host.pending.as_slice(), [Action::RollBack(_)]));
    host.act(End::Works);
    assert!(matches!(host.pending.as_slice(), [Action::CheckHealth(_)]), "what ran before, too");
    host.act(End::CrashBefore);
    assert!(matches!(host.pending.as_slice(), [Action::CheckHealth(_)]), "and it goes on there");
    host.act(End::Fails);
    let told = host.profile.explain(host.now);
    assert_eq!((told.word, told.reason.unwrap().code), (StateWord::Failed, Code::RollbackFailed));
    assert_eq!(host.link().unwrap().path, path(1));
}

#[test]
fn the_verdict_on_another_attempt_decides_nothing() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 3)));
    until_switching(&mut host);
    host.act(End::Works);
    let state = host.profile.state.clone();
    let reason = Reason::new(Code::HealthFailed, "a test says so");
    for event in [
        Event::Healthy("another".into()),
        Event::Passed("another".into()),
        Event::Unhealthy("another".into(), reason, String::new()),
        Event::RollbackFailed(Reason::new(Code::RollbackFailed, "late"), String::new()),
    ] {
        host.feed(event);
        assert_eq!(host.profile.state, state);
    }
}

#[test]
fn a_reboot_while_checks_run_gives_them_all_their_time_again() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 3)));
    until_switching(&mut host);
    host.act(End::Works);
    let id = host.profile.examination().unwrap().id;
    host.feed(Event::Passed(id.clone()));
    host.happens(Happening::Later(100));
    host.act(End::CrashBefore);
    let resumed = host.profile.examination().unwrap();
    assert!(resumed.begun < host.now && resumed.passed.is_some(), "a new process goes on");
    host.reboot();
    let anew = host.profile.examination().unwrap();
    assert_eq!((anew.id, anew.begun, anew.passed), (id, host.now, None));
}

/// Moves the link while nobody looks, as `nix-env --set` in the middle of a switch would.
fn meddle(host: &mut Host) {
    host.good.insert(path(5));
    host.set_link(&path(5));
    host.restart();
}

#[test]
fn what_a_stranger_put_in_the_place_of_what_is_checked_is_not_confirmed() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 3)));
    while !matches!(host.pending.first(), Some(Action::CheckHealth(_))) {
        host.act(End::Works);
    }
    meddle(&mut host);
    assert!(matches!(host.pending.first(), Some(Action::RollBack(_))));
    host.settle();
    assert_eq!(host.link().unwrap().path, path(1));
    assert_eq!(host.profile.explain(host.now).reason.unwrap().code, Code::Interrupted);
}

#[test]
fn a_way_back_that_a_stranger_crossed_is_gone_again() {
    let mut host = converged_on(1, 1);
    host.feed(Event::Desired(run(2, 2)));
    until_switching(&mut host);
    host.act(End::Fails);
    while !matches!(host.pending.first(), Some(Action::CheckHealth(_))) {
        host.act(End::Works);
    }
    meddle(&mut host);
    assert!(matches!(host.pending.first(), Some(Action::RollBack(_))));
    host.settle();
    assert_eq!((host.link().unwrap().path, host.active), (path(1), Some(path(1))));
}
