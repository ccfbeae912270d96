//! Systems in the shape of NixOS's, and machines that run them.

use std::{fs, os::unix::fs::PermissionsExt as _, os::unix::fs::symlink, path::Path};

use crate::systemd::lab::{HostMachine, Lab};

/// What a system differs in from the others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct System<'a> {
    /// Names it.
    pub(crate) version: &'a str,
    /// Its kernel; the same text is the same store path.
    pub(crate) kernel: &'a str,
    /// What its activation runs; its exit code is that of `switch-to-configuration`.
    pub(crate) activate: &'a str,
    /// What the machine runs when it has booted into it.
    pub(crate) booted: &'a str,
}

/// As `switch-to-configuration` of NixOS: locks, makes the menu of the boot loader with itself as the
/// default, and activates. It writes down how it was called.
const SWITCH: &str = r#"#!/bin/sh
set -e
system=$(dirname "$(dirname "$(readlink -f "$0")")")
mkdir -p /run/nixos
exec 9> /run/nixos/switch-to-configuration.lock
flock --nonblock 9 || exit 11
echo "$1 $(cat "$system/nixos-version") install=$NIXOS_INSTALL_BOOTLOADER" >> /var/log/switches
case $1 in switch|boot) "$system/bin/install-bootloader" "$system" || exit 1 ;; esac
[ "$1" != boot ] || exit 0
if grep -qx 'exit 100' "$system/activate"; then
    echo "this won't take effect until you reboot the system"
    exit 100
fi
ln -sfn "$system" /run/current-system
"$system/activate" || exit $?
"#;

/// As NixOS's for GRUB: the default first, then all generations in a menu below.
const INSTALL: &str = r#"#!/bin/sh
set -e
entry() {
    echo "menuentry \"$1\" --class nixos --unrestricted {"
    echo "  linux ($drive1)/boot/kernel init=$(readlink -f "$2/init") $(cat "$2/kernel-params")"
    echo "  initrd ($drive1)/boot/initrd"
    echo "}"
}
mkdir -p /boot/grub
{
    echo 'if [ "${next_entry}" ]; then'
    echo '  set default="${next_entry}"; set next_entry=; save_env next_entry'
    echo 'fi'
    entry NixOS "$1"
    echo 'submenu "NixOS - All configurations" {'
    for link in $(ls -dr /nix/var/nix/profiles/system-*-link); do
        number=${link%-link}
        entry "NixOS - Configuration ${number##*-} ($(cat "$link/nixos-version"))" "$link"
    done
    echo '}'
} > /boot/grub/grub.cfg.tmp
mv /boot/grub/grub.cfg.tmp /boot/grub/grub.cfg
"#;

