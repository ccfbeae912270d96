//! Programs of activation `exec` where systemd runs them: in units of their own, whatever becomes of
//! the daemon meanwhile.

use tests::{eventually, machine::Fleet};

use super::lab::{HostMachine, Lab};

/// Says what it is, leaves something behind, and waits for whoever holds it up.
const ACTIVATE: &str = r#"#!/bin/sh -e
{
  echo "$SHOAL_VERSION as $(id -u):$(id -g) with $(id -Gn) in $(pwd)"
  grep -E '^(NoNewPrivs|CapBnd):' /proc/self/status
  grep -o 'shoal-[a-z]*-web_.*' /proc/self/cgroup | head -n1
} > /var/tmp/web-said
echo "run $SHOAL_VERSION" >> /var/tmp/web-runs
echo "version $SHOAL_VERSION says so"
echo "and complains" >&2
(while :; do sleep 600; done) &
echo $! > /var/tmp/web-left
while [ -e /var/tmp/web-wait ]; do sleep 0.1; done
[ "$SHOAL_VERSION" != 3 ] || exit 3
"#;

fn publish(lab: &Lab<'_>, version: &str) {
    let files = [("bin/activate", ACTIVATE)];
    lab.publish_with("web", version, &files, &["--activation", "exec"]);
}

/// Returns the units of the profile's jobs that are there.
fn jobs(host: &HostMachine<'_>) -> String {
    let listed = "systemctl list-units --all --plain --no-legend 'shoal-job-web_*' | cut -d' ' -f1";
    host.machine.shell(listed)
}

fn runs(host: &HostMachine<'_>) -> String {
    host.machine.shell("cat /var/tmp/web-runs")
}

/// Waits until the program of a version runs.
fn begins(host: &HostMachine<'_>, version: &str) {
    let line = format!("run {version}");
    eventually(&format!("{line} begins"), || runs(host).lines().any(|it| it == line).then_some(()));
}

/// Returns whether what the last program left behind is there.
fn is_left(host: &HostMachine<'_>) -> bool {
    host.machine.run(&["sh", "-c", "kill -0 $(cat /var/tmp/web-left)"]).code == Some(0)
}

#[test]
fn a_program_outlives_the_daemon_and_is_waited_for_by_the_next_one() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["web:exec:user=web"]);
    let host = lab.host("host-1", 73);
    host.add_user("web");
    // What the host itself gives to that user, it has wherever it runs.
    host.machine.write("/etc/sysusers.d/extra.conf", "g extra -\nm web extra\n");
    host.machine.shell("systemd-sysusers");
    let ids = host.machine.shell("echo $(id -u web):$(id -g web)");
    host.start();
    publish(&lab, "1");
    host.becomes("web", "converged 1");
    let said = host.machine.shell("cat /var/tmp/web-said");
    let unit = said.lines().last().unwrap();
    assert_eq!(
        said,
        format!(
            "1 as {ids} with web extra in /\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n{unit}"
        ),
        "as the profile's own user, and never more"
    );
    // What it left behind is in its unit, and nobody's business.
    assert_eq!((jobs(&host).as_str(), is_left(&host)), (unit, true));
    host.machine.shell("systemctl restart shoal-agent");
    assert!(is_left(&host));

    // The daemon is restarted, then killed, while a program is at work: it runs once.
    host.machine.shell("touch /var/tmp/web-wait");
    publish(&lab, "2");
    begins(&host, "2");
    host.machine.shell("systemctl restart shoal-agent");
    assert_eq!(host.state("web"), "switching in_progress 1");
    host.machine.shell("systemctl kill --signal=KILL shoal-agent");
    eventually("another daemon is there", || {
        (host.property("shoal-agent", "NRestarts") == "1"
            && host.property("shoal-agent", "ActiveState") == "active")
            .then_some(())
    });
    assert_eq!(host.state("web"), "switching in_progress 1");
    host.machine.shell("rm /var/tmp/web-wait");
    host.becomes("web", "converged 2");
    assert_eq!(runs(&host), "run 1\nrun 2");
    assert!(is_left(&host));

    // One that fails leaves nothing behind, and its last words are known.
    publish(&lab, "3");
    host.becomes("web", "rolled_back activation_failed 2");
    assert_eq!(runs(&host), "run 1\nrun 2\nrun 3\nrun 2");
    let units = jobs(&host);
    assert!(!units.contains("failed"), "{units}");
    let left = host.machine.shell("systemctl list-units --plain --no-legend --state=failed");
    assert_eq!(left, "");
    assert_eq!(units.lines().count(), 3, "versions 1 and 2, and 2 again, left something: {units}");
    let kept = host.machine.shell("cat /var/lib/shoal/journal/web.json");
    assert!(kept.contains(r"version 3 says so\nand complains"), "{kept}");
}

