//! Systems that need a reboot: once, back if they are no good, and never on and on.

use tests::{eventually, machine::Fleet};

use super::lab::{System, calls, machine, publish, publish_with, systems};
use crate::systemd::lab::{HostMachine, Lab};

#[test]
fn a_machine_reboots_into_a_new_kernel_once_and_stays_only_if_it_is_confirmed() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["system:nixos:privileged"]);
    let mut host = machine(&lab, 23, "one-shot");
    let kernel = |version, kernel| System { version, kernel, ..System::default() };

    publish(&lab, kernel("1", "6.13"));
    host.machine.comes_back();
    host.becomes("system", "converged 1");
    assert_eq!(calls(&host), ["boot 0", "boot 1"]);
    assert_eq!(systems(&host), ["1", "1", "1"]);

    // In the new system nothing of the agent's runs: whoever wakes then was attached before.
    let booted = "for unit in agent boot recover; do
            mkdir -p /run/systemd/system/shoal-$unit.service.d
            printf '[Service]\\nExecStart=\\nExecStart=/nonexistent\\n' \
                > /run/systemd/system/shoal-$unit.service.d/broken.conf
        done
        systemctl daemon-reload";
    publish(&lab, System { booted, ..kernel("2", "6.14") });
    host.machine.comes_back();
    assert_eq!(host.machine.shell("readlink /run/booted-system | grep -o '.$'"), "2");
    assert_ne!(host.machine.shell("systemctl is-active shoal-agent || true"), "active");
    let listed =
        host.machine.shell("systemctl list-units --plain --no-legend 'shoal-recover-*.timer'");
    let timer = listed.split_whitespace().next().unwrap();
    let left = host.property(timer, "NextElapseUSecMonotonic");
    assert!(!left.is_empty() && left != "infinity", "it would come by itself: {left}");
    // Its job ends with the machine.
    let service = timer.replace(".timer", ".service");
    drop(host.machine.run(&["systemctl", "start", "--no-block", &service]));
    host.machine.comes_back();
    host.becomes("system", "rolled_back unconfirmed 1");
    assert_eq!(systems(&host), ["1", "1", "1"]);
    let rest = "ls -d /etc/systemd/system.attached/shoal-* 2>/dev/null || true";
    eventually("the dead man sleeps", || host.machine.shell(rest).is_empty().then_some(()));
    assert_eq!(calls(&host), ["boot 1", "boot 1", "boot 1"]);

    // The machine dies in the new system, and comes back in the old one.
    host.machine.shell("systemctl stop shoal-agent");
    let closed = "[reboot]\nallow = \"never\"\n";
    host.machine.write("/etc/shoal/agent.toml.d/reboot.toml", closed);
    host.start();
    publish(&lab, kernel("3", "6.15"));
    host.becomes("system", "reboot_pending reboot_needed 1");
    assert_eq!(systems(&host), ["1", "1", "3"]);
    host.machine.shell("grub-editenv /boot/grub/grubenv unset next_entry");
    host.machine.kill();
    host.machine.start();
    host.becomes("system", "rolled_back boot_entry_gone 1");
    assert_eq!(systems(&host), ["1", "1", "1"]);

    // A newer version makes a reboot that is waited for pointless.
    publish(&lab, kernel("4", "6.16"));
    host.becomes("system", "reboot_pending reboot_needed 1");
    publish(&lab, kernel("5", "6.13"));
    host.becomes("system", "converged 5");
    assert_eq!(systems(&host), ["5", "1", "5"]);
    assert_eq!(host.machine.shell("cat /boot/grub/grubenv"), "", "nothing is booted once");
}

/// A reboot window that is not open in the next weeks, and one that always is.
fn window(host: &HostMachine<'_>, open: bool) {
    let month = (jiff::Zoned::now().month() + 5) % 12 + 1;
    let closed =
        format!("[[windows.reboot]]\ncron = \"0 0 1 {month} *\"\nzone = \"UTC\"\nlength = 60\n");
    host.machine.write("/etc/shoal/agent.toml.d/window.toml", if open { "" } else { &closed });
    host.machine.shell("systemctl kill --kill-who=main --signal=HUP shoal-agent");
}