/// What firmware, boot loader and the first stage of NixOS's init do, after a reboot.
const BOOT: &str = r#"#!/bin/sh
set -e
once=$(sed -n 's/^next_entry=//p' /boot/grub/grubenv 2>/dev/null || true)
: > /boot/grub/grubenv
title=${once##*>}
init=$(grep -A1 -F "menuentry \"${title:-NixOS}\"" /boot/grub/grub.cfg | sed -n 's/.* init=\([^ ]*\) .*/\1/p' | head -n1)
ln -sfn "${init%/init}" /run/booted-system
ln -sfn "${init%/init}" /run/current-system
"${init%/init}/booted"
"#;

const BOOT_UNIT: &str = "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\n\
    Before=sysinit.target shoal-boot.service shoal-recover.service shoal-agent.service\n\
    ConditionPathExists=/boot/grub/grub.cfg\nConditionPathExists=!/run/booted-system\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/sbin/boot-system\n\
    [Install]\nWantedBy=sysinit.target\n";

/// GRUB's own tools, which write down how they were called.
const GRUB_REBOOT: &str = "#!/bin/sh -e\necho \"grub-reboot $*\" >> /var/log/loader\n\
    printf '# GRUB Environment Block\\nnext_entry=%s\\n####' \"$2\" > /boot/grub/grubenv\n";
const GRUB_EDITENV: &str =
    "#!/bin/sh -e\necho \"grub-editenv $*\" >> /var/log/loader\n: > \"$1\"\n";

/// Builds a system; returns its store path.
pub(crate) fn build(lab: &Lab<'_>, system: System<'_>) -> String {
    let System { version, kernel, activate, booted } = system;
    let kernel = if kernel.is_empty() { "6.12" } else { kernel };
    let part = |name: &str, file: &str, text: &str| {
        let path = lab.builder.add_files(name, &[(file, text, 0o644)], &[]);
        (format!("{path}/{file}"), path)
    };
    let (image, linux) = part("linux", "bzImage", kernel);
    let (_, modules) = part("linux-modules", "lib/modules/version", kernel);
    let (ramdisk, initrd) = part("initrd-linux", "initrd", kernel);
    let (_, systemd) = part("systemd", "lib/systemd/systemd", "systemd 257");
    let (_, etc) = part("etc", "etc/systemd/system/dbus.service", "[Service]\n");
    let (_, sw) = part("system-path", "share/nothing", "");
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    for (name, target) in [
        ("kernel", image.as_str()),
        ("kernel-modules", &modules),
        ("initrd", &ramdisk),
        ("systemd", &systemd),
        ("etc", &format!("{etc}/etc")),
        ("sw", &sw),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    let boot = format!(
        r#"{{"org.nixos.bootspec.v1":{{"kernel":"{image}","initrd":"{ramdisk}","kernelParams":["quiet"],"label":"NixOS {version}","system":"x86_64-linux"}},"org.nixos.specialisation.v1":{{}}}}"#
    );
    for (name, text) in [
        ("activate", format!("#!/bin/sh\n{activate}\n")),
        ("bin/install-bootloader", INSTALL.to_owned()),
        ("bin/switch-to-configuration", SWITCH.to_owned()),
        ("boot.json", boot),
        ("booted", format!("#!/bin/sh\n{booted}\n")),
        ("extra-dependencies", String::new()),
        ("init", "#!/bin/sh\nexec \"$(dirname \"$0\")/systemd/lib/systemd/systemd\"\n".to_owned()),
        ("init-interface-version", "systemd 2".to_owned()),
        ("kernel-params", "quiet".to_owned()),
        ("nixos-version", version.to_owned()),
        ("system", "x86_64-linux".to_owned()),
    ] {
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(root.join("specialisation")).unwrap();
    let references = [&linux, &modules, &initrd, &systemd, &etc, &sw].map(String::as_str);
    lab.builder.add_folder(&format!("nixos-system-host-{version}"), root, &references)
}

/// Builds and publishes a system; returns its store path.
pub(crate) fn publish(lab: &Lab<'_>, system: System<'_>) -> String {
    publish_with(lab, system, &[])
}

/// Builds and publishes a system with further options; returns its store path.
pub(crate) fn publish_with(lab: &Lab<'_>, system: System<'_>, options: &[&str]) -> String {
    let path = build(lab, system);
    lab.publish_path("system", &path, &[&["--activation", "nixos"], options].concat());
    path
}

/// Boots a machine that runs a system already, as an installer leaves it, and has the agent.
pub(crate) fn machine<'a>(lab: &Lab<'a>, number: u8, reboots: &str) -> HostMachine<'a> {
    let host = lab.host("host-1", number);
    let first = build(lab, System { version: "0", ..System::default() });
    lab.builder.push(&first).ok();
    let machine = &host.machine;
    let config = format!("[reboot]\nallow = \"{reboots}\"\n");
    machine.write("/etc/shoal/agent.toml.d/reboot.toml", config);
    machine.write("/etc/NIXOS", "");
    machine.write("/etc/systemd/system/boot-system.service", BOOT_UNIT);
    for (file, text) in
        [("boot-system", BOOT), ("grub-reboot", GRUB_REBOOT), ("grub-editenv", GRUB_EDITENV)]
    {
        machine.write(&format!("/usr/local/sbin/{file}"), text);
    }
    let cache = lab.realm.cache_url();
    machine.shell(&format!(
        "chmod 755 /usr/local/sbin/*; systemctl --quiet enable boot-system
         agent --quiet copy-closure --from {cache} {first}
         ln -sfn {first} /run/booted-system; ln -sfn {first} /run/current-system
         {first}/bin/install-bootloader {first}; touch /boot/grub/grubenv"
    ));
    host.start();
    host
}

/// Returns how systems were called since the last time this was asked.
pub(crate) fn calls(host: &HostMachine<'_>) -> Vec<String> {
    let script = "touch /var/log/switches; cat /var/log/switches; : > /var/log/switches";
    let lines = host.machine.shell(script);
    lines.lines().map(|line| line.trim_end_matches(" install=0").to_owned()).collect()
}

/// Returns the versions that are activated, were booted, and are booted next, as the agent tells.
pub(crate) fn systems(host: &HostMachine<'_>) -> [String; 3] {
    let told = host.machine.run(&["agent", "status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&told).unwrap();
    ["running", "booted", "next_boot"].map(|which| {
        let path = status.pointer(&format!("/systems/{which}")).and_then(|path| path.as_str());
        let name = path.and_then(|path| Path::new(path).file_name()?.to_str());
        name.and_then(|name| name.rsplit('-').next()).unwrap_or("unknown").to_owned()
    })
}
