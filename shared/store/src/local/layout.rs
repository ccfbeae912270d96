//! Where everything of a store lies, and how it is made when it is not there.

use std::{
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::FallocateFlags;
use shared::nix::{STORE_DIR, StorePath};

use super::LocalStoreError;
use crate::{
    folder::{create_dir, sync_parent},
    lock::open_lock_file,
};

/// Size of `db/reserved`, which Nix gives up when a full disk keeps it from collecting garbage.
const RESERVED_LEN: u64 = 8 * 1024 * 1024;

/// The paths of a store below one root.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) store_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) db_dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Result<Self, LocalStoreError> {
        let root = std::path::absolute(root).map_err(io_error("resolve", root))?;
        let store_dir = root.join(STORE_DIR.trim_start_matches('/'));
        let state_dir = root.join("nix/var/nix");
        let db_dir = state_dir.join("db");
        Ok(Self { root, store_dir, state_dir, db_dir })
    }

    pub(crate) fn real_path(&self, path: &StorePath) -> PathBuf {
        self.store_dir.join(path.base_name())
    }

    pub(crate) fn lock_file(&self, path: &StorePath) -> PathBuf {
        self.store_dir.join(format!("{}.lock", path.base_name()))
    }

    /// Space that a collector gives up before it starts, since it writes before it frees.
    pub(crate) fn reserved(&self) -> PathBuf {
        self.db_dir.join("reserved")
    }

    /// Held exclusively by a collector for its whole run.
    pub(crate) fn gc_lock(&self) -> PathBuf {
        self.state_dir.join("gc.lock")
    }

    /// Where a running collector listens.
    pub(crate) fn gc_socket_dir(&self) -> PathBuf {
        self.state_dir.join("gc-socket")
    }

    pub(crate) fn links_dir(&self) -> PathBuf {
        self.store_dir.join(".links")
    }

    pub(crate) fn roots_dir(&self) -> PathBuf {
        self.state_dir.join("gcroots")
    }

    pub(crate) fn temp_roots_dir(&self) -> PathBuf {
        self.state_dir.join("temproots")
    }

    /// Refuses symlinks on the way to the store directory, as Nix does.
    pub(crate) fn check(&self) -> Result<(), LocalStoreError> {
        for path in self.store_dir.ancestors() {
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_symlink() => {
                    return Err(LocalStoreError::Symlink(path.to_owned()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("look at", path)(error)),
            }
        }
        Ok(())
    }

    /// Makes the directories that are missing.
    pub(crate) fn create(&self) -> Result<(), LocalStoreError> {
        let state = &self.state_dir;
        for path in [
            self.store_dir.clone(),
            self.links_dir(),
            self.db_dir.clone(),
            self.temp_roots_dir(),
            state.join("profiles/per-user"),
            state.join("gcroots/per-user"),
        ] {
            create_dir(&path).map_err(io_error("make", &path))?;
        }
        self.reserve_space();
        Ok(())
    }

    /// Sets space aside for a collector on a full disk.
    pub(crate) fn reserve_space(&self) {
        let path = self.reserved();
        if path.metadata().is_ok_and(|metadata| metadata.len() == RESERVED_LEN) {
            return;
        }
        // The reserve is a courtesy to the collector; Nix too goes on without it.
        let made = open_lock_file(&path).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVED_LEN)?;
            file.set_len(RESERVED_LEN)
        });
        if let Err(error) = made {
            tracing::debug!(path = %path.display(), %error, "no space is reserved for the collector");
            drop(fs::remove_file(&path));
        }
    }
}

/// Writes a small file so that it is there whole or not at all, also after a power cut.
///
/// The caller keeps all others from doing the same. So the temporary file can have one name, and
/// what a dead process left of it is written over.
pub(crate) fn write_whole(path: &Path, contents: &[u8]) -> Result<(), LocalStoreError> {
    let temporary = path.with_extension("tmp");
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(io_error("write", path))?;
    sync_parent(path).map_err(io_error("sync the folder of", path))
}

/// Returns what makes an error of a failed `action` on `path`.
pub(crate) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> LocalStoreError + 'a {
    move |source| LocalStoreError::Io { action, path: path.to_owned(), source }
}
