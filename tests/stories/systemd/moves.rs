//! Units that move from one manager to another, because their owners say otherwise; and what an
//! operator may do with a profile that has real units.

use tests::machine::Fleet;

use super::lab::{HostMachine, Lab};

const IDLE: &str = "[Service]\nType=exec\nExecStart=/bin/sh -c 'cat DATA/version; exec sleep infinity'\n\
    [Install]\nWantedBy=multi-user.target\n";

/// The same, for what only root may write.
const TELLING: &str = "[Service]\nType=exec\n\
    ExecStart=/bin/sh -c 'cat DATA/version > /run/told; exec sleep infinity'\n\
    [Install]\nWantedBy=multi-user.target\n";

/// What a version of the shop has, however it is activated.
const SHOP: &[(&str, &str)] = &[
    ("shop.service", IDLE),
    ("bin/activate", "#!/bin/sh -e\nid -un > /var/tmp/shop\n"),
    ("bin/deactivate", "#!/bin/sh -e\nrm /var/tmp/shop\n"),
];

/// Returns where the shop's service runs, and whether its program says that it is at work.
fn place(host: &HostMachine<'_>) -> (bool, bool, bool) {
    let of_user = host.of_user("shop", "is-active shop.service") == "active";
    let of_host = host.property("shop.service", "ActiveState") == "active";
    (of_user, of_host, host.machine.outside("/var/tmp/shop").exists())
}

fn lingers(host: &HostMachine<'_>) -> bool {
    host.machine.outside("/var/lib/systemd/linger/shop").exists()
}

#[test]
fn units_move_between_managers_and_a_user_lingers_only_as_long_as_it_must() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd+exec:user=shop"]);
    let host = lab.host("host-1", 75);
    host.add_user("shop");
    let once = || host.machine.run(&["agent", "--quiet", "once"]).ok();
    let owners = |words: &[&str]| {
        lab.realm.operator().sign(&[&["group", "set", "eu"], words].concat()).ok();
    };
    lab.publish("shop", "one", SHOP);
    once();
    assert_eq!((place(&host), lingers(&host)), ((true, false, false), true));

    // The same root, by another manager.
    owners(&["--profile", "shop:systemd+exec:privileged"]);
    once();
    assert_eq!((place(&host), lingers(&host)), ((false, true, false), false));
    owners(&["--profile", "shop:systemd+exec:user=shop"]);
    once();
    assert_eq!((place(&host), lingers(&host)), ((true, false, false), true));

    // By no manager at all, and back.
    lab.publish_with("shop", "two", SHOP, &["--activation", "exec"]);
    once();
    assert_eq!((place(&host), lingers(&host)), ((false, false, true), false));
    assert_eq!(host.machine.shell("cat /var/tmp/shop"), "shop");
    // Meanwhile the operator lets that user linger, for reasons of their own.
    host.machine.shell("loginctl enable-linger shop");
    lab.publish("shop", "three", SHOP);
    once();
    assert_eq!((place(&host), lingers(&host)), ((true, false, false), true));
    owners(&["--stop", "shop"]);
    once();
    assert_eq!(host.state("shop"), "converged policy_stop");
    assert_eq!((place(&host), lingers(&host)), ((false, false, false), true));
    assert_eq!(host.of_user("shop", "is-system-running"), "running");
    let left = host.machine.shell("systemctl list-units --plain --no-legend --state=failed");
    assert_eq!(left, "");
}

#[test]
fn an_operator_plans_pins_retries_and_goes_back_and_owners_hold_stop_and_retire_real_units() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged"]);
    let host = lab.host("host-1", 76);
    let agent = |words: &[&str]| {
        let ran = host.machine.run(&[&["agent", "--quiet"], words].concat());
        (ran.code, ran.stdout)
    };
    let shop = [("shop.service", TELLING)];
    let runs = || host.machine.shell("cat /run/told");
    let owners = |words: &[&str]| {
        lab.realm.operator().sign(&[&["group", "set", "eu"], words].concat()).ok();
    };
    let up = || host.property("shop.service", "ActiveState");
    lab.publish("shop", "one", &shop);
    let (_, plan) = agent(&["plan"]);
    assert!(plan.contains("#1") && up() == "inactive", "{plan}");
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("converged 1", "one"));

    agent(&["pin", "shop", "--reason", "busy"]);
    lab.publish("shop", "two", &shop);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("pinned pinned 1", "one"));
    agent(&["unpin", "shop"]);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("converged 2", "two"));

    // It fails as long as somebody is in its way.
    let busy =
        TELLING.replace("Type=exec\n", "Type=exec\nExecStartPre=/usr/bin/test ! -e /run/busy\n");
    host.machine.shell("touch /run/busy");
    lab.publish("shop", "three", &[("shop.service", &busy)]);
    agent(&["once"]);
    let state = host.state("shop");
    assert_eq!((state.as_str(), runs().as_str()), ("rolled_back activation_failed 2", "two"));
    host.machine.shell("rm /run/busy");
    agent(&["retry", "shop"]);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("converged 3", "three"));

    agent(&["rollback", "shop"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("pinned pinned 2", "two"));
    agent(&["unpin", "shop"]);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("converged 3", "three"));

    owners(&["--hold", "shop"]);
    lab.publish("shop", "four", &shop);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("held policy_hold 3", "three"));
    owners(&["--stop", "shop"]);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), up().as_str()), ("converged policy_stop", "inactive"));
    owners(&["--take", "shop"]);
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), runs().as_str()), ("converged 4", "four"));

    let retire = ["publish", "manifest", "eu/shop", "--retire", "stop"];
    lab.realm.signer("shop").sign(&retire).ok();
    agent(&["once"]);
    assert_eq!((host.state("shop").as_str(), up().as_str()), ("converged retired", "inactive"));
    let left = host.machine.shell("ls /run/systemd/system; systemctl list-units --all 'shop*'");
    assert!(!left.contains("shop.service"), "{left}");
}
