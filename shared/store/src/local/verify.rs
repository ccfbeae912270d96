//! Compares the database with the disk, as `nix-store --verify` does, but changes nothing.

use std::path::PathBuf;

use shared::nix::{Sha256, StorePath, nar::WriteError};

use super::{LocalStore, LocalStoreError, ValidPath};
use crate::archive::{DumpError, nar_digest};

/// Whether contents are read and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckContents {
    /// Every path is hashed.
    Yes,
    /// Only that it exists is checked.
    No,
}

/// What is wrong with a valid path.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Nothing is there.
    #[error("`{0}` is valid, but not on disk")]
    Missing(StorePath),
    /// It is not what it was.
    #[error("`{path}` was modified: it has hash `{found}`, not `{wanted}`")]
    Modified {
        /// The path.
        path: StorePath,
        /// The hash in the database.
        wanted: Sha256,
        /// The hash that it has.
        found: Sha256,
    },
    /// The database has a wrong size for it.
    #[error("`{path}` has {found} bytes, not {wanted}")]
    Size {
        /// The path.
        path: StorePath,
        /// The size in the database.
        wanted: u64,
        /// The size that it has.
        found: u64,
    },
    /// It cannot be read as an archive.
    #[error("`{path}` cannot be read")]
    Unreadable {
        /// The path.
        path: StorePath,
        /// What failed.
        source: DumpError<WriteError>,
    },
    /// The database breaks its own rules: it was written without them.
    #[error("{rows} rows of `{}` refer to paths that are not valid", .database.display())]
    References {
        /// The database.
        database: PathBuf,
        /// How many.
        rows: usize,
    },
}

impl Damage {
    /// Returns the path that is damaged, if it is one path.
    #[must_use]
    pub const fn path(&self) -> Option<&StorePath> {
        match self {
            Self::Missing(path)
            | Self::Modified { path, .. }
            | Self::Size { path, .. }
            | Self::Unreadable { path, .. } => Some(path),
            Self::References { .. } => None,
        }
    }
}

/// How far a check is: paths, and bytes of their archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Paths that were checked.
    pub paths: usize,
    /// Paths that there are.
    pub all_paths: usize,
    /// Bytes of the former.
    pub bytes: u64,
    /// Bytes of the latter.
    pub all_bytes: u64,
}

impl LocalStore {
    /// Checks every valid path and tells `report` what is wrong; returns how many were checked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn verify(
        &self,
        check: CheckContents,
        report: &mut dyn FnMut(Damage),
    ) -> Result<usize, LocalStoreError> {
        self.verify_heard(check, report, &mut |_| ())
    }

    /// Does what [`verify`](Self::verify) does, and says behind each path how far it is.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_heard(
        &self,
        check: CheckContents,
        report: &mut dyn FnMut(Damage),
        hear: &mut dyn FnMut(Checked),
    ) -> Result<usize, LocalStoreError> {
        let (valid, broken) =
            self.ask(|database| Ok((database.all()?, database.broken_references()?)))?;
        if broken > 0 {
            let database = self.layout.db_dir.join("db.sqlite");
            report(Damage::References { database, rows: broken });
        }
        let all_bytes = valid.iter().fold(0, |sum: u64, (_, it)| sum.saturating_add(it.nar_size));
        let mut checked = Checked { paths: 0, all_paths: valid.len(), bytes: 0, all_bytes };
        for (path, known) in &valid {
            if let Err(damage) = self.verify_path(path, known, check) {
                report(damage);
            }
            checked.paths += 1;
            checked.bytes = checked.bytes.saturating_add(known.nar_size);
            hear(checked);
        }
        Ok(valid.len())
    }

    fn verify_path(
        &self,
        path: &StorePath,
        known: &ValidPath,
        check: CheckContents,
    ) -> Result<(), Damage> {
        let real = self.real_path(path);
        if real.symlink_metadata().is_err() {
            return Err(Damage::Missing(path.clone()));
        }
        if check == CheckContents::No {
            return Ok(());
        }
        let (found, size) = nar_digest(&real)
            .map_err(|source| Damage::Unreadable { path: path.clone(), source })?;
        let path = || path.clone();
        if found != known.nar_hash {
            return Err(Damage::Modified { path: path(), wanted: known.nar_hash, found });
        }
        // Ancient versions of Nix did not store the size.
        if known.nar_size != 0 && size != known.nar_size {
            return Err(Damage::Size { path: path(), wanted: known.nar_size, found: size });
        }
        Ok(())
    }
}