/// Tells when it begins and ends, and waits for whoever holds it up.
const SLOW: &str = r#"#!/bin/sh -e
echo "$SHOAL_PROFILE $SHOAL_VERSION begins" >> /var/tmp/order
while [ -e "/var/tmp/$SHOAL_PROFILE-wait" ]; do sleep 0.1; done
echo "$SHOAL_PROFILE $SHOAL_VERSION ends" >> /var/tmp/order
"#;

#[test]
fn nobody_switches_beside_a_program_whose_agent_died() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["db:exec:privileged", "web:exec:privileged"]);
    let host = lab.host("host-1", 82);
    host.start();
    let publish = |profile: &str, version: &str| {
        let files = [("bin/activate", SLOW)];
        lab.publish_with(profile, version, &files, &["--activation", "exec"]);
    };
    for version in ["1", "2"] {
        publish("db", version);
        host.becomes("db", &format!("converged {version}"));
    }
    host.machine.shell("touch /var/tmp/web-wait; rm /var/tmp/order");
    publish("web", "1");
    let order = || host.machine.shell("cat /var/tmp/order 2>/dev/null || true");
    eventually("web begins", || (order() == "web 1 begins").then_some(()));
    host.machine.shell("systemctl kill --signal=KILL shoal-agent; systemctl stop shoal-agent");
    assert_eq!(host.state("web"), "switching in_progress");

    // Nobody holds the lock, and whoever takes it waits for the program all the same.
    host.machine.shell(
        "systemd-run --quiet --unit=back --setenv=RUST_LOG=info agent --verbose rollback db",
    );
    let said = || host.machine.shell("journalctl --quiet --unit=back --output=cat");
    eventually("it waits", || said().contains("an earlier agent began").then_some(()));
    assert_eq!(order(), "web 1 begins");
    host.machine.shell("rm /var/tmp/web-wait");
    let expected = "web 1 begins\nweb 1 ends\ndb 1 begins\ndb 1 ends";
    eventually("db goes back", || (order() == expected).then_some(()));
    host.start();
    host.becomes("web", "converged 1");
    host.becomes("db", "pinned pinned 1");
    assert_eq!(order(), expected, "each ran once");
}

/// Says what it is, and whether it is well; what it leaves behind is not.
const CHECK: &str = r#"#!/bin/sh
{
  echo "as $(id -u):$(id -g)"
  grep -E '^(NoNewPrivs|CapBnd):' /proc/self/status
  grep -o 'shoal-check-web_' /proc/self/cgroup | head -n1
} > /var/tmp/check-said
echo tried >> /var/tmp/check-tries
(while :; do sleep 600; done) &
echo $! > /var/tmp/check-left
echo "the check says so"
test -e /var/tmp/well
"#;

#[test]
fn a_command_that_checks_is_a_unit_of_which_nothing_stays() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["web:exec:user=web"]);
    let host = lab.host("host-1", 80);
    host.add_user("web");
    let ids = host.machine.shell("echo $(id -u web):$(id -g web); touch /var/tmp/well");
    host.start();
    let files = [("bin/activate", "#!/bin/sh\n"), ("bin/check", CHECK)];
    let check = "well=exec:bin/check";
    let options = ["--activation", "exec", "--check", check];
    lab.publish_with("web", "1", &files, &options);
    host.becomes("web", "converged 1");
    assert_eq!(
        host.machine.shell("cat /var/tmp/check-said"),
        format!("as {ids}\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nshoal-check-web_")
    );

    // It fails again and again, and says so to the agent alone.
    host.machine.shell("rm /var/tmp/well");
    host.becomes("web", "failed unhealthy 1");
    let tries = || host.machine.shell("wc -l < /var/tmp/check-tries").parse::<usize>().unwrap();
    let before = tries();
    eventually("it is tried three times more", || (tries() > before + 3).then_some(()));
    assert!(host.machine.run(&["agent", "health", "web"]).stdout.contains("ended with 1"));
    host.machine.shell("touch /var/tmp/well");
    host.becomes("web", "converged 1");
    host.machine.shell("systemctl stop shoal-agent; journalctl --sync");
    let noise = "journalctl --no-pager | grep -c 'shoal-check\\|the check says so' || true";
    assert_eq!(host.machine.shell(noise), "0");
    let units = "systemctl list-units --all --plain --no-legend 'shoal-check-*'";
    eventually("no unit stays", || host.machine.shell(units).is_empty().then_some(()));
    let left = ["sh", "-c", "kill -0 $(cat /var/tmp/check-left)"];
    assert_ne!(host.machine.run(&left).code, Some(0), "a process stays");
}
