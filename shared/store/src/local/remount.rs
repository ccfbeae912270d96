//! A store directory on a read-only mount, as NixOS has it.
//!
//! The store is mounted read-only for everyone, and each Nix process mounts it writable for itself
//! alone, in a mount namespace of its own. A namespace is entered by one thread, so this has to
//! happen before any other thread starts.

use std::path::Path;

use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    mount::{MountFlags, mount_remount},
    process::geteuid,
    thread::UnshareFlags,
};

use super::{
    LocalStoreError,
    layout::{Layout, io_error},
};

/// Whether the store was remounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remount {
    /// It was read-only, and is writable now for this process and its children.
    Done,
    /// It is writable for all, does not exist, or we are not root and cannot change it.
    NotNeeded,
}

/// Makes the store below `root` writable for this process alone, if it is on a read-only mount.
///
/// Call it at the start of `main`, before any thread starts.
///
/// # Errors
/// When the mount cannot be looked at or changed.
pub fn make_writable(root: &Path) -> Result<Remount, LocalStoreError> {
    let layout = Layout::new(root)?;
    let store = &layout.store_dir;
    if !geteuid().is_root() || !store.is_dir() {
        return Ok(Remount::NotNeeded);
    }
    let mount = statvfs(store).map_err(|errno| io_error("look at", store)(errno.into()))?.f_flag;
    if !mount.contains(StatVfsMountFlags::RDONLY) {
        return Ok(Remount::NotNeeded);
    }
    let mut flags = MountFlags::BIND;
    for (present, kept) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if mount.contains(present) {
            flags |= kept;
        }
    }
    // Mounts still propagate both ways; flags of a mount never do, so only this process sees them.
    enter_namespace()
        .map_err(|errno| io_error("enter a mount namespace for", store)(errno.into()))?;
    mount_remount(store, flags, c"").map_err(|errno| io_error("remount", store)(errno.into()))?;
    Ok(Remount::Done)
}

#[expect(
    deprecated,
    reason = "unsafe for flags that split file descriptors only, and this one does not"
)]
fn enter_namespace() -> rustix::io::Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWNS)
}
