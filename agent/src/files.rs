//! Files that survive a power cut: whole and old, or whole and new, never between.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

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
    let failed = |action, path: &Path, source| FileError { action, path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
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
        file.sync_all()
    };
    crash::point("file.write");
    write().map_err(|source| failed("write", &temporary, source)).inspect_err(|_| {
        // A half-written file is of no use, and on a full disk its room is.
        drop(std::fs::remove_file(&temporary));
    })?;
    crash::point("file.written");
    std::fs::rename(&temporary, path).map_err(|source| failed("replace", path, source))?;
    crash::point("file.renamed");
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| failed("sync", folder, source))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

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
}
