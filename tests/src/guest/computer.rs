//! A machine as an installer leaves it: Debian on a disk with partitions, and a real boot loader on it,
//! which firmware starts. What is booted is that loader's choice alone.

use std::{
    fs,
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{
    Guest, KERNEL_WORDS, emulator, plain,
    system::{self, libraries_of, which},
};
use crate::{Service, bin, machine, run, tool};

const MIB: u64 = 1024 * 1024;
/// The size of the whole disk, of which most stays a hole.
const DISK: u64 = 640 * MIB;
/// Where the first partition begins, on any disk of our days.
const FIRST: u64 = MIB;
/// The size of an EFI system partition.
const ESP: u64 = 48 * MIB;

/// What of Debian no machine of a story needs.
const LEFT_OUT: [&str; 6] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/zoneinfo",
    "var/lib/dpkg",
    "var/cache",
];

/// Units that only take the time of an emulated machine.
const MASKED: [&str; 28] = [
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@.service",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-modules-load.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
];

/// What the kernel has as modules and a machine with firmware of EFI needs, in the order in which they
/// can be loaded.
const MODULES: [&str; 5] = ["nls_cp437", "nls_ascii", "fat", "vfat", "efivarfs"];

/// Mounts what the boot loader reads.
const STAGE_1: &str = "#!/bin/sh -e
for module in MODULES; do busybox insmod /lib/modules/$module.ko; done
mount -t vfat -o umask=0077 /dev/nvme0n1p1 /boot
mount -t efivarfs efivarfs /sys/firmware/efi/efivars
";

/// Modules that GRUB is made of, and what it reads first.
const GRUB: [&str; 10] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "normal",
    "linux",
    "loadenv",
    "test",
    "echo",
    "configfile",
    "sleep",
];

/// A boot loader, and with it the firmware that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BootLoader {
    /// GRUB, started by a BIOS.
    #[default]
    Grub,
    /// systemd-boot, started by EFI.
    SystemdBoot,
}

/// A machine that can be switched off and on; its disk, and its firmware's variables, stay.
#[derive(Debug)]
pub struct Computer {
    folder: TempDir,
    loader: BootLoader,
}

impl Computer {
    /// Begins with a Debian below [`Computer::tree`], which has the agent and the loader's own tools.
    ///
    /// # Panics
    /// When something of that is not installed.
    #[must_use]
    pub fn new(loader: BootLoader) -> Self {
        let computer = Self { folder: crate::scratch(), loader };
        let tree = computer.tree();
        let base = machine::base();
        let mut copy = tool("cp");
        copy.arg("--archive").arg(&base).arg(&tree);
        run(&mut copy).ok();
        for folder in LEFT_OUT {
            fs::remove_dir_all(tree.join(folder)).expect("Debian has it");
        }
        for unit in MASKED {
            symlink("/dev/null", tree.join("etc/systemd/system").join(unit))
                .or_else(|_| {
                    fs::remove_file(tree.join("etc/systemd/system").join(unit))?;
                    symlink("/dev/null", tree.join("etc/systemd/system").join(unit))
                })
                .expect("it is ours");
        }
        // One that is made at the first boot is a boot that is told apart by more than its system.
        fs::write(tree.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n")
            .expect("it is ours");
        computer.add(&which("busybox"), "usr/local/bin/busybox");
        // Without what only debuggers read.
        let agent = tree.join("usr/local/bin/agent");
        run(tool("strip").arg("-o").arg(&agent).arg(bin("agent"))).ok();
        match loader {
            BootLoader::Grub => computer.add_tools_of_grub(),
            BootLoader::SystemdBoot => computer.add_tools_of_systemd_boot(),
        }
        computer
    }

    /// Returns the root of its file system, until it is installed.
    #[must_use]
    pub fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    /// Returns what every kernel of it must be told.
    #[must_use]
    pub fn kernel_words(&self) -> String {
        let (partition, acpi) = match self.loader {
            BootLoader::Grub => (1, " acpi=off"),
            BootLoader::SystemdBoot => (2, ""),
        };
        let systemd = "systemd.show_status=0 systemd.gpt_auto=0";
        format!("{KERNEL_WORDS}{acpi} root=/dev/nvme0n1p{partition} rw {systemd}")
    }

    /// Runs a shell script in it before it is installed, as an installer would.
    #[track_caller]
    pub fn inside(&self, script: &str) -> String {
        let mut chroot = tool("chroot");
        run(chroot.arg(self.tree()).args(["sh", "-euc", script])).ok()
    }

    /// Writes all of it onto its disk, and installs the boot loader there.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn install(&self) {
        let disk = self.disk();
        fs::File::create(&disk).and_then(|file| file.set_len(DISK)).expect("a place for the disk");
        match self.loader {
            BootLoader::Grub => {
                partition(&disk, "dos", "start=2048, type=83, bootable");
                self.write_root(FIRST);
                self.install_grub();
            }
            BootLoader::SystemdBoot => {
                let (begin, size) = (FIRST / 512, ESP / 512);
                let table =
                    format!("start={begin}, size={size}, type=U\nstart={}, type=L", begin + size);
                partition(&disk, "gpt", &table);
                self.install_systemd_boot();
                self.write_root(FIRST + ESP);
            }
        }
        fs::remove_dir_all(self.tree()).expect("it is ours");
    }

