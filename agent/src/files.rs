//! Files that survive a power cut: whole and old, or whole and new, never between.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::crash;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub(crate) struct FileError {
    /// What was attempted.
    pub(crate) action: &'static str,
    /// On what.
    pub(crate) path: PathBuf,
    /// What failed.
    pub(crate) source: io::Error,
}

/// Makes a folder and those above it, for this user alone; on disk when it returns.
pub(crate) fn make_private_folder(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError { action: "make", path: path.to_owned(), source };
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    make_private_folder(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        // A file in a folder that a power cut takes away would go with it.
        Ok(()) | Err(_) => File::open(above).and_then(|above| above.sync_all()).map_err(failed),
    }
}

/// Replaces a file as a whole: a temporary file, fsync, rename, fsync of the folder.
///
/// When this returns, the new bytes survive a power cut; when it fails, the old ones are there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    swap(path, bytes, File::sync_all)?;
    sync_folder_of(path)
}

/// Replaces a file as [`replace`] does, for everybody to read.
pub(crate) fn replace_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let public = |file: &File| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()
    };
    swap(path, bytes, public)?;
    sync_folder_of(path)
}

/// Replaces a file that means nothing after a reboot as a whole; a power cut may take it.
pub(crate) fn replace_for_this_boot(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    swap(path, bytes, |_| Ok(()))
}

fn swap(
    path: &Path,
    bytes: &[u8],
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), FileError> {
    let folder = folder_of(path);
    make_private_folder(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        sync(&file)
    };
    crash::point("file.write");
    write().map_err(|source| failed("write", &temporary, source)).inspect_err(|_| {
        // A half-written file is of no use, and on a full disk its room is.
        drop(std::fs::remove_file(&temporary));
    })?;
    crash::point("file.written");
    std::fs::rename(&temporary, path).map_err(|source| failed("replace", path, source))?;
    crash::point("file.renamed");
    Ok(())
}

fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    let folder = folder_of(path);
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| failed("sync", folder, source))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError { action, path: path.to_owned(), source }
}

/// Waits for the lock at `path`, a file of this user alone; dropping it releases it, and so does
/// the end of the process, however it ends.
pub(crate) fn lock(path: &Path) -> Result<File, FileError> {
    let failed = |source| FileError { action: "lock", path: path.to_owned(), source };
    let file = lock_file(path)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Takes the lock at `path` as [`lock`] does, unless somebody has it.
pub(crate) fn try_lock(path: &Path) -> Result<Option<File>, FileError> {
    let file = lock_file(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => {
            Err(FileError { action: "lock", path: path.to_owned(), source: error.into() })
        }
    }
}

fn lock_file(path: &Path) -> Result<File, FileError> {
    let failed = |source| FileError { action: "lock", path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        make_private_folder(folder)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    // A file that was there before may have been made under any umask.
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(file)
}

/// Reads a file of at most `max` bytes, if it is there.
pub(crate) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError { action: "read", path: path.to_owned(), source };
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if length > max {
        return Err(failed(io::Error::other(format!("larger than {max} bytes"))));
    }
    std::fs::read(path).map(Some).map_err(failed)
}

/// Removes what writers left below `folder` that died before they could rename it.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(&path);
        } else if entry.file_name().to_str().and_then(writer).is_some_and(is_dead)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "a leftover stays");
        }
    }
}

/// Returns the process that [`replace`] names a temporary file by.
fn writer(file_name: &str) -> Option<Pid> {
    let (_, number) = file_name.strip_suffix(".tmp")?.rsplit_once('.')?;
    Pid::from_raw(number.parse().ok()?)
}

fn is_dead(process: Pid) -> bool {
    test_kill_process(process) == Err(Errno::SRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_public_others_may_read_and_the_rest_they_may_not() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        replace(&folder.path().join("private"), b"").unwrap();
        replace_public(&folder.path().join("public"), b"").unwrap();
        assert_eq!((mode("private"), mode("public")), (0o600, 0o644));
    }

    #[test]
    fn replaces_a_file_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/state.json");
        assert_eq!(read(&path, 10).unwrap(), None);
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(read(&path, 10).unwrap(), Some(b"new".to_vec()));
        let parent = path.parent().unwrap();
        assert_eq!(std::fs::read_dir(parent).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(read(&path, 2).is_err());
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let trust = folder.path().join("trust/main");
        make_private_folder(&trust).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (dead, own) = (child.id(), std::process::id());
        let kept = ["top.json".to_owned(), format!("top.json.{own}.tmp"), "a.b.tmp".to_owned()];
        for name in &kept {
            std::fs::write(trust.join(name), "").unwrap();
        }
        std::fs::write(trust.join(format!("top.json.{dead}.tmp")), "{").unwrap();
        std::fs::write(folder.path().join(format!("pins.json.{dead}.tmp")), "{").unwrap();
        sweep(folder.path());
        let names = |folder: &Path| {
            let entries = std::fs::read_dir(folder).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(folder.path()), ["trust"]);
        assert_eq!(names(&trust), [&kept[2], &kept[0], &kept[1]].map(String::as_str));
    }
}
