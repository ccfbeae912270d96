//! Reads a tree from the file system.

use std::{
    io,
    path::{Path, PathBuf},
};

use shared::nix::{Sha256, nar::Visit};

/// Why a tree could not be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError<E> {
    /// The file system failed.
    #[error("cannot read `{}`", .path.display())]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// An archive cannot hold this.
    #[error("`{}` {what}", .path.display())]
    Unsupported {
        /// The offending file.
        path: PathBuf,
        /// What is wrong with it, as the rest of a sentence.
        what: &'static str,
    },
    /// The visitor could not go on.
    #[error(transparent)]
    Visit(E),
}

/// Tells `visitor` what is at `path`, in the order of an archive; follows no symlink.
///
/// # Errors
/// When something cannot be read or held by an archive, or the visitor cannot go on.
pub fn dump<V: Visit>(path: &Path, visitor: &mut V) -> Result<(), DumpError<V::Error>> {
    let _ = (path, visitor);
    todo!()
}

/// Returns hash and size of the archive of what is at `path`.
///
/// # Errors
/// When something cannot be read or held by an archive.
pub fn nar_digest(path: &Path) -> Result<(Sha256, u64), DumpError<shared::nix::nar::WriteError>> {
    let _ = path;
    todo!()
}
