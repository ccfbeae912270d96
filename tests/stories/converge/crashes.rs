//! `kill -9` between any two writes of trust state, journal, pins and profile.

use std::{fs, os::unix::process::ExitStatusExt as _, process::Stdio, thread, time::Duration};

use tests::{Builder, Host, Random, eventually};

use super::{ACTIVATE, active, publish, realm, team};

/// More places than one round passes.
const TOO_MANY: usize = 200;

/// Publishes version after version; each time the round that takes it dies one place later, until
/// one passes fewer places than that.
fn interrupt_every_place(activate: impl Fn(usize) -> String, check: impl Fn(&Host, usize)) {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    publish(&web, &builder, "web", ACTIVATE);
    host.run(&["once"]).ok();
    for place in 1..TOO_MANY {
        let before = host.current("web").unwrap();
        let version = place + 1;
        publish(&web, &builder, "web", &activate(version));
        let mut once = host.agent();
        let ended = once.arg("once").env("SHOAL_CRASH_AT", place.to_string()).output().unwrap();
        if ended.status.signal() != Some(9) {
            assert!(place > 20, "only {place} places were passed: {ended:?}");
            check(&host, version);
            host.nix().verify();
            return;
        }
        // Whatever is half done: a whole store, and a generation that was good.
        let now = host.current("web").unwrap();
        assert!(std::fs::exists(host.nix().real(&now)).unwrap(), "place {place}");
        host.run(&["status"]).ok();
        host.run(&["once"]);
        check(&host, version);
        if place % 8 == 0 || tests::long() {
            host.nix().verify();
        }
        assert!(before != host.current("web").unwrap() || host.state("web") != "converged");
    }
    panic!("one round passes more than {TOO_MANY} places");
}

#[test]
fn an_update_that_is_killed_anywhere_arrives_with_the_next_round() {
    let activate = |version| format!("{ACTIVATE} # {version}");
    interrupt_every_place(activate, |host, version| {
        assert_eq!(host.state("web"), "converged");
        assert_eq!(active(host, "web"), Some(version.to_string()));
        assert_eq!(host.profile("web")["running"]["version"], version);
    });
}

#[test]
fn a_rollback_that_is_killed_anywhere_ends_on_what_ran_before() {
    let activate = |version| format!("exit 1 # {version}");
    interrupt_every_place(activate, |host, version| {
        let profile = host.profile("web");
        assert_eq!(profile["state"], "rolled_back", "{profile}");
        assert_eq!(profile["wanted"]["version"], version);
        assert_eq!(profile["running"]["version"], 1);
        assert_eq!(active(host, "web").as_deref(), Some("1"));
    });
}

#[test]
fn a_host_that_is_killed_at_any_moment_never_loses_a_generation_and_arrives() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    publish(&web, &builder, "web", ACTIVATE);
    host.run(&["once"]).ok();
    let (mut version, mut random) = (1, Random::new("converge"));
    for moment in 0..if tests::long() { 1000 } else { 12 } {
        let profile = host.profile("web");
        let arrived = profile["state"] == "converged" && profile["running"]["version"] == version;
        // A version whose activation was cut off twice is given up.
        if arrived || profile["state"] == "rolled_back" {
            version += 1;
            publish(&web, &builder, "web", &format!("{ACTIVATE} # {version}"));
        }
        let mut once = host.agent();
        once.arg("once").stdout(Stdio::null()).stderr(Stdio::null());
        let mut once = once.spawn().unwrap();
        thread::sleep(Duration::from_millis(random.below(250)));
        once.kill().unwrap();
        once.wait().unwrap();
        let current = host.current("web").unwrap();
        assert!(fs::exists(host.nix().real(&current)).unwrap(), "moment {moment}");
        let generations = fs::read_dir(host.profiles()).unwrap().count();
        assert!(generations >= 2, "moment {moment}: {generations}");
        if moment % 10 == 0 {
            host.nix().verify();
        }
    }
    publish(&web, &builder, "web", &format!("{ACTIVATE} # at last"));
    host.run(&["once"]).ok();
    assert_eq!(active(&host, "web"), Some((version + 1).to_string()));
    host.nix().verify();
}

#[test]
fn an_activation_whose_agent_is_killed_is_ended_before_the_next_one_begins() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let first = "if mkdir \"$SHOAL_ROOT/once\"; then
        sleep 1000 & echo $$ $! > \"$SHOAL_ROOT/pids.new\"
        mv \"$SHOAL_ROOT/pids.new\" \"$SHOAL_ROOT/pids\"; wait; fi";
    publish(&web, &builder, "web", &format!("{first}\n{ACTIVATE}"));
    let mut once = host.agent().arg("once").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let once = once.as_mut().unwrap();
    let pids = host.root().join("pids");
    let pids = eventually("the activation begins", || fs::read_to_string(&pids).ok());
    once.kill().unwrap();
    once.wait().unwrap();
    let alive = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    assert!(pids.split_whitespace().all(alive), "both outlived the agent");
    host.run(&["once"]).ok();
    assert_eq!(host.state("web"), "converged");
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    assert!(!pids.split_whitespace().any(alive), "nothing of the first one is left");
}
