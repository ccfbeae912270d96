//! Switches that break the agent itself, so that nobody lives to confirm them.

use tests::{eventually, machine::Fleet};

use super::lab::{HostMachine, Lab};

/// What breaks the agent: its next starts fail, and it dies at once, in the middle of the switch.
const BREAK: &str = "#!/bin/sh -e
mkdir -p /etc/systemd/system/shoal-agent.service.d
printf '[Service]\\nExecStart=\\nExecStart=/nonexistent\\n' \\
  > /etc/systemd/system/shoal-agent.service.d/broken.conf
systemctl daemon-reload
systemctl kill --signal=KILL shoal-agent
sleep 600
";

/// What mends it again.
const MEND: &str = "#!/bin/sh -e
rm -f /etc/systemd/system/shoal-agent.service.d/broken.conf
systemctl daemon-reload
systemctl start --no-block shoal-agent
echo $SHOAL_VERSION > /run/active
";

fn publish(lab: &Lab<'_>, version: &str, activate: &str) {
    let files = [("bin/activate", activate)];
    lab.publish_with("web", version, &files, &["--activation", "exec"]);
}

fn active(host: &HostMachine<'_>) -> String {
    host.machine.shell("cat /run/active 2>/dev/null || true")
}

/// Waits until a switch to what breaks the agent has done so; returns the dead man's timer.
fn broken(host: &HostMachine<'_>) -> String {
    let broken = "/etc/systemd/system/shoal-agent.service.d/broken.conf";
    eventually("the agent is broken", || {
        let gone = host.machine.shell("systemctl is-active shoal-agent || true") != "active";
        (gone && host.machine.outside(broken).exists()).then_some(())
    });
    let [timer] = host.dead_men().try_into().unwrap();
    timer
}

#[test]
fn a_switch_that_breaks_the_agent_is_undone_by_the_dead_man() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["web:exec:privileged"]);
    let host = lab.host("host-1", 71);
    host.start();
    publish(&lab, "1", MEND);
    host.becomes("web", "converged 1");
    assert_eq!((host.dead_men(), active(&host)), (vec![], "1".to_owned()));

    publish(&lab, "2", BREAK);
    let timer = broken(&host);
    host.hasten(&timer);
    host.becomes("web", "rolled_back unconfirmed 1");
    assert_eq!((host.dead_men(), active(&host)), (vec![], "1".to_owned()));
    eventually("the agent is back", || {
        (host.machine.shell("systemctl is-active shoal-agent || true") == "active").then_some(())
    });

    // It wakes again, for an attempt that has ended, and for none: nothing changes.
    let id = timer.trim_start_matches("shoal-recover-").trim_end_matches(".timer");
    let recover = "/var/lib/shoal/recovery/agent --config /var/lib/shoal/recovery/agent.toml \
        recover --attempt";
    let said = host.machine.shell(&format!("{recover} {id} 2>&1"));
    assert!(said.contains("has ended: nothing to do"), "{said}");
    assert_eq!(host.state("web"), "rolled_back unconfirmed 1");

    // A newer version is taken as ever, and nobody undoes it.
    publish(&lab, "3", MEND);
    host.becomes("web", "converged 3");
    assert_eq!((host.dead_men(), active(&host)), (vec![], "3".to_owned()));
    host.machine.shell(&format!("{recover} {id}"));
    assert_eq!(host.state("web"), "converged 3");
}

#[test]
fn a_machine_that_dies_in_such_a_switch_is_watched_again_after_its_next_boot() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["web:exec:privileged"]);
    let mut host = lab.host("host-1", 72);
    host.start();
    publish(&lab, "1", MEND);
    host.becomes("web", "converged 1");
    publish(&lab, "2", BREAK);
    let before = broken(&host);
    host.machine.kill();
    host.machine.start();
    let [timer] = host.dead_men().try_into().unwrap();
    assert_eq!(timer, before, "the same attempt");
    host.hasten(&timer);
    host.becomes("web", "rolled_back unconfirmed 1");
    assert_eq!(active(&host), "1");
}
