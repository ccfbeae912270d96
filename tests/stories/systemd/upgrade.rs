//! The agent as one of its own profiles, as `deploy/README.md` describes it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tests::{bin, eventually, machine::Fleet, run, tool};

use super::lab::{HostMachine, Lab};

/// Puts a new agent to work.
const ACTIVATE: &str = "#!/bin/sh -e\nexec systemctl restart shoal-agent\n";

/// Publishes a root with this program as the agent; returns its store path.
fn publish(lab: &Lab<'_>, version: &str, agent: &dyn Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    fs::write(folder.path().join("version"), version).unwrap();
    fs::write(programs.join("activate"), ACTIVATE).unwrap();
    agent(&programs.join("agent"));
    for name in ["activate", "agent"] {
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = lab.builder.add_folder("agent", folder.path(), &[]);
    lab.publish_path("agent", &path, &["--activation", "exec"]);
    path
}

/// Writes the agent as it is, without what only debuggers read.
fn good(path: &Path) {
    run(tool("strip").arg("-o").arg(path).arg(bin("agent"))).ok();
}

/// Returns the program that the daemon runs.
fn program(host: &HostMachine<'_>) -> String {
    let script = "readlink /proc/$(systemctl show --value --property=MainPID shoal-agent)/exe";
    host.machine.run(&["sh", "-c", script]).stdout.trim().to_owned()
}

#[test]
fn the_agent_upgrades_itself_and_one_that_crashes_is_brought_back_by_the_dead_man() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["agent:exec:privileged", "web:exec:privileged"]);
    let host = lab.host("host-1", 74);
    host.start();
    let first = publish(&lab, "1", &good);
    host.becomes("agent", "converged 1");
    // From now on it is what its profile has.
    host.machine.shell(
        "umount --lazy /usr/local/bin/agent
         ln -sfn /nix/var/nix/profiles/shoal/agent/bin/agent /usr/local/bin/agent
         systemctl restart shoal-agent",
    );
    assert_eq!(program(&host), format!("{first}/bin/agent"));

    let second = publish(&lab, "2", &good);
    host.becomes("agent", "converged 2");
    assert_eq!(program(&host), format!("{second}/bin/agent"));
    assert_eq!(host.dead_men(), Vec::<String>::new());

    // The next one ends as soon as it is started.
    publish(&lab, "3", &|path| fs::write(path, "#!/bin/sh\nexit 70\n").unwrap());
    eventually("the agent is broken", || {
        let left = host.property("shoal-agent", "ExecMainStatus") == "70";
        (left && !host.dead_men().is_empty()).then_some(())
    });
    let [timer] = host.dead_men().try_into().unwrap();
    host.hasten(&timer);
    host.becomes("agent", "rolled_back unconfirmed 2");
    eventually("the old one is back", || {
        (program(&host) == format!("{second}/bin/agent")).then_some(())
    });
    assert_eq!(host.dead_men(), Vec::<String>::new());

    // And it goes on: others are deployed, and it is upgraded again.
    let files = [("bin/activate", "#!/bin/sh\necho web > /var/tmp/web\n")];
    lab.publish_with("web", "1", &files, &["--activation", "exec"]);
    host.becomes("web", "converged 1");
    let fourth = publish(&lab, "4", &good);
    host.becomes("agent", "converged 4");
    assert_eq!(program(&host), format!("{fourth}/bin/agent"));
    let failed = host.machine.shell("systemctl list-units --plain --no-legend --state=failed");
    assert_eq!(failed, "");
}
