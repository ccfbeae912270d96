//! Services that come, change and go, and a version that does not start.

use tests::machine::Fleet;

use super::lab::Lab;

/// A service that runs until it is told to stop.
const IDLE: &str = "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n\
    [Install]\nWantedBy=multi-user.target\n";

/// A service that answers with what it was built with, on a port that systemd listens on.
const SOCKET: &str = "[Socket]\nListenStream=8080\nAccept=yes\n\
    [Install]\nWantedBy=sockets.target\n";
const ANSWER: &str = "[Service]\nExecStart=/bin/head -n1 DATA/version\nStandardOutput=socket\n";

/// What a good version of the shop has.
const SHOP: &[(&str, &str)] =
    &[("shop.socket", SOCKET), ("shop@.service", ANSWER), ("shop_idle.service", IDLE)];

#[test]
fn a_service_is_deployed_upgraded_rolled_back_and_stopped_and_its_neighbours_go_on() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged", "till:systemd:privileged"]);
    let host = lab.host("host-1", 11);
    host.start();
    lab.publish("shop", "one", SHOP);
    lab.publish("till", "till", &[("till.service", IDLE)]);
    host.becomes("shop", "converged 1");
    host.becomes("till", "converged 1");
    assert_eq!(host.answer(8080), "one");
    let untouched = || {
        (host.property("shop_idle.service", "MainPID"), host.property("till.service", "MainPID"))
    };
    let before = untouched();
    assert_ne!(before.0, "0");

    lab.publish("shop", "two", SHOP);
    host.becomes("shop", "converged 2");
    assert_eq!(host.answer(8080), "two");
    assert_eq!(untouched(), before, "what did not change was not restarted");

    // Its service cannot start; its socket has moved, too.
    let broken = [
        (
            "shop.socket",
            "[Socket]\nListenStream=8081\nAccept=yes\n[Install]\nWantedBy=sockets.target\n",
        ),
        ("shop@.service", ANSWER),
        ("shop_idle.service", IDLE),
        (
            "shop_bad.service",
            "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo the till is empty; exit 3'\n[Install]\nWantedBy=multi-user.target\n",
        ),
    ];
    lab.publish("shop", "three", &broken);
    host.becomes("shop", "rolled_back activation_failed 2");
    assert_eq!(host.answer(8080), "two");
    assert_eq!(untouched(), before);
    let status = host.status("shop").unwrap().to_string();
    assert!(status.contains("cannot start `shop_bad.service`: failed"), "{status}");
    let kept = host.machine.shell("cat /var/lib/shoal/journal/shop.json");
    assert!(kept.contains("the till is empty"), "the attempt's log has what the unit said: {kept}");
    let left = host.machine.shell("ls /run/systemd/system; systemctl list-units --all 'shop*'");
    assert!(!left.contains("shop_bad"), "{left}");

    // The owners stop it, with all that it has.
    lab.realm.operator().sign(&["group", "set", "eu", "--stop", "shop"]).ok();
    host.becomes("shop", "converged policy_stop");
    let left =
        host.machine.shell("ls /run/systemd/system; systemctl list-units 'shop*' --no-legend");
    assert!(!left.contains("shop"), "{left}");
    assert_eq!(host.property("till.service", "MainPID"), before.1);
    assert_eq!(host.machine.shell("systemctl is-system-running || systemctl --failed"), "running");
}

/// A service that says at once that it has started, and is not there for long.
const SHORT: &str = "[Service]\nExecStart=/bin/sleep 1\n[Install]\nWantedBy=multi-user.target\n";

#[test]
fn a_unit_that_does_not_stay_is_found_by_its_check_in_whosever_manager_it_is() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged", "till:systemd:user=till"]);
    let host = lab.host("host-1", 11);
    host.add_user("till");
    for profile in ["shop", "till"] {
        let unit = format!("{profile}.service");
        let file = lab.realm.folder().join("health.json");
        let health = format!(
            "{{\"deadline\":60,\"soak\":5,\"checks\":[{{\"name\":\"up\",\"kind\":\"unit\",\
             \"unit\":\"{unit}\",\"interval\":1,\"timeout\":20,\"retries\":1}}]}}"
        );
        std::fs::write(&file, health).unwrap();
        let checks = ["--health", file.to_str().unwrap()];
        lab.publish_with(profile, "one", &[(&unit, IDLE)], &checks);
        host.machine.run(&["agent", "--quiet", "once"]);
        assert_eq!(host.state(profile), "converged 1");
        lab.publish(profile, "two", &[(&unit, SHORT)]);
        host.machine.run(&["agent", "--quiet", "once"]);
        assert_eq!(host.state(profile), "rolled_back health_failed 1");
    }
    assert_eq!(host.property("shop.service", "ActiveState"), "active");
    assert_eq!(host.of_user("till", "is-active till.service"), "active");
}

#[test]
fn the_daemons_rules_are_as_strict_as_deploy_says() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged"]);
    let host = lab.host("host-1", 11);
    let told = host.machine.shell("systemd-analyze security --no-pager shoal-agent.service");
    let last = told.lines().last().unwrap();
    let score = last.split(": ").nth(1).unwrap().split(' ').next().unwrap();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    assert!(readme.contains(&format!("says {score} ")), "{told}");
    // It verifies, too.
    host.machine.shell("systemd-analyze verify shoal-agent.service shoal-boot.service");
}

#[test]
fn a_change_is_carried_out_as_the_unit_says() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged"]);
    let host = lab.host("host-1", 11);
    // Each notes what is done to it, with the version that does it.
    let unit = |extra: &str| {
        format!(
            "[Service]\nType=oneshot\nRemainAfterExit=yes\n{extra}\n\
             ExecStart=/bin/sh -c 'echo %N start $$(head -n1 DATA/version) >> /root/notes'\n\
             ExecReload=/bin/sh -c 'echo %N reload $$(head -n1 DATA/version) >> /root/notes'\n\
             ExecStop=/bin/sh -c 'echo %N stop $$(head -n1 DATA/version) >> /root/notes'\n\
             [Install]\nWantedBy=multi-user.target\n"
        )
    };
    let (plain, keep) = (unit(""), unit("X-RestartIfChanged=false"));
    let (reload, restart) = (unit("X-ReloadIfChanged=true"), unit("X-StopIfChanged=false"));
    let files = [
        ("shop.service", &*plain),
        ("shop_keep.service", &*keep),
        ("shop_reload.service", &*reload),
        ("shop_restart.service", &*restart),
    ];
    lab.publish("shop", "one", &files);
    host.machine.run(&["agent", "--quiet", "once"]).ok();
    host.machine.shell("rm /root/notes");
    lab.publish("shop", "two", &files);
    host.machine.run(&["agent", "--quiet", "once"]).ok();
    let notes = host.machine.shell("sort /root/notes");
    assert_eq!(
        notes,
        "shop start two\nshop stop one\nshop_reload reload two\n\
         shop_restart start two\nshop_restart stop two"
    );
    // Nothing of it runs a second time.
    host.machine.shell("rm /root/notes");
    host.machine.run(&["agent", "--quiet", "once"]).ok();
    assert_eq!(host.machine.shell("ls /root"), "");
}
