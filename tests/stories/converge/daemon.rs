//! `agent run`, and commands that its operator types meanwhile.

use tests::{Builder, Host, Service, eventually};

use super::{ACTIVATE, active, publish, realm, team};

/// Waits until a profile is in a state, as `agent status` tells it.
fn becomes(host: &Host, state: &str) {
    eventually(state, || (host.state("web") == state).then_some(()));
}

fn runs(host: &Host, version: &str) {
    eventually(version, || (active(host, "web").as_deref() == Some(version)).then_some(()));
}

#[test]
fn a_daemon_follows_what_is_published_and_yields_to_its_operator() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    host.configure("[registry]\npoll = 1\nwait = 5\n");
    let first = publish(&web, &builder, "web", ACTIVATE);
    let mut daemon = Service::start(host.agent().arg("run"), "converged");
    becomes(&host, "converged");
    let second = publish(&web, &builder, "web", &format!("{ACTIVATE}; true"));
    runs(&host, "2");
    becomes(&host, "converged");

    host.run(&["rollback", "web", "--reason", "slow"]);
    assert_eq!(host.current("web"), Some(first.clone()));
    publish(&web, &builder, "web", &format!("{ACTIVATE}; true; true"));
    eventually("the daemon has version 3", || {
        (host.profile("web")["wanted"]["version"] == 3).then_some(())
    });
    assert_eq!(host.state("web"), "pinned pinned");
    assert_eq!(host.current("web"), Some(first));
    host.run(&["unpin", "web"]);
    runs(&host, "3");
    becomes(&host, "converged");
    host.run(&["rollback", "web", "2"]);
    assert_eq!(host.current("web"), Some(second));

    assert_eq!(daemon.terminate(), Some(0));
    host.nix().verify();
}

#[test]
fn a_daemon_that_is_told_to_end_ends_a_switch_first() {
    let builder = Builder::new();
    let realm = realm(&builder, &["web"]);
    let web = team(&realm, "web");
    let host = Host::enrol(&realm, "eu", "host-1");
    let slow = format!("touch \"$SHOAL_ROOT/begun\"; sleep 3; {ACTIVATE}");
    publish(&web, &builder, "web", &slow);
    let mut daemon = Service::start(host.agent().arg("run"), "fetch");
    let begun = host.root().join("begun");
    eventually("the activation begins", || begun.exists().then_some(()));
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!(active(&host, "web").as_deref(), Some("1"));
    assert_eq!(host.state("web"), "converged");
}
