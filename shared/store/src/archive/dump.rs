//! Reads a tree from the file system.

use std::{
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Read as _, Write},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat, statat},
    path::Arg as _,
};
use sha2::Digest as _;
use shared::nix::{
    Sha256,
    nar::{MAX_DEPTH, Node, Visit, WriteError, Writer},
};

/// Bytes that are read from a file at once.
const PIECE_LEN: usize = 64 * 1024;

/// Why a tree could not be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError<E> {
    /// The file system failed.
    #[error("cannot read `{}`", .path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// An archive cannot hold this.
    #[error("`{}` {what}", .path.display())]
    Unsupported {
        /// The offending file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        what: &'static str,
    },
    /// The visitor could not go on.
    #[error(transparent)]
    Visit(E),
}

/// Tells `visitor` what is at `path`, in the order of an archive; follows no symlink.
///
/// # Errors
/// When something cannot be read or held by an archive, or the visitor cannot go on.
pub fn dump<V: Visit>(path: &Path, visitor: &mut V) -> Result<(), DumpError<V::Error>> {
    let name = path
        .into_c_str()
        .map_err(|errno| DumpError::Io { path: path.to_owned(), source: errno.into() })?;
    let mut walk = Walk { visitor, path: path.to_owned(), piece: vec![0; PIECE_LEN] };
    walk.node(CWD, &name, b"", 0)
}

/// Returns hash and size of the archive of what is at `path`.
///
/// # Errors
/// When something cannot be read or held by an archive.
pub fn nar_digest(path: &Path) -> Result<(Sha256, u64), DumpError<WriteError>> {
    let mut writer = Writer::new(HashSink(sha2::Sha256::new()));
    dump(path, &mut writer)?;
    let size = writer.position();
    let HashSink(hasher) = writer.finish().map_err(DumpError::Visit)?;
    Ok((Sha256(hasher.finalize().into()), size))
}

/// Hashes what is written to it.
pub(crate) struct HashSink(pub(crate) sha2::Sha256);

impl Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Walk<'a, V> {
    visitor: &'a mut V,
    path: PathBuf,
    piece: Vec<u8>,
}

impl<V: Visit> Walk<'_, V> {
    fn io(&self, source: impl Into<io::Error>) -> DumpError<V::Error> {
        DumpError::Io { path: self.path.clone(), source: source.into() }
    }

    fn unsupported(&self, what: &'static str) -> DumpError<V::Error> {
        DumpError::Unsupported { path: self.path.clone(), what }
    }

    /// Tells of the node `name` in `parent`, which the archive calls `entry`.
    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        entry: &[u8],
        depth: usize,
    ) -> Result<(), DumpError<V::Error>> {
        if depth > MAX_DEPTH {
            return Err(self.unsupported("lies below more than 63 directories"));
        }
        let status =
            statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| self.io(errno))?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => self.directory(parent, name, entry, depth)?,
            FileType::RegularFile => self.file(parent, name, entry)?,
            FileType::Symlink => {
                let target =
                    readlinkat(parent, name, Vec::new()).map_err(|errno| self.io(errno))?;
                let node = Node::Symlink { target: target.into_bytes() };
                self.visitor.enter(entry, &node).map_err(DumpError::Visit)?;
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {
                return Err(self.unsupported("is neither a file nor a directory nor a symlink"));
            }
        }
        self.visitor.leave().map_err(DumpError::Visit)
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        entry: &[u8],
        depth: usize,
    ) -> Result<(), DumpError<V::Error>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            openat(parent, name, flags, Mode::empty()).map_err(|errno| self.io(errno))?;
        let mut names: Vec<CString> = Vec::new();
        for found in Dir::read_from(&directory).map_err(|errno| self.io(errno))? {
            let found = found.map_err(|errno| self.io(errno))?;
            if found.file_name() != c"." && found.file_name() != c".." {
                names.push(found.file_name().to_owned());
            }
        }
        names.sort_unstable();
        self.visitor.enter(entry, &Node::Directory).map_err(DumpError::Visit)?;
        for name in &names {
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            self.node(directory.as_fd(), name, name.to_bytes(), depth + 1)?;
            self.path.pop();
        }
        Ok(())
    }

    fn file(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        entry: &[u8],
    ) -> Result<(), DumpError<V::Error>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::empty()).map_err(|errno| self.io(errno))?;
        let status = fstat(&file).map_err(|errno| self.io(errno))?;
        let executable = status.st_mode & 0o100 != 0;
        let size = u64::try_from(status.st_size).unwrap_or_default();
        let node = Node::Regular { executable, size };
        self.visitor.enter(entry, &node).map_err(DumpError::Visit)?;
        let mut file = File::from(file);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.piece.len());
            let piece = self.piece.split_at_mut(wanted).0;
            let length = match file.read(piece) {
                Ok(0) => return Err(self.unsupported("shrank while it was read")),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.io(error)),
            };
            let piece = self.piece.split_at(length).0;
            self.visitor.contents(piece).map_err(DumpError::Visit)?;
            left -= length as u64;
        }
        Ok(())
    }
}
