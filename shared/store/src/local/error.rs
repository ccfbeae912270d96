//! What can go wrong in a local store.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;
use shared::nix::{Sha256, StorePath, content_address::ContentAddressError};

use crate::{disk, lock::LockError};

/// Why the local store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// The file system failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// The database failed.
    #[error("cannot {action} in Nix's database")]
    Database {
        /// What was attempted.
        action: &'static str,
        /// What failed.
        source: rusqlite::Error,
    },
    /// The database holds something that Nix would not write.
    #[error("Nix's database holds `{value}` as {what} of `{path}`")]
    Corrupt {
        /// The path of the row.
        path: String,
        /// The column.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// A schema that is not known.
    #[error("`{}` holds schema `{found}`; only 10 is known", .path.display())]
    Schema {
        /// The schema file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The store directory is reached through a symlink, which Nix refuses.
    #[error("`{}` is a symlink; a store directory must not be reached through one", .0.display())]
    Symlink(PathBuf),
    /// The store was opened for reading.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// The path is valid with another hash; nothing was changed.
    #[error("`{path}` is valid with hash `{present}`, not `{wanted}`")]
    Conflict {
        /// The path.
        path: StorePath,
        /// The hash in the database.
        present: Sha256,
        /// The hash that was to be registered.
        wanted: Sha256,
    },
    /// A reference would be missing.
    #[error("`{path}` refers to `{reference}`, which is not valid")]
    MissingReference {
        /// The path that refers.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// References go round in a circle.
    #[error("`{0}` refers to itself through other paths")]
    Cycle(StorePath),
    /// A derivation that cannot be read.
    #[error("`{0}` is no derivation that Nix would write")]
    Derivation(StorePath),
    /// A path that was asked for is not valid.
    #[error("`{0}` is not valid")]
    NotValid(StorePath),
    /// The caller does not hold the lock of the path; nothing was touched.
    #[error("`{0}` is not locked")]
    NotLocked(StorePath),
    /// The caller stopped it.
    #[error("stopped before it was there")]
    Stopped,
    /// What was to be added changed meanwhile.
    #[error("`{}` changed while it was copied", .0.display())]
    Changed(PathBuf),
    /// What was to be added cannot be in a store.
    #[error("`{}` {what}", .path.display())]
    Unsupported {
        /// The offending file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        what: &'static str,
    },
    /// No store path can have this name and these references.
    #[error(transparent)]
    Address(#[from] ContentAddressError),
    /// A lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl LocalStoreError {
    /// Returns whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        disk::is_full(self)
    }

    /// Returns whether the database may answer when it is asked again; Nix asks again then, too.
    pub(super) fn is_busy(&self) -> bool {
        let Self::Database { source, .. } = self else { return false };
        matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
        )
    }
}
