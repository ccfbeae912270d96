//! What a person is told when the store or a profile fails.

use shared::problem::{Kind, Problem};

use super::LocalStoreError;
use crate::{
    disk::{MORE_FILES, is_full, lacks_files},
    lock::LockError,
    profile::ProfileError,
};

impl LocalStoreError {
    /// Returns the problem as both programs print and send it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let problem = |kind, code| Problem::from_error(kind, code, self);
        match self {
            _ if self.is_disk_full() => disk_full(problem(Kind::Runtime, "disk_full")),
            _ if lacks_files(self) => problem(Kind::Runtime, "open_files").fix(MORE_FILES),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                problem(Kind::Runtime, "store_io")
                    .fix("run it as the user that owns the store, or name another with --root DIR")
            }
            Self::Io { .. } => problem(Kind::Runtime, "store_io"),
            Self::Database { .. } => problem(Kind::Runtime, "store_database"),
            Self::Corrupt { .. } | Self::Derivation(_) => problem(Kind::Runtime, "store_corrupt"),
            Self::Schema { .. } => problem(Kind::Runtime, "store_schema")
                .leaves("nothing changed")
                .fix("this store was made by a Nix that this program does not know"),
            Self::Symlink(_) => {
                problem(Kind::Usage, "store_symlink").fix("name the store's root by its real path")
            }
            Self::ReadOnly => problem(Kind::Runtime, "store_read_only"),
            Self::Conflict { .. } => problem(Kind::Conflict, "conflict")
                .leaves("nothing changed")
                .fix("one of the two was not built reproducibly, or is not what it claims to be"),
            Self::MissingReference { .. } => {
                problem(Kind::Negative, "missing_reference").leaves("nothing changed")
            }
            Self::Cycle(_) => problem(Kind::Trust, "cycle").leaves("nothing changed"),
            Self::NotValid(_) => problem(Kind::Negative, "not_valid"),
            Self::NotLocked(_) => problem(Kind::Runtime, "not_locked"),
            Self::Stopped => problem(Kind::Interrupted, "interrupted").leaves("nothing changed"),
            Self::Changed(_) => problem(Kind::Conflict, "changed").leaves("nothing changed"),
            Self::Unsupported { .. } | Self::Address(_) => problem(Kind::Usage, "unsupported"),
            Self::Lock(error) => locked(error),
        }
    }
}

impl ProfileError {
    /// Returns the problem as both programs print and send it.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let problem = |kind, code| Problem::from_error(kind, code, self);
        match self {
            Self::Io { source, .. } if is_full(source) => {
                disk_full(problem(Kind::Runtime, "disk_full"))
            }
            Self::Io { .. } => problem(Kind::Runtime, "profile_io"),
            Self::Path(_) => problem(Kind::Usage, "profile_path"),
            Self::NoGeneration { .. } | Self::NoOlderGeneration(_) => {
                problem(Kind::Negative, "no_generation").leaves("nothing changed")
            }
            Self::Current { .. } => {
                problem(Kind::Negative, "current_generation").leaves("nothing changed")
            }
            Self::Lock(error) => locked(error),
        }
    }
}

fn disk_full(problem: Problem) -> Problem {
    problem
        .leaves("nothing became valid")
        .fix("make room there; `agent gc` deletes what nothing needs")
        .next("agent gc")
}

fn locked(error: &LockError) -> Problem {
    match error {
        LockError::Busy { .. } => Problem::from_error(Kind::Timeout, "locked", error)
            .leaves("nothing changed")
            .fix("another program is at work there; try again when it is done"),
        LockError::Stopped(_) => {
            Problem::from_error(Kind::Interrupted, "interrupted", error).leaves("nothing changed")
        }
        LockError::Io { source, .. } if is_full(source) => {
            disk_full(Problem::from_error(Kind::Runtime, "disk_full", error))
        }
        LockError::Io { .. } => Problem::from_error(Kind::Runtime, "lock", error),
    }
}
