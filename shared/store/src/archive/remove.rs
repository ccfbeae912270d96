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

/// Removes what is at `path`, if anything; follows no symlink.
///
/// # Errors
/// When the file system refuses.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.into_c_str()?;
    match remove_node(CWD, &name) {
        Ok(Outcome::Gone) | Err(Errno::NOENT) => return Ok(()),
        Ok(Outcome::Directory) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open_directory(CWD, &name)?;
    let mut moved = 0;
    // Moving up adds entries to the top, so it is emptied until nothing is left.
    while !empty(top.as_fd(), top.as_fd(), 0, &mut moved)? {}
    Ok(unlinkat(CWD, &*name, AtFlags::REMOVEDIR)?)
}

enum Outcome {
    Gone,
    Directory,
}

/// Unlinks `name` if it is no directory.
fn remove_node(parent: BorrowedFd<'_>, name: &CStr) -> Result<Outcome, Errno> {
    let status = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        unlinkat(parent, name, AtFlags::empty())?;
        return Ok(Outcome::Gone);
    }
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
    moved: &mut u64,
) -> Result<bool, Errno> {
    let names = entries(directory)?;
    for name in &names {
        if matches!(remove_node(directory, name)?, Outcome::Gone) {
            continue;
        }
        if depth >= MAX_OPEN {
            move_up(directory, name, top, moved)?;
            continue;
        }
        let inner = open_directory(directory, name)?;
        empty(inner.as_fd(), top, depth + 1, moved)?;
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
