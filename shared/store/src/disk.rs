//! Asks a file system for its room, and sees to it that nobody writes it too full.

use std::{
    error::Error,
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rusqlite::{ErrorCode, ffi};
use rustix::io::Errno;

use crate::space::{Floor, Lack, Space, Statvfs};

/// What mends it when there are too few file descriptors.
pub const MORE_FILES: &str = "allow this process more open files: `LimitNOFILE=` of its \
    unit, or `ulimit -n`";

/// Returns whether a disk, or the part of it that we may use, is full: looks at all causes.
#[must_use]
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    any_cause(error, |error| matches!(error.kind(), StorageFull | QuotaExceeded))
        || any_database_error(error, |error| {
            error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_SHMSIZE
        })
}

/// Says of a full disk how much is left of what: without inodes, the kernel speaks of space, too.
pub(crate) fn with_what_is_left(error: io::Error, folder: &Path) -> io::Error {
    let lacks_room = is_full(&error) && error.raw_os_error().is_some();
    match Disk::of(folder).and_then(|disk| disk.free()) {
        Ok(free) if lacks_room => io::Error::new(error.kind(), format!("{error}; {free} are left")),
        Ok(_) | Err(_) => error,
    }
}

/// Returns whether there are too few file descriptors, here or on the whole machine.
#[must_use]
pub fn lacks_files(error: &(dyn Error + 'static)) -> bool {
    let errnos = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    any_cause(error, |error| errnos.contains(&error.raw_os_error()))
}

fn any_cause(error: &(dyn Error + 'static), is: impl Fn(&io::Error) -> bool) -> bool {
    causes(error).any(|error| error.downcast_ref().is_some_and(&is))
}

fn any_database_error(error: &(dyn Error + 'static), is: impl Fn(&ffi::Error) -> bool) -> bool {
    causes(error).any(|error| match error.downcast_ref() {
        Some(rusqlite::Error::SqliteFailure(error, _)) => is(error),
        Some(_) | None => false,
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The file system that holds a folder.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: File,
    path: PathBuf,
}

impl Disk {
    /// Takes the file system of a folder that exists.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { folder: File::open(path)?, path: path.to_owned() })
    }

    /// Returns what is free on it.
    pub(crate) fn free(&self) -> io::Result<Space> {
        Ok(Space::of_statvfs(&self.statvfs()?))
    }

    /// Returns the size of its blocks.
    pub(crate) fn block_size(&self) -> io::Result<u64> {
        Ok(self.statvfs()?.block_size)
    }

    /// Returns the floor that leaves `min_free` bytes of it.
    pub(crate) fn floor(&self, min_free: u64) -> io::Result<Floor> {
        Ok(Floor::new(min_free, self.statvfs()?.inodes))
    }

    /// Returns whether both are the same file system.
    pub(crate) fn is(&self, other: &Self) -> io::Result<bool> {
        Ok(self.folder.metadata()?.dev() == other.folder.metadata()?.dev())
    }

    /// Returns the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn statvfs(&self) -> io::Result<Statvfs> {
        let stat = rustix::fs::fstatvfs(&self.folder)?;
        Ok(Statvfs {
            block_size: stat.f_frsize,
            blocks: stat.f_blocks,
            available_blocks: stat.f_bavail,
            inodes: stat.f_files,
            available_inodes: stat.f_favail,
        })
    }
}

/// Lets writers write until the floor of a file system is near, whoever fills it.
///
/// All writers of a run share one. It asks the file system once for several MiB, more often near
/// the floor, and not at all where there is no floor.
#[derive(Debug)]
pub struct Guard {
    disk: Option<Disk>,
    floor: Floor,
    block_size: u64,
    granted: Mutex<Space>,
}

impl Guard {
    /// Returns one that lets everything through.
    #[must_use]
    pub fn none() -> Self {
        Self {
            disk: None,
            floor: Floor::default(),
            block_size: 0,
            granted: Mutex::new(Space::UNLIMITED),
        }
    }

    /// Guards the floor of a file system.
    pub(crate) fn new(disk: Disk, floor: Floor) -> io::Result<Self> {
        if !floor.exists() {
            return Ok(Self::none());
        }
        let block_size = disk.block_size()?;
        Ok(Self { disk: Some(disk), floor, block_size, granted: Mutex::default() })
    }

    /// To be asked before a file, directory or symlink is made.
    ///
    /// # Errors
    /// As [`Guard::bytes`].
    pub fn node(&self) -> io::Result<()> {
        // At most its last block, and what it takes in its directory.
        self.take(Space { bytes: self.block_size, inodes: 1 })
    }

    /// To be asked before so many bytes are written.
    ///
    /// # Errors
    /// When the floor would be crossed: [`io::ErrorKind::StorageFull`], which holds a [`Lack`]; or
    /// when the file system cannot be asked.
    pub fn bytes(&self, bytes: usize) -> io::Result<()> {
        self.take(Space { bytes: bytes as u64, inodes: 0 })
    }

    fn take(&self, wanted: Space) -> io::Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        if !granted.covers(wanted) {
            let free = disk.free()?;
            *granted = self.floor.grant(free, wanted).map_err(full)?;
        }
        *granted = granted.minus(wanted);
        Ok(())
    }
}

fn full(lack: Lack) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, lack)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::LocalStoreError;

    #[test]
    fn a_full_disk_is_told_from_other_failures_through_all_wrappings() {
        let io = |errno: Errno| LocalStoreError::Io {
            action: "write",
            path: "/x".into(),
            source: errno.into(),
        };
        let sqlite = |code| LocalStoreError::Database {
            action: "write",
            source: rusqlite::Error::SqliteFailure(ffi::Error::new(code), None),
        };
        for (error, full, files) in [
            (io(Errno::NOSPC), true, false),
            (io(Errno::DQUOT), true, false),
            (io(Errno::IO), false, false),
            (io(Errno::MFILE), false, true),
            (io(Errno::NFILE), false, true),
            (io(Errno::ROFS), false, false),
            (sqlite(ffi::SQLITE_FULL), true, false),
            (sqlite(ffi::SQLITE_IOERR_SHMSIZE), true, false),
            (sqlite(ffi::SQLITE_IOERR_WRITE), false, false),
        ] {
            let wrapped = crate::substitute::SubstituteError::Store(error);
            assert_eq!((is_full(&wrapped), lacks_files(&wrapped)), (full, files), "{wrapped:?}");
        }
    }

    #[test]
    fn a_full_disk_says_what_is_left_and_other_failures_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let full = with_what_is_left(Errno::NOSPC.into(), folder.path());
        assert!(full.to_string().ends_with(" are left") && is_full(&full), "{full}");
        let other = with_what_is_left(Errno::IO.into(), folder.path());
        assert_eq!(other.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn a_guard_without_a_floor_lets_everything_through() {
        let folder = tempfile::tempdir().unwrap();
        let guard = Guard::new(Disk::of(folder.path()).unwrap(), Floor::default()).unwrap();
        for guard in [guard, Guard::none()] {
            guard.bytes(usize::MAX).unwrap();
            guard.node().unwrap();
        }
    }

    #[test]
    fn a_guard_stops_at_its_floor_and_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::of(folder.path()).unwrap();
        let free = disk.free().unwrap();
        let low = Guard::new(Disk::of(folder.path()).unwrap(), Floor::new(1, 0)).unwrap();
        low.bytes(1).unwrap();
        low.node().unwrap();
        let high = Guard::new(disk, Floor::new(free.bytes.saturating_mul(2), 0)).unwrap();
        for error in [high.bytes(1).unwrap_err(), high.node().unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            let lack = error.get_ref().and_then(|inner| inner.downcast_ref::<Lack>()).unwrap();
            assert!(lack.missing().bytes >= free.bytes / 2, "{lack}");
        }
    }

    #[test]
    fn a_folder_is_on_the_file_system_of_its_neighbour() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let disk = Disk::of(folder.path()).unwrap();
        assert!(disk.is(&Disk::of(&other).unwrap()).unwrap());
        assert!(!disk.is(&Disk::of(Path::new("/proc")).unwrap()).unwrap());
    }
}
