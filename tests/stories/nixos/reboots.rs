//! Systems that need a reboot: once, back if they are no good, and never on and on.

use tests::{eventually, machine::Fleet};

use super::lab::{System, calls, machine, publish, systems};
use crate::systemd::lab::Lab;

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
