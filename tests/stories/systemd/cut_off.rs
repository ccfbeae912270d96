//! Hosts that reach nobody, whose clock is wrong, or whose disk is full: what runs goes on, they say
//! what is in the way, and converge once it is not.

use std::fs;

use tests::{eventually, machine::Fleet};

use super::lab::{HostMachine, Lab};

const IDLE: &str = "[Service]\nType=exec\nExecStart=/bin/sh -c 'cat DATA/version; exec sleep infinity'\n\
    [Install]\nWantedBy=multi-user.target\n";

/// Where Debian has the library that fakes clocks; this machine's is that of the others.
const LIBFAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn publish(lab: &Lab<'_>, version: &str, options: &[&str]) {
    lab.publish_with("shop", version, &[("shop.service", IDLE)], options);
}

fn pid(host: &HostMachine<'_>) -> String {
    host.property("shop.service", "MainPID")
}

/// Lets the daemon's clock be wrong from now on, while it runs; how long it waits is not faked.
struct Clock<'a, 'b>(&'a HostMachine<'b>);

impl<'a, 'b> Clock<'a, 'b> {
    fn of(host: &'a HostMachine<'b>) -> Self {
        let library = "/usr/local/lib/libfaketime.so.1";
        host.machine.write(library, fs::read(LIBFAKETIME).unwrap());
        host.machine.write(
            "/etc/systemd/system/shoal-agent.service.d/clock.conf",
            format!(
                "[Service]\nEnvironment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE=/etc/clock\n\
                 Environment=FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1\n"
            ),
        );
        let clock = Self(host);
        clock.set("+0");
        host.machine.shell("systemctl daemon-reload");
        clock
    }

    fn set(&self, offset: &str) {
        self.0.machine.write("/etc/clock.new", format!("{offset}\n"));
        self.0.machine.shell("mv /etc/clock.new /etc/clock");
    }
}

#[test]
fn a_host_that_is_cut_off_runs_what_it_runs_and_converges_when_the_link_is_back() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged"]);
    let host = lab.host("host-1", 77);
    let clock = Clock::of(&host);
    let slow = "[store]\nbandwidth = 300000\nstall_timeout = 2\n[registry]\nwait = 0\n";
    host.machine.write("/etc/shoal/agent.toml.d/zz.toml", slow);
    host.start();
    publish(&lab, "1", &[]);
    host.becomes("shop", "converged 1");
    let before = pid(&host);

    // In the middle of a fetch, which takes a quarter of a minute.
    let noise: String = tests::Random::new("cut off")
        .bytes(6 << 20)
        .iter()
        .map(|byte| char::from(b' ' + byte % 95))
        .collect();
    lab.publish("shop", "2", &[("shop.service", IDLE), ("share/noise", &noise)]);
    host.becomes("shop", "fetching in_progress 1");
    host.machine.unplug();
    host.becomes("shop", "stale no_fresh_source 1");
    // A day goes by, all at once.
    clock.set("+26h");
    eventually("a day has gone by", || {
        let said = host.machine.run(&["agent", "status"]).stdout;
        said.contains("1d ").then_some(())
    });
    assert_eq!((host.state("shop").as_str(), pid(&host)), ("stale no_fresh_source 1", before));
    let status = host.status("shop").unwrap();
    let why = status.pointer("/reason/text").unwrap().to_string();
    assert!(why.contains("cannot reach"), "{why}");
    host.machine.plug_in();
    host.becomes("shop", "converged 2");

    // While a switch is being confirmed: nobody asked that the registry be there for that.
    let health = lab.realm.folder().join("health.json");
    let check = r#"{"deadline":60,"soak":3,"checks":[{"name":"up","kind":"unit",
        "unit":"shop.service","interval":1,"timeout":20,"retries":1}]}"#;
    fs::write(&health, check).unwrap();
    publish(&lab, "3", &["--health", health.to_str().unwrap()]);
    eventually("it confirms", || host.state("shop").starts_with("confirming").then_some(()));
    host.machine.unplug();
    host.becomes("shop", "stale no_fresh_source 3");
    let current = pid(&host);
    host.machine.plug_in();
    host.becomes("shop", "converged 3");
    assert_eq!(pid(&host), current);
}

#[test]
fn a_clock_that_is_wrong_by_a_year_stops_nothing_and_harms_nothing_once_it_is_right() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged"]);
    let host = lab.host("host-1", 78);
    let clock = Clock::of(&host);
    host.start();
    publish(&lab, "1", &[]);
    host.becomes("shop", "converged 1");
    let before = pid(&host);

    // A year ahead: all that was signed has expired, so nothing changes, and nothing stops.
    clock.set("+365d");
    publish(&lab, "2", &[]);
    host.becomes("shop", "stale no_fresh_source 1");
    assert_eq!(pid(&host), before);
    clock.set("+0");
    host.becomes("shop", "converged 2");

    // A year behind: what was signed since is proof enough that it is later.
    clock.set("-365d");
    publish(&lab, "3", &[]);
    host.becomes("shop", "converged 3");
    let told = host.machine.run(&["agent", "doctor"]).stdout;
    assert!(told.contains("clock"), "{told}");
    clock.set("+0");

    // Windows go by it as well.
    let then = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(6)).unwrap();
    let then = then.to_zoned(jiff::tz::TimeZone::UTC);
    let window = then.strftime("%M %H * * * UTC 1h").to_string();
    publish(&lab, "4", &["--switch-window", &window]);
    host.becomes("shop", "waiting window_closed 3");
    let before = pid(&host);
    clock.set("+6h");
    host.becomes("shop", "converged 4");
    assert_ne!(pid(&host), before);
}

#[test]
fn a_disk_that_is_full_before_during_or_after_a_switch_costs_no_service() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["shop:systemd:privileged"]);
    let mut host = lab.host_with_disk("host-1", 79, "256m");
    let fill = "dd if=/dev/zero of=/root/fill bs=64k status=none 2>/dev/null || true";
    let free = "rm -f /root/fill";
    host.start();
    publish(&lab, "1", &[]);
    host.becomes("shop", "converged 1");
    let before = pid(&host);

    host.machine.shell(fill);
    publish(&lab, "2", &[]);
    host.becomes("shop", "waiting disk_full 1");
    assert_eq!(pid(&host), before);
    host.machine.shell(free);
    host.machine.shell("agent --quiet retry shop || true");
    host.becomes("shop", "converged 2");

    // Full from the moment on in which its new version starts.
    let filling =
        IDLE.replace("Type=exec\n", &format!("Type=exec\nExecStartPre=/bin/sh -c '{fill}'\n"));
    lab.publish("shop", "3", &[("shop.service", &filling)]);
    eventually("the switch has ended", || {
        let state = host.state("shop");
        (state == "converged 3" || state.starts_with("rolled_back")).then_some(())
    });
    assert_eq!(host.property("shop.service", "ActiveState"), "active");
    let after = host.state("shop");
    // A boot with a full disk starts what ran.
    host.machine.reboot();
    assert_eq!(host.property("shop.service", "ActiveState"), "active");
    assert_eq!(host.state("shop"), after);
    host.machine.shell(free);
    publish(&lab, "4", &[]);
    host.becomes("shop", "converged 4");
    host.machine.shell("agent --quiet store verify");
}
