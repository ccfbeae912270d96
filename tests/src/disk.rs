//! Real small file systems, in a mount namespace of their own: nothing of the machine's is touched.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{CWD, FallocateFlags, Mode, OFlags, StatVfs, fallocate, openat, statvfs},
    io::Errno,
    process::geteuid,
};
use tempfile::TempDir;

use crate::process::{Service, run, tool};

/// A small file system that only commands of [`SmallDisk::inside`] see at its place.
#[derive(Debug)]
pub struct SmallDisk {
    holder: Service,
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs with these options, such as `size=24m,nr_inodes=500`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn tmpfs(options: &str) -> Self {
        Self::with(&format!("mount -t tmpfs -o {options} none \"$DISK\""))
    }

    /// Makes and mounts an ext4 with these options of `mkfs.ext4`, on a file on a tmpfs that has
    /// room for `backed`: less than the file, and it fails as a thin disk does. Only root can.
    ///
    /// # Panics
    /// When it cannot be made or mounted.
    #[must_use]
    pub fn ext4(size: &str, backed: &str, options: &str) -> Self {
        assert!(geteuid().is_root(), "only root mounts an ext4");
        Self::with(&format!(
            "PATH=$PATH:/usr/sbin:/sbin; mount -t tmpfs -o size={backed} none \"$DISK\"
             truncate -s {size} \"$DISK/image\"; mkfs.ext4 -q -F {options} \"$DISK/image\"
             mkdir \"$DISK/ext4\"; mount -o loop \"$DISK/image\" \"$DISK/ext4\"
             rmdir \"$DISK/ext4/lost+found\""
        ))
    }

    fn with(mount: &str) -> Self {
        let folder = crate::scratch();
        // Whoever is in the namespace under another number must get through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let mut unshare = tool("unshare");
        unshare.env("DISK", folder.path()).args(user_namespace()).arg("--mount");
        unshare.args(["sh", "-euc", &format!("{mount}\necho mounted; exec sleep infinity")]);
        let holder = Service::start(&mut unshare, "mounted");
        Self { holder, folder }
    }

    /// Returns where it is mounted, for whoever is inside.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let inner = self.folder.path().join("ext4");
        if self.outside_of(&inner).is_dir() { inner } else { self.folder.path().to_owned() }
    }

    /// Returns whether it is an ext4, on a tmpfs.
    #[must_use]
    pub fn is_ext4(&self) -> bool {
        self.path() != self.folder.path()
    }

    /// Returns somebody who fills up what an ext4 lies on.
    #[must_use]
    pub fn backing(&self) -> Filler {
        Filler(self.outside_of(self.folder.path()))
    }

    /// Writes everything out.
    ///
    /// # Panics
    /// When that fails.
    pub fn sync(&self) {
        let folder = fs::File::open(self.outside_of(&self.path())).expect("it is mounted");
        rustix::fs::syncfs(folder).expect("it is whole");
    }

    /// Does what an operator does with an ext4 that failed: unmounts, checks, mounts it again.
    ///
    /// # Panics
    /// When it cannot be mended.
    pub fn repair(&self) {
        let mut mend = tool("sh");
        let script = "PATH=$PATH:/usr/sbin:/sbin; umount \"$DISK/ext4\"
            e2fsck -fy \"$DISK/image\" > /dev/null || test $? -le 2
            mount -o loop \"$DISK/image\" \"$DISK/ext4\"";
        mend.env("DISK", self.folder.path()).args(["-euc", script]);
        run(&mut self.inside(&mend)).ok();
    }

    /// Returns where a path of the inside is, for whoever is not.
    #[must_use]
    pub fn outside_of(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// Returns the same command, to be run where the file system is mounted.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        let mut entered = tool("nsenter");
        entered.arg(format!("--target={}", self.holder.id())).arg("--mount");
        if !user_namespace().is_empty() {
            entered.args(["--user", "--preserve-credentials"]);
        }
        entered.arg("--").arg(command.get_program()).args(command.get_args());
        entered.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        entered
    }

    /// Returns what is free: bytes for everybody but root, and inodes.
    ///
    /// # Panics
    /// When it has gone.
    #[must_use]
    pub fn free(&self) -> (u64, u64) {
        let stat = self.stat();
        (stat.f_bavail * stat.f_frsize, stat.f_favail)
    }

    fn stat(&self) -> StatVfs {
        statvfs(self.outside_of(&self.path())).expect("it is mounted")
    }

    /// Fills it up, as somebody else would, until so many bytes are left; gives what is too much
    /// back.
    ///
    /// # Panics
    /// When it cannot.
    pub fn leave_bytes(&self, bytes: u64) {
        self.filler().leave_bytes(bytes);
    }

    /// Returns somebody else who fills it up, on any thread.
    #[must_use]
    pub fn filler(&self) -> Filler {
        Filler(self.outside_of(&self.path()))
    }

    /// Makes empty files until so many inodes are left.
    ///
    /// # Panics
    /// When it cannot.
    pub fn leave_inodes(&self, inodes: u64) {
        let folder = self.outside_of(&self.path()).join("fillers");
        // Those of the last time first.
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).expect("an inode for the folder");
        let surplus = self.free().1.saturating_sub(inodes);
        for number in 0..surplus {
            drop(fs::File::create(folder.join(number.to_string())).expect("an inode is free"));
        }
    }

    /// Gives all back that was filled up.
    pub fn give_back(&self) {
        let folder = self.outside_of(&self.path());
        drop(fs::remove_file(folder.join("filler")));
        drop(fs::remove_dir_all(folder.join("fillers")));
    }
}

/// Somebody else who fills a disk up.
#[derive(Debug)]
pub struct Filler(PathBuf);

impl Filler {
    /// Fills it up until so many bytes are left for everybody but root; gives what is too much back.
    ///
    /// # Panics
    /// When it cannot.
    pub fn leave_bytes(&self, bytes: u64) {
        let path = self.0.join("filler");
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = openat(CWD, &path, flags, Mode::from_raw_mode(0o644)).expect("room for a name");
        let stat = statvfs(&self.0).expect("it is mounted");
        let mut surplus = (stat.f_bavail * stat.f_frsize).saturating_sub(bytes);
        // An ext4 needs a block or two to note which ones are taken.
        while surplus > 0 {
            match fallocate(&file, FallocateFlags::empty(), 0, surplus) {
                Ok(()) => return,
                Err(Errno::NOSPC) => surplus = surplus.saturating_sub(stat.f_frsize),
                Err(error) => panic!("cannot fill {}: {error}", path.display()),
            }
        }
    }
}

/// Returns what `unshare` needs so that somebody who is not root may mount.
#[must_use]
pub fn user_namespace() -> &'static [&'static str] {
    if geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] }
}
