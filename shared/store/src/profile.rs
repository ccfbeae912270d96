//! Profiles: a link that is switched between numbered generations, exactly as Nix does it.

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use shared::nix::StorePath;

use crate::lock::LockError;

/// Why a profile could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
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
    /// No usable path for a profile.
    #[error("`{}` cannot be a profile", .0.display())]
    Path(PathBuf),
    /// A link that does not lead to a store path.
    #[error("`{}` does not lead to a store path", .0.display())]
    NotAStorePath(PathBuf),
    /// No such generation.
    #[error("profile `{}` has no generation {number}", .profile.display())]
    NoGeneration {
        /// The profile.
        profile: PathBuf,
        /// The number asked for.
        number: u64,
    },
    /// Nothing to roll back to.
    #[error("profile `{}` has no generation older than the current one", .0.display())]
    NoOlderGeneration(PathBuf),
    /// The current generation is never deleted.
    #[error("generation {number} of profile `{}` is the current one", .profile.display())]
    Current {
        /// The profile.
        profile: PathBuf,
        /// The current generation.
        number: u64,
    },
    /// The lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// One generation of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// What it points to.
    pub path: StorePath,
    /// When it was made.
    pub created: Timestamp,
}

/// A profile by the path of its link; need not exist yet.
#[derive(Debug, Clone)]
pub struct Profile {
    link: PathBuf,
}

impl Profile {
    /// Names the profile whose link is at `link`.
    ///
    /// # Errors
    /// When `link` cannot be one.
    pub fn open(link: &Path) -> Result<Self, ProfileError> {
        let _ = link;
        todo!()
    }

    /// Returns the path of the link.
    #[must_use]
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// Returns all generations, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn generations(&self) -> Result<Vec<Generation>, ProfileError> {
        todo!()
    }

    /// Returns the generation that the link points to, if there is one.
    ///
    /// # Errors
    /// When the link cannot be read or is not a profile's.
    pub fn current(&self) -> Result<Option<Generation>, ProfileError> {
        todo!()
    }

    /// Makes `path` the current generation: the highest, if that is it, else a new one.
    ///
    /// On disk when it returns. The folder is made if it is missing.
    ///
    /// # Errors
    /// When the lock stays busy or the file system fails; the link is as it was, then.
    pub fn set(&self, path: &StorePath) -> Result<Generation, ProfileError> {
        let _ = path;
        todo!()
    }

    /// Makes generation `number` the current one.
    ///
    /// # Errors
    /// When there is none of that number, the lock stays busy or the file system fails.
    pub fn switch_to(&self, number: u64) -> Result<Generation, ProfileError> {
        let _ = number;
        todo!()
    }

    /// Makes the highest generation below the current one the current one.
    ///
    /// # Errors
    /// When there is none, the lock stays busy or the file system fails.
    pub fn rollback(&self) -> Result<Generation, ProfileError> {
        todo!()
    }

    /// Deletes generations by number; those that are gone already do not matter.
    ///
    /// # Errors
    /// When one is the current generation (then none is deleted), or the file system fails.
    pub fn delete(&self, numbers: &[u64]) -> Result<(), ProfileError> {
        let _ = numbers;
        todo!()
    }
}