    /// Switches it on.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn switch_on(&self) -> Guest {
        let mut qemu = emulator();
        let drive = format!(
            "driver=file,node-name=disk,cache.no-flush=on,filename={}",
            plain(&self.disk())
        );
        qemu.args(["-blockdev", &drive, "-device", "nvme,drive=disk,serial=1,bootindex=1"]);
        if self.loader == BootLoader::SystemdBoot {
            let firmware = |name: &str| PathBuf::from(FIRMWARE).join(name);
            let flash = |path: &Path, more: &str| {
                format!("if=pflash,format=raw,{more},file={}", plain(path))
            };
            qemu.args([
                "-machine",
                "q35",
                "-drive",
                &flash(&firmware("OVMF_CODE_4M.fd"), "readonly=on"),
            ]);
            qemu.args(["-drive", &flash(&self.variables(), "cache=unsafe")]);
        }
        Guest { service: Service::begin(&mut qemu) }
    }

    fn disk(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn variables(&self) -> PathBuf {
        self.folder.path().join("variables.fd")
    }

    fn add(&self, from: &Path, to: &str) {
        let to = self.tree().join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("it lies in a folder")).expect("it is ours");
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    fn add_with_libraries(&self, program: &Path, to: &str) {
        self.add(program, to);
        for library in libraries_of(program) {
            if !self.tree().join(library.strip_prefix("/").expect("an absolute path")).exists() {
                self.add(&library, library.to_str().expect("a plain path"));
            }
        }
    }

    fn add_tools_of_grub(&self) {
        self.add_with_libraries(&which("grub-editenv"), "usr/bin/grub-editenv");
        self.add(&which("grub-reboot"), "usr/sbin/grub-reboot");
        self.add(
            Path::new("/usr/share/grub/grub-mkconfig_lib"),
            "usr/share/grub/grub-mkconfig_lib",
        );
    }

    fn add_tools_of_systemd_boot(&self) {
        let folder = system::folder();
        self.add(&folder.join("bootctl"), "usr/bin/bootctl");
        for module in MODULES {
            self.add(&folder.join(format!("{module}.ko")), &format!("usr/lib/modules/{module}.ko"));
        }
        let stage_1 = self.tree().join("stage-1");
        fs::write(&stage_1, STAGE_1.replace("MODULES", &MODULES.join(" "))).expect("it is ours");
        fs::set_permissions(&stage_1, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    /// Makes the root file system, from there to the end of the disk.
    fn write_root(&self, offset: u64) {
        let mut mke2fs = tool("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E"]);
        mke2fs.arg(format!("offset={offset},root_owner=0:0")).arg("-d").arg(self.tree());
        // The backup of a partition table is at the end.
        let size = (DISK - offset - MIB) / 1024;
        run(mke2fs.arg(self.disk()).arg(format!("{size}k"))).ok();
    }

    /// Puts GRUB where a BIOS starts it: into the first sector, and those after it.
    fn install_grub(&self) {
        let core = self.folder.path().join("core.img");
        let mut mkimage = tool("grub-mkimage");
        mkimage.args(["--format=i386-pc", "--prefix=(hd0,msdos1)/boot/grub", "--output"]);
        run(mkimage.arg(&core).args(GRUB)).ok();
        let first = fs::read("/usr/lib/grub/i386-pc/boot.img").expect("grub-pc-bin has it");
        let core = fs::read(core).expect("it was just made");
        assert!(512 + core.len() as u64 <= FIRST, "GRUB has room before the first partition");
        let disk = fs::File::options().write(true).open(self.disk()).expect("it is ours");
        // Not over the table of partitions.
        let code = first.get(..440).expect("a sector");
        disk.write_all_at(code, 0)
            .and_then(|()| disk.write_all_at(&core, 512))
            .expect("it is ours");
    }

    /// Makes the EFI system partition: systemd-boot where firmware looks for it, and all of `/boot`.
    fn install_systemd_boot(&self) {
        let boot = self.tree().join("boot");
        let program = boot.join("EFI/BOOT/BOOTX64.EFI");
        fs::create_dir_all(program.parent().expect("a folder")).expect("it is ours");
        let from = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
        fs::copy(from, program).expect("systemd-boot-efi has it");
        let offset = format!("--offset={}", FIRST / 512);
        let mut mkfs = tool("mkfs.fat");
        mkfs.args(["-F", "32", "-s", "1", &offset]).arg(self.disk());
        run(mkfs.arg((ESP / 1024).to_string())).ok();
        let mut copy = tool("mcopy");
        copy.args(["-s", "-i", &format!("{}@@{FIRST}", plain(&self.disk()))]);
        for entry in fs::read_dir(&boot).expect("it is ours") {
            copy.arg(entry.expect("it is ours").path());
        }
        run(copy.arg("::/")).ok();
        for entry in fs::read_dir(&boot).expect("it is ours") {
            let path = entry.expect("it is ours").path();
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                .expect("it is ours");
        }
        let empty = Path::new(FIRMWARE).join("OVMF_VARS_4M.fd");
        fs::copy(empty, self.variables()).expect("ovmf has it");
    }
}

/// Where Debian has the firmware of EFI.
const FIRMWARE: &str = "/usr/share/OVMF";

fn partition(disk: &Path, label: &str, table: &str) {
    let mut sfdisk = tool("sfdisk");
    sfdisk.args(["--quiet", "--label", label]).arg(disk);
    crate::run_with_input(&mut sfdisk, format!("{table}\n").as_bytes()).ok();
}
