//! Every end of `switch-to-configuration`, and agents that do not live to see it.

use std::{thread, time::Duration};

use tests::{eventually, machine::Fleet};

use super::lab::{System, calls, machine, publish, publish_with, systems};
use crate::systemd::lab::{HostMachine, Lab};

const PROFILES: &[&str] = &["system:nixos:privileged"];

fn generations(host: &HostMachine<'_>) -> Vec<String> {
    let script = "for link in $(ls -d /nix/var/nix/profiles/system-*-link); do \
        cat $link/nixos-version; echo; done";
    host.machine.shell(script).lines().map(ToOwned::to_owned).collect()
}

#[test]
fn every_end_of_a_switch_has_its_meaning() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, PROFILES);
    let mut host = machine(&lab, 21, "never");
    assert_eq!(systems(&host), ["0", "0", "0"]);

    // 0. The first switch takes what runs as previous: it has a generation by now.
    publish(&lab, System { activate: "echo hello", ..version("1") });
    host.becomes("system", "converged 1");
    assert_eq!(calls(&host), ["test 1", "boot 1"]);
    assert_eq!(generations(&host), ["0", "1"]);
    assert_eq!(systems(&host), ["1", "0", "1"]);
    let told = host.machine.shell("agent generations system");
    let marks = |line: &str| line.rsplit_once("  ").map(|(_, marks)| marks.to_owned());
    let told: Vec<_> = told.lines().filter_map(marks).collect();
    assert_eq!(told, ["(booted)", "(activated, boots next)"]);

    fails(&lab, &host);
    is_not_its_fault(&lab, &host);
    asks_for_a_reboot(&lab, &mut host);
}

const fn version(version: &str) -> System<'_> {
    System { version, kernel: "", activate: "", booted: "", hardware: None }
}

/// Waits until a switch that ended so is undone.
fn is_rolled_back(host: &HostMachine<'_>, ended: &str) {
    eventually(&format!("what {ended} is undone"), || {
        let status = host.status("system")?;
        let reason = status.pointer("/reason/text")?.as_str()?;
        (status["state"] == "rolled_back" && reason.contains(ended)).then_some(())
    });
}

fn fails(lab: &Lab<'_>, host: &HostMachine<'_>) {
    // 2 and 4. It was activated in part.
    for (number, code) in [("2", "2"), ("3", "4")] {
        let activate = format!("echo because of {number}; exit {code}");
        publish(lab, System { activate: &activate, ..version(number) });
        is_rolled_back(host, &format!("ended with {code}:"));
        assert_eq!(calls(host), [&*format!("test {number}"), "switch 1"]);
        let log = host.machine.shell("agent logs");
        assert!(log.contains(&format!("because of {number}")), "{log}");
        assert_eq!(systems(host), ["1", "0", "1"]);
        assert_eq!(generations(host), ["0", "1"]);
    }

    // 1. It refused before anything was activated: the boot loader alone is put right.
    publish(lab, System { activate: "exit 1", ..version("4") });
    is_rolled_back(host, "ended with 1:");
    calls(host);
}

fn is_not_its_fault(lab: &Lab<'_>, host: &HostMachine<'_>) {
    // 11. Somebody else is switching: no fault of the version.
    host.machine.shell(
        "systemd-run --quiet --unit=other flock /run/nixos/switch-to-configuration.lock sleep 600",
    );
    publish_with(lab, version("5"), &["--timeout", "3"]);
    host.becomes("system", "waiting switch_busy 1");
    assert_eq!(generations(host), ["0", "1"]);
    host.machine.shell("systemctl stop other; agent --quiet retry system");
    host.becomes("system", "converged 5");
    assert_eq!(calls(host), ["test 5", "boot 5"]);

    // Too long: its unit is ended, and so is all that it started.
    publish_with(lab, System { activate: "sleep 600", ..version("6") }, &["--timeout", "3"]);
    host.becomes("system", "rolled_back activation_timeout 5");
    let units = "systemctl list-units --all --no-legend 'nixos-rebuild-*'";
    assert_eq!(host.machine.shell(units), "");
    calls(host);
}

fn asks_for_a_reboot(lab: &Lab<'_>, host: &mut HostMachine<'_>) {
    // 100. It takes effect after a reboot, which is its operator's business here.
    let system = System { activate: "exit 100", ..version("7") };
    publish(lab, system);
    host.becomes("system", "reboot_pending reboot_needed 5");
    assert_eq!(calls(host), ["test 7", "boot 5"]);
    assert_eq!(systems(host), ["5", "0", "7"]);
    let loader = host.machine.shell("cat /var/log/loader");
    let entry = "NixOS - All configurations>NixOS - Configuration 4 (7)";
    assert_eq!(
        loader.lines().last(),
        Some(&*format!("grub-reboot --boot-directory=/boot {entry}"))
    );
    let status = host.machine.shell("agent status");
    for line in ["by itself this host never reboots", "Next      systemctl reboot", "Boots next  "]
    {
        assert!(status.contains(line), "{status}");
    }
    host.machine.reboot();
    host.becomes("system", "converged 7");
    assert_eq!(calls(host), ["boot 7"]);
    assert_eq!(systems(host), ["7", "7", "7"]);
    assert_eq!(
        host.machine.shell("ls /etc/systemd/system.attached/*.timer 2>/dev/null || true"),
        ""
    );
}

#[test]
fn a_switch_goes_on_whatever_it_does_to_the_agent() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, PROFILES);
    let host = machine(&lab, 22, "never");
    // It restarts the agent, and waits for that, as the real one does where the unit changed.
    publish(&lab, System { activate: "systemctl restart shoal-agent", ..version("1") });
    host.becomes("system", "converged 1");
    assert_eq!(calls(&host), ["test 1", "boot 1"]);

    // It stops the agent first, and starts it last.
    let activate = "systemctl stop shoal-agent; sleep 1; systemctl start shoal-agent";
    publish(&lab, System { activate, ..version("2") });
    host.becomes("system", "converged 2");
    assert_eq!(calls(&host), ["test 2", "boot 2"]);

    // The agent is killed, more than once.
    let activate = "touch /run/at-work; while [ ! -e /run/go-on ]; do sleep 0.1; done; echo whole";
    publish(&lab, System { activate, ..version("3") });
    let at_work = ["test", "-e", "/run/at-work"];
    eventually("it is at work", || (host.machine.run(&at_work).code == Some(0)).then_some(()));
    for _ in 0..3 {
        let pid = host.property("shoal-agent", "MainPID");
        host.machine.shell("systemctl kill --signal=KILL shoal-agent");
        eventually("another agent waits for it", || {
            thread::sleep(Duration::from_millis(100));
            let other = host.property("shoal-agent", "MainPID");
            (other != pid && other != "0" && host.state("system") == "switching in_progress 2")
                .then_some(())
        });
    }
    host.machine.shell("touch /run/go-on");
    host.becomes("system", "converged 3");
    assert_eq!(calls(&host), ["test 3", "boot 3"], "it ran once");
}