#[test]
fn a_machine_that_cannot_boot_a_system_once_is_asked_first_and_no_gate_is_passed_by() {
    let fleet = Fleet::new();
    let lab = Lab::new(&fleet, &["system:nixos:privileged", "web:exec:privileged"]);
    let mut host = machine(&lab, 24, "one-shot");
    host.machine.shell("touch /boot/grub/plain; sed -i /next_entry/d /boot/grub/grub.cfg");
    let kernel = |version, kernel| System { version, kernel, ..System::default() };

    // Nothing is changed before the host accepts what that means.
    publish(&lab, kernel("1", "6.13"));
    let said = is_refused(&host, "no_one_shot");
    assert!(said.contains("its initrd needs a reboot") || said.contains("its kernel"), "{said}");
    assert_eq!((calls(&host), systems(&host)), (vec![], ["0", "0", "0"].map(String::from)));
    host.machine.write("/etc/shoal/agent.toml.d/reboot.toml", "[reboot]\nallow = \"any\"\n");
    host.machine.shell("systemctl kill --kill-who=main --signal=HUP shoal-agent; agent --quiet retry system || true");
    host.machine.comes_back();
    host.becomes("system", "converged 1");
    assert_eq!(calls(&host), ["boot 1", "boot 1"]);
    assert_eq!(systems(&host), ["1", "1", "1"]);

    // One that is no good is the default, too, until it has been undone.
    let bad = ["--check", "up=tcp:127.0.0.1:9", "--deadline", "3"];
    publish_with(&lab, kernel("2", "6.14"), &bad);
    host.machine.comes_back();
    host.machine.comes_back();
    host.becomes("system", "rolled_back health_failed 1");
    assert_eq!(calls(&host), ["boot 2", "boot 1", "boot 1"]);
    assert_eq!(systems(&host), ["1", "1", "1"]);

    // Kernels that do not fit are not begun with.
    host.machine.shell(
        "cp -a /boot /run/kept; mount -t tmpfs -o size=1m tmpfs /boot; cp -a /run/kept/. /boot",
    );
    publish_with(&lab, kernel("3", "6.15"), &["--no-checks"]);
    let said = is_refused(&host, "disk_full");
    assert!(
        said.contains("kernel and initial ramdisk need 1.0 MiB in `/boot`, which has"),
        "{said}"
    );
    assert_eq!((calls(&host), systems(&host)), (vec![], ["1", "1", "1"].map(String::from)));

    // A closed window is waited for, and until when is told.
    window(&host, false);
    host.machine.shell("umount /boot; agent --quiet retry system");
    host.becomes("system", "reboot_pending reboot_needed 1");
    let status = host.status("system").unwrap();
    let text = status.pointer("/reason/text").unwrap().as_str().unwrap();
    assert!(text.contains("by itself this host reboots after 20"), "{text}");

    // So is another profile that is in the middle of its switch.
    let files = [("bin/activate", "#!/bin/sh\n"), ("bin/check", "#!/bin/sh\ntest -e /run/well\n")];
    let check = ["--activation", "exec", "--check", "well=exec:bin/check", "--deadline", "600"];
    lab.publish_with("web", "1", &files, &check);
    host.becomes("web", "confirming in_progress");
    window(&host, true);
    let waits = "journalctl --unit=shoal-agent --grep='the reboot waits for its switch' | grep -c waits || true";
    eventually("the reboot waits", || (host.machine.shell(waits) != "0").then_some(()));
    host.machine.shell("touch /run/well");
    host.machine.comes_back();
    host.becomes("system", "converged 3");
    assert_eq!(systems(&host), ["3", "3", "3"]);
}

/// Waits until a version is refused by this reason; returns that in words.
fn is_refused(host: &HostMachine<'_>, code: &str) -> String {
    eventually(&format!("it is refused: {code}"), || {
        let status = host.status("system")?;
        let reason = status.get("reason")?;
        (reason["code"] == code).then(|| reason["text"].as_str().unwrap().to_owned())
    })
}
