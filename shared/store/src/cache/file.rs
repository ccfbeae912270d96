//! Files in the folder of a cache.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, open, openat},
    io::Errno,
};

/// Opens a regular file below `folder`, or says that it is not there.
///
/// `relative` has to be a checked NAR URL or a plain name. Every step is taken without following
/// symbolic links, so nothing in the folder can lead out of it.
pub(super) fn open_below(folder: &Path, relative: &str) -> io::Result<Option<File>> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut current = open(folder, directory, Mode::empty())?;
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        if matches!(segment, "" | "." | "..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "name leads out of the cache"));
        }
        // A FIFO would block the opening without NONBLOCK.
        let flags = if segments.peek().is_some() {
            directory
        } else {
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK
        };
        current = match openat(&current, segment, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    }
    if FileType::from_raw_mode(fstat(&current)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(Some(File::from(current)))
}

/// Reads at most one byte more than `limit`, so that the caller can see that there is more.
pub(super) fn read_capped(file: File, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes what was renamed into `folder` survive a power cut.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, flags, Mode::empty())?;
    Ok(rustix::fs::fsync(&folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_no_symlink_and_opens_no_fifo() {
        let temp = tempfile::tempdir().unwrap();
        let cache = temp.path().join("cache");
        std::fs::create_dir_all(cache.join("nar")).unwrap();
        std::fs::write(temp.path().join("secret"), "s").unwrap();
        std::fs::write(cache.join("nar/a"), "a").unwrap();
        std::os::unix::fs::symlink("../../secret", cache.join("nar/link")).unwrap();
        std::os::unix::fs::symlink("..", cache.join("up")).unwrap();
        let fifo = cache.join("nar/fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();

        let file = open_below(&cache, "nar/a").unwrap().unwrap();
        assert_eq!(read_capped(file, 9).unwrap(), b"a");
        assert!(open_below(&cache, "nar/missing").unwrap().is_none());
        assert!(open_below(&cache, "missing/a").unwrap().is_none());
        for name in ["nar/link", "up/secret", "nar/fifo", "nar", "../secret", "/etc/passwd"] {
            assert!(open_below(&cache, name).is_err(), "{name}");
        }
    }
}
