//! Folders of the state of stores and profiles.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

/// Makes a directory and its parents with mode 0755, whatever the process's mask says, and puts
/// those on disk that it makes: what is written into one must not vanish with it.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
            sync_parent(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Puts the directory entries beside `path` on disk.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
