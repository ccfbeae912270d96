//! Removes trees, whatever their modes and depth.
//!
//! Nothing is trusted about a leftover: it may be read-only, deeper than the limit of open files,
//! or hold symlinks that point anywhere. Every step is relative to a descriptor and follows no
//! symlink.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, chmodat, openat, renameat, statat,
        unlinkat,
    },
    io::Errno,
    path::Arg as _,
};

/// Directories that are held open inside each other; what lies deeper is moved up first.
const MAX_OPEN: usize = 100;

/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// A file with one link more may have it in `.links` alone, which is swept with it. One with many
/// links lives on elsewhere in the store.
const MAX_OWN_LINKS: u64 = 2;

/// Removes what is at `path`, if anything; follows no symlink. Returns how many bytes of the disk
/// it took up.
///
/// # Errors
/// When the file system refuses.
pub fn remove_tree(path: &Path) -> io::Result<u64> {
    let name = path.into_c_str()?;
    let mut removal = Removal::default();
    match remove_node(CWD, &name, &mut removal) {
        Ok(Outcome::Gone) | Err(Errno::NOENT) => return Ok(removal.freed),
        Ok(Outcome::Directory) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open_directory(CWD, &name)?;
    // Moving up adds entries to the top, so it is emptied until nothing is left.
    while !empty(top.as_fd(), top.as_fd(), 0, &mut removal)? {}
    unlinkat(CWD, &*name, AtFlags::REMOVEDIR)?;
    Ok(removal.freed)
}

/// What has been done so far.
#[derive(Default)]
struct Removal {
    moved: u64,
    freed: u64,
}

enum Outcome {
    Gone,
    Directory,
}

/// Unlinks `name` if it is no directory.
fn remove_node(
    parent: BorrowedFd<'_>,
    name: &CStr,
    removal: &mut Removal,
) -> Result<Outcome, Errno> {
    let status = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let size = u64::try_from(status.st_blocks).unwrap_or_default().saturating_mul(BLOCK);
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        unlinkat(parent, name, AtFlags::empty())?;
        if status.st_nlink <= MAX_OWN_LINKS {
            removal.freed = removal.freed.saturating_add(size);
        }
        return Ok(Outcome::Gone);
    }
    removal.freed = removal.freed.saturating_add(size);
    let mode = status.st_mode & RawMode::from(0o7777_u16);
    if mode & 0o700 != 0o700 {
        chmodat(parent, name, Mode::from_raw_mode(mode | 0o700), AtFlags::empty())?;
    }
    Ok(Outcome::Directory)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Empties `directory`; returns whether it was found empty from the start.
fn empty(
    directory: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    depth: usize,
    removal: &mut Removal,
) -> Result<bool, Errno> {
    let names = entries(directory)?;
    for name in &names {
        if matches!(remove_node(directory, name, removal)?, Outcome::Gone) {
            continue;
        }
        if depth >= MAX_OPEN {
            move_up(directory, name, top, &mut removal.moved)?;
            continue;
        }
        let inner = open_directory(directory, name)?;
        empty(inner.as_fd(), top, depth + 1, removal)?;
        drop(inner);
        unlinkat(directory, &**name, AtFlags::REMOVEDIR)?;
    }
    Ok(names.is_empty())
}

fn move_up(
    directory: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let free = CString::new(format!("moved-up-{moved}")).map_err(|_| Errno::INVAL)?;
        match statat(top, &*free, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {}
            Err(Errno::NOENT) => return renameat(directory, name, top, &*free),
            Err(error) => return Err(error),
        }
    }
}

fn entries(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
