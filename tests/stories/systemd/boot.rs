//! Hosts that go down: what ran comes up again, and what was under way is gone on with.

use std::{thread, time::Duration};

use tests::{Random, long, machine::Fleet};

use super::lab::Lab;

const SERVICE: &str = "[Service]\nType=exec\n\
    ExecStart=/bin/sh -c 'cat DATA/version > /run/%N; exec sleep infinity'\n\
    [Install]\nWantedBy=multi-user.target\n";

#[test]
fn what_ran_runs_after_a_reboot_without_registry_and_daemon() {
    let fleet = Fleet::new();
    let mut lab = Lab::new(&fleet, &["shop:systemd:privileged", "till:systemd:user=till"]);
    let mut host = lab.host("host-1", 11);
    host.add_user("till");
    lab.publish("shop", "one", &[("shop.service", SERVICE)]);
    lab.publish("till", "one", &[("till.service", &SERVICE.replace("/run/%N", "%t/%N"))]);
    host.machine.run(&["agent", "--quiet", "once"]).ok();
    let runs = |host: &super::lab::HostMachine<'_>| {
        let shop = host.machine.shell("systemctl is-active shop.service; head -n1 /run/shop");
        assert_eq!(shop, "active\none");
        assert_eq!(host.of_user("till", "is-active till.service"), "active");
    };
    runs(&host);
    lab.realm.stop();
    host.machine.shell("systemctl --quiet disable shoal-agent");
    for _ in 0..2 {
        host.machine.reboot();
        runs(&host);
        assert_eq!(host.machine.shell("systemctl is-active shoal-agent || true"), "inactive");
        host.machine.kill();
        host.machine.start();
        runs(&host);
    }
    assert_eq!(host.machine.shell("systemctl is-system-running || systemctl --failed"), "running");
}

#[test]
fn a_machine_that_dies_at_any_moment_of_a_switch_converges() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged", "till:systemd:user=till"]);
    let mut host = lab.host("host-1", 11);
    host.add_user("till");
    host.start();
    let mut random = Random::new("machines die");
    let rounds = if long() { 50 } else { 10 };
    let till = SERVICE.replace("/run/%N", "%t/%N");
    for round in 1..=rounds {
        let version = round.to_string();
        lab.publish("shop", &version, &[("shop.service", SERVICE)]);
        lab.publish("till", &version, &[("till.service", &till)]);
        thread::sleep(moment(&mut random));
        host.machine.kill();
        host.machine.start();
        for profile in ["shop", "till"] {
            host.becomes(profile, &format!("converged {round}"));
        }
        let runs = "systemctl is-active shop.service; head -n1 /run/shop";
        assert_eq!(host.machine.shell(runs), format!("active\n{version}"), "round {round}");
        assert_eq!(host.of_user("till", "is-active till.service"), "active", "round {round}");
        let till = host.machine.shell("head -n1 /run/user/$(id -u till)/till");
        assert_eq!(till, version, "round {round}");
    }
    host.machine.shell("agent --quiet store verify");
}

/// Somewhere between the news of two versions and their end.
fn moment(random: &mut Random) -> Duration {
    let bytes = random.bytes(2);
    let number = bytes.iter().fold(0, |sum, byte| sum * 256 + u64::from(*byte));
    Duration::from_millis(number % 1500)
}
