//! The system disk of all guests: busybox, real Nix, and what starts a story's program.
//!
//! It is made once for each version of what goes onto it, and kept beside the build.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Mutex,
};

use shared::nix::Sha256;

use crate::{bin, guest::disk, run, tool};

/// What the console says when a guest is up.
pub(super) const UP: &str = "## up";

/// Drivers of the disks that a story adds, in the order in which they can be loaded.
const MODULES: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];

/// What runs first, and what runs the story's program.
const INIT: &str = "#!/bin/sh
export PATH=/bin HOME=/tmp
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
# Else Nix asks a name service for the user.
export USER=root
for module in MODULES; do insmod /lib/modules/$module.ko; done
mount -t ext4 -o ro /dev/nvme0n2 /payload
ifconfig lo 127.0.0.1 up
echo '## up'
/payload/main
echo \"## main ended with $?\"
reboot -f
";

/// What every guest boots from.
#[derive(Debug)]
pub(super) struct System {
    pub(super) kernel: PathBuf,
    pub(super) image: PathBuf,
}

impl System {
    /// Finds it, or makes it.
    ///
    /// # Panics
    /// When something that goes onto it is not installed.
    pub(super) fn get() -> Self {
        static ONE_MAKES_IT: Mutex<()> = Mutex::new(());
        let folder = folder();
        let kernel = kernel();
        let mut files = files(&folder);
        files.sort();
        let image = folder.join(format!("system-{}.img", key(&files)));
        let _one = ONE_MAKES_IT.lock();
        if !image.is_file() {
            make(&files, &image);
        }
        Self { kernel, image }
    }
}

/// Returns the kernel of guests.
pub(super) fn kernel() -> PathBuf {
    let kernel = folder().join("vmlinuz");
    assert!(
        kernel.is_file(),
        "there is no {}, the kernel of guests; tests/run downloads it",
        kernel.display(),
    );
    kernel
}

/// Returns the folder of what `tests/run` downloads for guests.
pub(super) fn folder() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest");
    env::var_os("SHOAL_GUEST").map_or(default, PathBuf::from)
}

/// Returns what goes onto the disk: from where, and to where.
fn files(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut files = vec![(which("busybox"), "/bin/busybox".into())];
    for module in MODULES {
        let file = format!("{module}.ko");
        files.push((folder.join(&file), Path::new("/lib/modules").join(file)));
    }
    // That of busybox cannot write around the cache; stories name it by its path.
    files.push((which("dd"), "/bin/dd".into()));
    let nix = which("nix-store").canonicalize().expect("nix-store exists");
    let mut libraries = BTreeSet::new();
    // The agent comes with the story, its libraries are here.
    for program in [&nix, &bin("agent")] {
        libraries.extend(libraries_of(program));
    }
    files.push((nix, "/bin/nix-store".into()));
    // Loaded by name alone.
    let libc = libraries.iter().find(|path| path.ends_with("libc.so.6")).expect("the C library");
    libraries.insert(libc.with_file_name("libnss_dns.so.2"));
    files.extend(libraries.into_iter().map(|library| (library.clone(), library)));
    files
}

pub(super) fn which(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|it| it.is_file());
    found.unwrap_or_else(|| panic!("there is no {program}; tests/run installs it"))
}

/// Returns the shared libraries of a program, and what loads them.
pub(super) fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let listed = run(tool("ldd").arg(program)).ok();
    let paths =
        listed.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

/// Names what would be made of `files`: other files, other name.
fn key(files: &[(PathBuf, PathBuf)]) -> String {
    let mut text = format!("{INIT}{MODULES:?}");
    for (from, to) in files {
        let found =
            fs::metadata(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        text += &format!("{} {} {}\n", to.display(), found.len(), found.mtime());
    }
    Sha256::of(text.as_bytes()).to_hex().chars().take(16).collect()
}

fn make(files: &[(PathBuf, PathBuf)], image: &Path) {
    let tree = crate::scratch();
    let root = tree.path();
    for folder in ["bin", "dev", "proc", "sys", "tmp", "payload", "data", "etc/nix"] {
        fs::create_dir_all(root.join(folder)).expect("it is ours");
    }
    for (from, to) in files {
        let to = root.join(to.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(to.parent().expect("it lies in a folder")).expect("it is ours");
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    for applet in run(tool("busybox").arg("--list")).ok().lines() {
        let link = root.join("bin").join(applet);
        if link.symlink_metadata().is_err() {
            symlink("busybox", link).expect("it is ours");
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/tmp:/bin/sh\n").expect("it is ours");
    fs::write(root.join("etc/group"), "root:x:0:\n").expect("it is ours");
    fs::write(root.join("etc/nix/nix.conf"), "build-users-group =\n").expect("it is ours");
    let init = root.join("init");
    fs::write(&init, INIT.replace("MODULES", &MODULES.join(" "))).expect("it is ours");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("it is ours");
    // Another process may make it at the same time: whole or not at all.
    let temporary = image.with_extension(format!("{}.tmp", std::process::id()));
    disk::make(&temporary, disk::size_for(root), Some(root));
    fs::rename(&temporary, image).expect("it is ours");
}
