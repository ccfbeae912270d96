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
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, Stat, chmodat, openat, renameat,
        statat, unlinkat,
    },
    io::Errno,
    path::Arg as _,
};

/// Directories that are held open inside each other; what lies deeper is moved up first.
const MAX_OPEN: usize = 100;

/// The unit of `st_blocks`.
const BLOCK: u64 = 512;

/// What became of the bytes that a tree took up on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// They are free.
    pub freed: u64,
    /// One more name keeps them, maybe in `.links`, where it goes once it is the last.
    pub shared: u64,
}

/// Removes what is at `path`, if anything; follows no symlink.
///
/// # Errors
/// When the file system refuses.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    remove_and_count(path, &mut Freed::default())
}

/// Removes as [`remove_tree`], and adds to `freed` what that frees, also if it fails half-way.
///
/// # Errors
/// When the file system refuses.
pub fn remove_and_count(path: &Path, freed: &mut Freed) -> io::Result<()> {
    let name = path.into_c_str()?;
    let mut removal = Removal { moved: 0, freed };
    let status = match remove_node(CWD, &name, &mut removal) {
        Ok(Outcome::Gone) | Err(Errno::NOENT) => return Ok(()),
        Ok(Outcome::Directory(found)) => found,
        Err(error) => return Err(error.into()),
    };
    let top = open_directory(CWD, &name)?;
    // Moving up adds entries to the top, so it is emptied until nothing is left.
    while !empty(top.as_fd(), top.as_fd(), 0, &mut removal)? {}
    unlinkat(CWD, &*name, AtFlags::REMOVEDIR)?;
    add(&mut removal.freed.freed, &status);
    Ok(())
}

/// What has been done so far.
struct Removal<'a> {
    moved: u64,
    freed: &'a mut Freed,
}

enum Outcome {
    Gone,
    Directory(Stat),
}

/// Unlinks `name` if it is no directory, else makes it one that can be emptied.
fn remove_node(
    parent: BorrowedFd<'_>,
    name: &CStr,
    removal: &mut Removal<'_>,
) -> Result<Outcome, Errno> {
    let status = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        unlinkat(parent, name, AtFlags::empty())?;
        match status.st_nlink {
            0 | 1 => add(&mut removal.freed.freed, &status),
            2 => add(&mut removal.freed.shared, &status),
            // It lives on elsewhere in the store.
            _ => {}
        }
        return Ok(Outcome::Gone);
    }
    let mode = status.st_mode & RawMode::from(0o7777_u16);
    if mode & 0o700 != 0o700 {
        chmodat(parent, name, Mode::from_raw_mode(mode | 0o700), AtFlags::empty())?;
    }
    Ok(Outcome::Directory(status))
}

/// Adds what a file takes up on the disk.
fn add(sum: &mut u64, status: &Stat) {
    let size = u64::try_from(status.st_blocks).unwrap_or_default().saturating_mul(BLOCK);
    *sum = sum.saturating_add(size);
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
    removal: &mut Removal<'_>,
) -> Result<bool, Errno> {
    let names = entries(directory)?;
    for name in &names {
        let Outcome::Directory(status) = remove_node(directory, name, removal)? else { continue };
        if depth >= MAX_OPEN {
            move_up(directory, name, top, &mut removal.moved)?;
            continue;
        }
        let inner = open_directory(directory, name)?;
        empty(inner.as_fd(), top, depth + 1, removal)?;
        drop(inner);
        unlinkat(directory, &**name, AtFlags::REMOVEDIR)?;
        add(&mut removal.freed.freed, &status);
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
