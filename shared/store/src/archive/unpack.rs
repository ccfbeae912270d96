//! Writes a tree to the file system, in Nix's canonical form.
//!
//! Every node is made relative to the descriptor of its directory, must not exist, and gets its
//! final mode and time when it is complete; there is no second pass, and no name is ever looked up
//! through something that the archive made.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::LazyLock,
};

use rustix::{
    fs::{
        AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, flistxattr,
        fremovexattr, futimens, mkdirat, openat, symlinkat, utimensat,
    },
    io::Errno,
};
use shared::nix::nar::{Node, Visit};

/// Attributes that Nix leaves alone.
const IGNORED_ATTRIBUTES: [&[u8]; 3] = [b"security.selinux", b"system.nfs4_acl", b"security.csm"];

/// Why a tree could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`", .path.display())]
pub struct UnpackError {
    /// What could not be written.
    pub path: PathBuf,
    /// What failed.
    pub source: io::Error,
}

/// Writes the tree that it is told, with canonical modes and times, never outside its target.
#[derive(Debug)]
pub struct Unpacker {
    /// The directory that holds the target.
    parent: OwnedFd,
    target: PathBuf,
    /// Where the writer is, for messages.
    path: PathBuf,
    open: Vec<Open>,
}

/// A node that was entered and not left.
#[derive(Debug)]
enum Open {
    Directory(OwnedFd),
    /// A file, with the mode that it lacks if it could not be made with it.
    File {
        file: File,
        mode: Option<Mode>,
    },
    Symlink,
}

impl Unpacker {
    /// Prepares to write a tree at `target`, which must not exist, in a directory that does.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn new(target: &Path) -> Result<Self, UnpackError> {
        let error = |source| UnpackError { path: target.to_owned(), source };
        if target.file_name().is_none() {
            return Err(error(io::ErrorKind::InvalidInput.into()));
        }
        let parent = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        let parent =
            openat(CWD, parent, DIRECTORY_FLAGS.difference(OFlags::NOFOLLOW), Mode::empty())
                .map_err(|errno| error(errno.into()))?;
        Ok(Self { parent, target: target.to_owned(), path: target.to_owned(), open: Vec::new() })
    }

    /// Returns the error of whoever did not let it go on where it is.
    pub(crate) fn refused(&self, source: io::Error) -> UnpackError {
        self.error(source)
    }

    fn error(&self, source: impl Into<io::Error>) -> UnpackError {
        UnpackError { path: self.path.clone(), source: source.into() }
    }

    fn make(&self, name: &OsStr, node: &Node) -> io::Result<Open> {
        let directory = match self.open.last() {
            None => self.parent.as_fd(),
            Some(Open::Directory(directory)) => directory.as_fd(),
            Some(Open::File { .. } | Open::Symlink) => return Err(Errno::NOTDIR.into()),
        };
        // Below the root nothing but the umask can take bits off a mode.
        let masked = self.open.is_empty() || !umask_is_open();
        let made = make_node(directory, name, node, masked)?;
        if self.open.is_empty() {
            // A default ACL comes from the store directory; what is in the tree gets it from here.
            match &made {
                Open::Directory(fd) => remove_attributes(fd.as_fd())?,
                Open::File { file, .. } => remove_attributes(file.as_fd())?,
                Open::Symlink => {}
            }
        }
        Ok(made)
    }
}

impl Visit for Unpacker {
    type Error = UnpackError;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), UnpackError> {
        let node = if self.open.is_empty() {
            let name = self.target.file_name().unwrap_or_default();
            self.make(name, node)
        } else {
            self.path.push(OsStr::from_bytes(name));
            // The reader has checked the name; here it must hold even for another caller.
            if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
                return Err(self.error(Errno::INVAL));
            }
            self.make(OsStr::from_bytes(name), node)
        };
        self.open.push(node.map_err(|source| self.error(source))?);
        Ok(())
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), UnpackError> {
        let written = match self.open.last_mut() {
            Some(Open::File { file, .. }) => file.write_all(piece),
            Some(Open::Directory(_) | Open::Symlink) | None => Err(Errno::INVAL.into()),
        };
        written.map_err(|source| self.error(source))
    }

    fn leave(&mut self) -> Result<(), UnpackError> {
        let sealed = match self.open.pop() {
            Some(Open::Directory(fd)) => seal(fd.as_fd(), Some(Mode::from_raw_mode(0o555))),
            Some(Open::File { file, mode }) => seal(file.as_fd(), mode),
            Some(Open::Symlink) => Ok(()),
            None => Err(Errno::INVAL),
        };
        sealed.map_err(|errno| self.error(errno))?;
        if !self.open.is_empty() {
            self.path.pop();
        }
        Ok(())
    }
}

const DIRECTORY_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Makes a node; `masked` says that the system may take bits off the mode that it asks for.
fn make_node(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    node: &Node,
    masked: bool,
) -> io::Result<Open> {
    match node {
        Node::Directory => {
            mkdirat(directory, name, Mode::RWXU)?;
            Ok(Open::Directory(openat(directory, name, DIRECTORY_FLAGS, Mode::empty())?))
        }
        Node::Regular { executable, .. } => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(if *executable { 0o555 } else { 0o444 });
            let file = openat(directory, name, flags, mode)?.into();
            Ok(Open::File { file, mode: masked.then_some(mode) })
        }
        Node::Symlink { target } => {
            symlinkat(OsStr::from_bytes(target), directory, name)?;
            utimensat(directory, name, &canonical_times(), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Open::Symlink)
        }
    }
}

/// Returns whether the umask leaves canonical modes alone; nothing here ever changes it.
fn umask_is_open() -> bool {
    static OPEN: LazyLock<bool> = LazyLock::new(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let umask = umask.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok());
        umask.is_some_and(|umask| umask & 0o555 == 0)
    });
    *OPEN
}

/// Gives a complete node its time, and the mode that it lacks.
fn seal(node: BorrowedFd<'_>, mode: Option<Mode>) -> Result<(), Errno> {
    if let Some(mode) = mode {
        fchmod(node, mode)?;
    }
    futimens(node, &canonical_times())
}

/// One second after the epoch, as on every path that Nix writes.
const fn canonical_times() -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 1, tv_nsec: 0 },
    }
}

/// Removes extended attributes and ACLs, which Nix does not allow in its store.
fn remove_attributes(node: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match flistxattr(node, &mut *names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names.split_at(length).0.split(|byte| *byte == 0) {
        if !name.is_empty() && !IGNORED_ATTRIBUTES.contains(&name) {
            fremovexattr(node, OsStr::from_bytes(name))?;
        }
    }
    Ok(())
}
