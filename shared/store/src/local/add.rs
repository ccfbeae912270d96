//! Adds a tree of the file system, as `nix-store --add` does.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use sha2::Digest as _;
use shared::nix::{
    ContentAddress, PathInfo, Sha256, StorePath,
    content_address::{Method, SelfReference},
    nar::{Node, Visit, WriteError, Writer},
};

use super::{LocalStore, LocalStoreError, layout::io_error};
use crate::archive::{DumpError, HashSink, UnpackError, Unpacker, dump, nar_digest, remove_tree};

/// How long another process may be at work on the same path.
const PATIENCE: Duration = Duration::from_secs(600);

impl LocalStore {
    /// Copies the tree at `source` into the store, as `nix-store --add` does, with `references`.
    ///
    /// # Errors
    /// When it cannot be read or written, changes meanwhile, or a reference is not valid.
    pub fn add(
        &self,
        source: &Path,
        name: &str,
        references: &BTreeSet<StorePath>,
    ) -> Result<PathInfo, LocalStoreError> {
        let info = describe(source, name, references)?;
        let own: BTreeSet<StorePath> = [info.path.clone()].into();
        self.add_temp_roots(&own)?;
        self.add_temp_roots(references)?;
        let present = self.valid(references)?;
        if let Some(reference) = references.iter().find(|path| !present.contains_key(*path)) {
            let reference = reference.clone();
            return Err(LocalStoreError::MissingReference { path: info.path, reference });
        }
        let locks = self.lock_paths(&own, PATIENCE)?;
        if self.valid(&own)?.is_empty() {
            let target = self.real_path(&info.path);
            let remove = || remove_tree(&target).map_err(io_error("remove", &target));
            remove()?;
            if let Err(error) = self.copy(source, &info) {
                // For the sake of a full disk; but never what a commit made valid after all.
                if self.valid(&own)?.is_empty() {
                    remove()?;
                }
                return Err(error);
            }
        }
        drop(locks);
        Ok(info)
    }

    fn copy(&self, source: &Path, info: &PathInfo) -> Result<(), LocalStoreError> {
        if copy_tree(source, &self.real_path(&info.path))? != info.nar_hash {
            return Err(LocalStoreError::Changed(source.to_owned()));
        }
        self.register(std::slice::from_ref(info))
    }
}

/// Computes what the tree at `source` will be in the store.
fn describe(
    source: &Path,
    name: &str,
    references: &BTreeSet<StorePath>,
) -> Result<PathInfo, LocalStoreError> {
    let (nar_hash, nar_size) = nar_digest(source).map_err(|error| unreadable(source, error))?;
    let address = ContentAddress { method: Method::Recursive, hash: nar_hash.into() };
    let path = address.store_path(name, references, SelfReference::No)?;
    Ok(PathInfo {
        path,
        nar_hash,
        nar_size,
        references: references.clone(),
        deriver: None,
        signatures: Vec::new(),
        content_address: Some(address),
    })
}

/// Copies a tree and returns the hash of its archive.
fn copy_tree(source: &Path, target: &Path) -> Result<Sha256, LocalStoreError> {
    let mut copy = Copy {
        unpacker: Unpacker::new(target).map_err(unwritable)?,
        writer: Writer::new(HashSink(sha2::Sha256::new())),
    };
    dump(source, &mut copy).map_err(|error| match error {
        DumpError::Visit(CopyError::Unpack(error)) => unwritable(error),
        DumpError::Visit(CopyError::Hash(error)) => unreadable(source, DumpError::Visit(error)),
        DumpError::Io { path, source } => LocalStoreError::Io { action: "read", path, source },
        DumpError::Unsupported { path, what } => LocalStoreError::Unsupported { path, what },
    })?;
    let HashSink(hasher) =
        copy.writer.finish().map_err(|error| unreadable(source, DumpError::Visit(error)))?;
    Ok(Sha256(hasher.finalize().into()))
}

/// Writes a tree and hashes its archive.
struct Copy {
    unpacker: Unpacker,
    writer: Writer<HashSink>,
}

enum CopyError {
    Unpack(UnpackError),
    Hash(WriteError),
}

impl Visit for Copy {
    type Error = CopyError;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), CopyError> {
        self.writer.enter(name, node).map_err(CopyError::Hash)?;
        self.unpacker.enter(name, node).map_err(CopyError::Unpack)
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), CopyError> {
        self.writer.contents(piece).map_err(CopyError::Hash)?;
        self.unpacker.contents(piece).map_err(CopyError::Unpack)
    }

    fn leave(&mut self) -> Result<(), CopyError> {
        self.writer.leave().map_err(CopyError::Hash)?;
        self.unpacker.leave().map_err(CopyError::Unpack)
    }
}

fn unwritable(error: UnpackError) -> LocalStoreError {
    LocalStoreError::Io { action: "write", path: error.path, source: error.source }
}

fn unreadable(source: &Path, error: DumpError<WriteError>) -> LocalStoreError {
    match error {
        DumpError::Io { path, source } => LocalStoreError::Io { action: "read", path, source },
        DumpError::Unsupported { path, what } => LocalStoreError::Unsupported { path, what },
        DumpError::Visit(error) => LocalStoreError::Io {
            action: "archive",
            path: source.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        },
    }
}
