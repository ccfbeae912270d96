//! Takes an archive into the store, believing nothing of it.

use std::io;

use shared::nix::{Hash, Sha256, StorePath};

use super::LocalStoreError;
use crate::archive::UnpackError;

/// Why an archive was not taken into the store.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive could not be read from where it comes.
    #[error("cannot read the archive of `{path}`")]
    Source {
        /// The path.
        path: StorePath,
        /// What failed.
        source: io::Error,
    },
    /// The bytes are no archive.
    #[error("the archive of `{path}` is malformed at byte {offset}: {what}")]
    Malformed {
        /// The path.
        path: StorePath,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The archive is larger or smaller than it was said to be.
    #[error("the archive of `{path}` is {found} than the {wanted} bytes it should have")]
    Size {
        /// The path.
        path: StorePath,
        /// The size that it should have.
        wanted: u64,
        /// `larger` or `smaller`.
        found: &'static str,
    },
    /// The archive has another hash.
    #[error("the archive of `{path}` has hash `{found}`, not `{wanted}`")]
    Hash {
        /// The path.
        path: StorePath,
        /// The hash that it should have.
        wanted: Sha256,
        /// The hash that it has.
        found: Sha256,
    },
    /// The contents do not have the content address.
    #[error("the contents of `{path}` have hash `{found}`, not their content address' `{wanted}`")]
    ContentAddress {
        /// The path.
        path: StorePath,
        /// The hash in the content address.
        wanted: Hash,
        /// The hash that they have.
        found: Hash,
    },
    /// A flat or text content address on something that is not one file.
    #[error("`{path}` has the content address of a single file, but is none")]
    NotOneFile {
        /// The path.
        path: StorePath,
    },
    /// The tree could not be written.
    #[error("cannot unpack `{path}`")]
    Unpack {
        /// The path.
        path: StorePath,
        /// What failed.
        source: UnpackError,
    },
    /// The path became valid before its lock was taken; nothing was touched.
    #[error("`{path}` is valid already")]
    AlreadyValid {
        /// The path.
        path: StorePath,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}
