//! Systems in the shape of NixOS's, and machines that run them.

use std::{fs, os::unix::fs::PermissionsExt as _, os::unix::fs::symlink, path::Path};

use tests::{Builder, guest::computer::BootLoader};

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
    /// What it is really booted on, if it is.
    pub(crate) hardware: Option<Hardware<'a>>,
}

/// A machine that boots by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware<'a> {
    /// Its boot loader.
    pub(crate) loader: BootLoader,
    /// A real kernel, for all its systems; that theirs differ, their initial ramdisks show.
    pub(crate) kernel: &'a Path,
    /// What every kernel is told.
    pub(crate) kernel_words: &'a str,
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

/// As NixOS's for GRUB: what `grub-reboot` chose, once; else the default, which comes first; then all
/// generations in a menu below.
const INSTALL_GRUB: &str = r#"#!/bin/sh
set -e
entry() {
    echo "menuentry \"$1\" --class nixos --unrestricted {"
    echo "  linux (\$root)$(readlink -f "$2/kernel") init=$(readlink -f "$2/init") $(cat "$2/kernel-params")"
    echo "  initrd (\$root)$(readlink -f "$2/initrd")"
    echo "}"
}
mkdir -p /boot/grub
{
    echo 'if [ -s $prefix/grubenv ]; then load_env; fi'
    echo 'if [ "${next_entry}" ]; then'
    echo '  set default="${next_entry}"'
    echo '  set next_entry='
    echo '  save_env next_entry'
    echo 'else'
    echo '  set default=0'
    echo 'fi'
    echo 'set timeout=0'
    entry NixOS "$1"
    echo 'submenu "NixOS - All configurations" {'
    for link in $(ls -dr /nix/var/nix/profiles/system-*-link); do
        number=${link%-link}
        entry "NixOS - Configuration ${number##*-} ($(cat "$link/nixos-version"))" "$link"
    done
    echo '}'
} > /boot/grub/grub.cfg.tmp
# Other menus do not ask what to start once.
if [ -e /boot/grub/plain ]; then sed -i /next_entry/d /boot/grub/grub.cfg.tmp; fi
mv /boot/grub/grub.cfg.tmp /boot/grub/grub.cfg
"#;

/// As NixOS's for systemd-boot: kernels are copied, each generation has a file, one is the default.
const INSTALL_SYSTEMD_BOOT: &str = r#"#!/bin/sh
set -e
copied() {
    real=$(readlink -f "$1")
    file=/EFI/nixos/$(echo "${real#/nix/store/}" | tr / -).efi
    if [ ! -e "/boot$file" ]; then cp "$real" /boot/copy; mv /boot/copy "/boot$file"; fi
    echo "$file"
}
mkdir -p /boot/EFI/nixos /boot/loader/entries
for link in /nix/var/nix/profiles/system-*-link; do
    number=${link%-link}; number=${number##*-}
    {
        echo "title NixOS"
        echo "version Generation $number NixOS $(cat "$link/nixos-version")"
        echo "linux $(copied "$link/kernel")"
        echo "initrd $(copied "$link/initrd")"
        echo "options init=$(readlink -f "$link/init") $(cat "$link/kernel-params")"
    } > /boot/new
    mv /boot/new "/boot/loader/entries/nixos-generation-$number.conf"
    if [ "$(readlink -f "$link")" = "$1" ]; then default=$number; fi
done
printf 'timeout 0\ndefault nixos-generation-%s.conf\n' "$default" > /boot/new
mv /boot/new /boot/loader/loader.conf
sync
"#;

/// What the kernel starts: what NixOS's initial ramdisk and its second stage do, then systemd.
const INIT: &str = r###"#!/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin
system=$(dirname "$0")
mount -t devtmpfs dev /dev
exec < /dev/console > /dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
ln -s "$system" /run/booted-system
ln -s "$system" /run/current-system
if [ -x /stage-1 ]; then /stage-1; fi
echo "## boots $(cat "$system/nixos-version")"
"$system/booted"
exec /lib/systemd/systemd
"###;

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
pub(crate) fn build(builder: &Builder, system: System<'_>) -> String {
    let System { version, kernel, activate, booted, hardware } = system;
    let kernel = if kernel.is_empty() { "6.12" } else { kernel };
    let words = hardware.map_or("quiet", |hardware| hardware.kernel_words);
    let part = |name: &str, file: &str, text: &str| {
        let path = builder.add_files(name, &[(file, text, 0o644)], &[]);
        (format!("{path}/{file}"), path)
    };
    let (image, linux) = match hardware {
        Some(hardware) => add_kernel(builder, hardware.kernel),
        None => part("linux", "bzImage", kernel),
    };
    let (_, modules) = part("linux-modules", "lib/modules/version", kernel);
    let (ramdisk, initrd) = part("initrd-linux", "initrd", &archive(kernel));
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
        r#"{{"org.nixos.bootspec.v1":{{"kernel":"{image}","initrd":"{ramdisk}","kernelParams":["{words}"],"label":"NixOS {version}","system":"x86_64-linux"}},"org.nixos.specialisation.v1":{{}}}}"#
    );
    let install = match hardware.map(|hardware| hardware.loader) {
        None | Some(BootLoader::Grub) => INSTALL_GRUB,
        Some(BootLoader::SystemdBoot) => INSTALL_SYSTEMD_BOOT,
    };
    for (name, text) in [
        ("activate", format!("#!/bin/sh\n{activate}\n")),
        ("bin/install-bootloader", install.to_owned()),
        ("bin/switch-to-configuration", SWITCH.to_owned()),
        ("boot.json", boot),
        ("booted", format!("#!/bin/sh\n{booted}\n")),
        ("extra-dependencies", String::new()),
        ("init", INIT.to_owned()),
        ("init-interface-version", "systemd 2".to_owned()),
        ("kernel-params", words.to_owned()),
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
    builder.add_folder(&format!("nixos-system-host-{version}"), root, &references)
}

/// Adds a real kernel; returns the paths of its file, and of its root.
fn add_kernel(builder: &Builder, kernel: &Path) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(kernel, folder.path().join("bzImage")).unwrap();
    let path = builder.add_folder("linux", folder.path(), &[]);
    (format!("{path}/bzImage"), path)
}

/// Makes an initial ramdisk with an empty file of this name: the kernel goes on by itself.
fn archive(name: &str) -> String {
    let entry = |mode: usize, name: &str| {
        let fields = [1, mode, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() + 1, 0];
        let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        let mut entry = format!("070701{fields}{name}\0");
        while entry.len() % 4 != 0 {
            entry.push('\0');
        }
        entry
    };
    entry(0o100_644, &format!("linux-{name}")) + &entry(0, "TRAILER!!!")
}

/// Builds and publishes a system; returns its store path.
pub(crate) fn publish(lab: &Lab<'_>, system: System<'_>) -> String {
    publish_with(lab, system, &[])
}

/// Builds and publishes a system with further options; returns its store path.
pub(crate) fn publish_with(lab: &Lab<'_>, system: System<'_>, options: &[&str]) -> String {
    let path = build(&lab.builder, system);
    lab.publish_path("system", &path, &[&["--activation", "nixos"], options].concat());
    path
}

/// Boots a machine that runs a system already, as an installer leaves it, and has the agent.
pub(crate) fn machine<'a>(lab: &Lab<'a>, number: u8, reboots: &str) -> HostMachine<'a> {
    let host = lab.host("host-1", number);
    let first = build(&lab.builder, System { version: "0", ..System::default() });
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
