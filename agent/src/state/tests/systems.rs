//! Operating systems and their reboots, told as sentences.

use super::*;

fn machine_on(number: u32, root: u8) -> Host {
    let mut host = Host::machine();
    host.happens(Happening::Desired(run(number, root)));
    host.settle();
    assert_eq!(word(&host), StateWord::Converged);
    host
}

fn word(host: &Host) -> StateWord {
    host.profile.explain(host.now).word
}

fn code(host: &Host) -> Code {
    host.profile.explain(host.now).reason.unwrap().code
}

fn default(host: &Host) -> StorePath {
    host.system.as_ref().unwrap().default.clone()
}

/// Goes on until a reboot is asked for, or waited for.
fn until_pending(host: &mut Host) {
    while !matches!(host.profile.state, State::RebootPending { .. }) {
        host.act(End::NeedsReboot);
    }
}

#[test]
fn the_first_switch_of_a_machine_takes_what_runs_as_previous() {
    let mut host = Host::machine();
    host.happens(Happening::Desired(run(1, 1)));
    while !matches!(host.pending.first(), Some(Action::Switch(_))) {
        host.act(End::Works);
    }
    host.act(End::Fails);
    host.settle();
    assert_eq!(word(&host), StateWord::RolledBack);
    assert_eq!((host.active.clone(), default(&host)), (Some(path(7)), path(7)));
    assert_eq!(host.link().unwrap().path, path(7), "it has a generation by now");
}

#[test]
fn a_system_is_booted_once_in_a_window_and_by_default_once_it_is_confirmed() {
    let mut host = machine_on(1, 1);
    host.happens(Happening::Windows(true, true, false));
    host.happens(Happening::Desired(run(2, 2)));
    until_pending(&mut host);
    let explained = host.profile.explain(host.now);
    assert_eq!(explained.word, StateWord::RebootPending);
    assert_eq!(explained.next.unwrap(), "systemctl reboot");
    assert!(explained.until.is_some());
    assert!(explained.reason.unwrap().text.contains("for version 2; by itself this host reboots"));
    assert!(host.pending.is_empty(), "no window is open");
    host.happens(Happening::Pin);
    host.happens(Happening::Windows(true, true, true));
    assert!(host.pending.is_empty(), "a pin holds it");
    host.happens(Happening::Unpin);
    host.act(End::Works);
    assert_eq!((host.active.clone(), default(&host)), (Some(path(2)), path(1)));
    assert_eq!(word(&host), StateWord::Confirming);
    host.settle();
    assert_eq!((word(&host), default(&host)), (StateWord::Converged, path(2)));
}

#[test]
fn a_machine_that_comes_back_in_the_old_system_refuses_the_new_one() {
    let mut host = machine_on(1, 1);
    host.happens(Happening::Desired(run(2, 2)));
    until_pending(&mut host);
    // It hangs in the new one, and somebody pulls the plug.
    host.pending.clear();
    host.system.as_mut().unwrap().once = None;
    host.reboot();
    host.settle();
    assert_eq!((word(&host), code(&host)), (StateWord::RolledBack, Code::BootEntryGone));
    assert_eq!((host.active.clone(), default(&host)), (Some(path(1)), path(1)));
    host.happens(Happening::Desired(run(2, 2)));
    assert!(host.pending.is_empty(), "not tried again");
}

#[test]
fn an_entry_that_goes_before_the_reboot_ends_the_attempt() {
    let mut host = machine_on(1, 1);
    host.happens(Happening::Windows(true, true, false));
    host.happens(Happening::Desired(run(2, 2)));
    until_pending(&mut host);
    host.happens(Happening::BootEntryGone);
    host.settle();
    assert_eq!((word(&host), code(&host)), (StateWord::RolledBack, Code::BootEntryGone));
}

#[test]
fn a_sick_system_is_left_by_one_reboot() {
    let mut host = machine_on(2, 2);
    host.happens(Happening::Desired(run(3, 3)));
    until_pending(&mut host);
    host.act(End::Works);
    assert_eq!(host.active, Some(path(3)));
    // Its health check fails.
    host.act(End::Fails);
    host.settle();
    assert_eq!((word(&host), code(&host)), (StateWord::RolledBack, Code::HealthFailed));
    assert_eq!((host.active.clone(), default(&host)), (Some(path(2)), path(2)));
    let asked: Vec<u32> = host.system.as_ref().unwrap().asked.values().copied().collect();
    assert_eq!(asked, [2], "there and back");
}

#[test]
fn a_machine_that_does_not_come_back_to_the_old_system_is_loud_and_does_not_reboot_on_and_on() {
    let mut host = machine_on(2, 2);
    host.happens(Happening::Desired(run(3, 3)));
    until_pending(&mut host);
    host.act(End::Works);
    host.act(End::Fails);
    for _ in 0..5 {
        // Whatever the loader is told, it boots the sick one.
        if let Some(Action::RollBack(_)) = host.pending.first() {
            host.act(End::Works);
        }
        host.system.as_mut().unwrap().once = Some(path(3));
        if let Some(Action::Reboot(_)) = host.pending.first() {
            host.act(End::Works);
        }
    }
    assert_eq!((word(&host), code(&host)), (StateWord::Failed, Code::RollbackFailed));
    assert!(host.pending.is_empty());
}

#[test]
fn the_dead_man_leaves_a_system_whose_agent_does_not_run() {
    let mut host = machine_on(1, 1);
    host.happens(Happening::Desired(run(2, 2)));
    until_pending(&mut host);
    // Before the reboot he has nothing to undo.
    host.pending.clear();
    let id = host.attempts.to_string();
    host.feed(Event::Expired(id.clone(), host.facts()));
    assert_eq!(word(&host), StateWord::RebootPending);
    // The machine boots the new system, where nobody looks at the journal.
    let machine = host.system.as_mut().unwrap();
    machine.booted = machine.once.take().unwrap();
    host.active = Some(path(2));
    host.boots += 1;
    host.feed(Event::Expired(id, host.facts()));
    host.settle();
    assert_eq!((word(&host), code(&host)), (StateWord::RolledBack, Code::Unconfirmed));
    assert_eq!((host.active.clone(), default(&host)), (Some(path(1)), path(1)));
}

#[test]
fn a_newer_version_makes_a_pending_reboot_pointless() {
    let mut host = machine_on(1, 1);
    host.happens(Happening::Windows(true, true, false));
    host.happens(Happening::Desired(run(2, 2)));
    until_pending(&mut host);
    host.happens(Happening::Desired(run(3, 3)));
    host.settle();
    assert_eq!((host.active.clone(), default(&host)), (Some(path(3)), path(3)));
    assert_eq!(word(&host), StateWord::Converged);
}

#[test]
fn a_reboot_before_confirmation_ends_in_the_old_system_and_is_gone_on_from_there() {
    let mut host = machine_on(2, 2);
    host.happens(Happening::Desired(run(3, 3)));
    while word(&host) != StateWord::Confirming {
        host.act(End::Works);
    }
    assert_eq!((host.active.clone(), default(&host)), (Some(path(3)), path(2)));
    host.reboot();
    assert_eq!(host.active, Some(path(2)));
    assert_eq!(word(&host), StateWord::Switching);
    host.act(End::Works);
    host.reboot();
    host.settle();
    // It may well be the new system that takes the machine down.
    assert_eq!((word(&host), code(&host)), (StateWord::RolledBack, Code::Interrupted));
    assert_eq!((host.active.clone(), default(&host)), (Some(path(2)), path(2)));
}
