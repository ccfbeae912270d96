//! Writing files so that a crash leaves the old or the new, and never half.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone: mode 0600.
    Owner,
    /// Everyone, as far as the umask lets them: mode 0644.
    All,
}

/// What to do with a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Put the new one in its place.
    Replace,
    /// Fail with [`io::ErrorKind::AlreadyExists`].
    Keep,
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{path}`")]
pub(crate) struct WriteError {
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

/// Writes a file: temporary, fsync, rename or link, fsync of the folder.
///
/// # Errors
/// When the folder is missing, the disk is full, or the file is there and must be kept.
pub(crate) fn write(
    path: &Path,
    bytes: &[u8],
    readers: Readers,
    existing: Existing,
) -> Result<(), WriteError> {
    write_file(path, bytes, readers, existing)
        .map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Returns how many bytes whoever is not root may still write to the disk of a folder.
///
/// # Errors
/// When there is no such folder.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Makes a folder and what is missing above it; the folders made are the owner's alone.
///
/// # Errors
/// When one cannot be made.
pub(crate) fn private_folder(path: &Path) -> Result<(), WriteError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).map_err(|source| WriteError { path: path.to_owned(), source })
}

fn write_file(path: &Path, bytes: &[u8], readers: Readers, existing: Existing) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // The parent of a bare name is the empty path, which cannot be opened.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let temporary =
        folder.join(format!(".{}.{:016x}", name.to_string_lossy(), rand::random::<u64>()));
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| match existing {
            Existing::Replace => fs::rename(&temporary, path),
            // A hard link fails where a rename would silently replace.
            Existing::Keep => fs::hard_link(&temporary, path),
        });
    if existing == Existing::Keep || written.is_err() {
        let removed = fs::remove_file(&temporary);
        if let Err(error) = removed {
            tracing::debug!(path = %temporary.display(), %error, "a temporary file stays behind");
        }
    }
    written?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keeps_a_file_that_is_there_and_leaves_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write(&path, b"one", Readers::Owner, Existing::Keep).unwrap();
        let error = write(&path, b"two", Readers::Owner, Existing::Keep).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        write(&path, b"three", Readers::Owner, Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
