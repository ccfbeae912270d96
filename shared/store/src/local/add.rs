//! Adds a tree of the file system, as `nix-store --add` does.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use sha2::Digest as _;
use shared::nix::{
    ContentAddress, PathInfo, Sha256, StorePath,
    content_address::{Method, SelfReference},
    nar::{Node, Visit, WriteError, Writer},
};

use super::{LocalStore, LocalStoreError, layout::io_error};
use crate::archive::{DumpError, HashSink, UnpackError, Unpacker, dump, remove_tree};

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
        self.add_unless(source, name, references, &|| false)
    }

    /// Does what [`add`](Self::add) does, but ends soon once `stopped` says so, and leaves nothing.
    ///
    /// # Errors
    /// As [`add`](Self::add), and when it was stopped.
    pub fn add_unless(
        &self,
        source: &Path,
        name: &str,
        references: &BTreeSet<StorePath>,
        stopped: &dyn Fn() -> bool,
    ) -> Result<PathInfo, LocalStoreError> {
        let info = describe(source, name, references, stopped)?;
        let own: BTreeSet<StorePath> = [info.path.clone()].into();
        self.add_temp_roots(&own)?;
        self.add_temp_roots(references)?;
        let present = self.valid(references)?;
        if let Some(reference) = references.iter().find(|path| !present.contains_key(*path)) {
            let reference = reference.clone();
            return Err(LocalStoreError::MissingReference { path: info.path, reference });
        }
        let locks = self.lock_paths_unless(&own, PATIENCE, stopped)?;
        if self.valid(&own)?.is_empty() {
            let target = self.real_path(&info.path);
            let remove = || remove_tree(&target).map_err(io_error("remove", &target));
            remove()?;
            if let Err(error) = self.copy(source, &info, stopped) {
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

    fn copy(
        &self,
        source: &Path,
        info: &PathInfo,
        stopped: &dyn Fn() -> bool,
    ) -> Result<(), LocalStoreError> {
        let unpacker = Unpacker::new(&self.real_path(&info.path)).map_err(unwritable)?;
        if archive(source, Some(unpacker), stopped)?.0 != info.nar_hash {
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
    stopped: &dyn Fn() -> bool,
) -> Result<PathInfo, LocalStoreError> {
    let (nar_hash, nar_size) = archive(source, None, stopped)?;
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

/// Reads a tree, and writes it if it is to be copied; returns hash and size of its archive.
fn archive(
    source: &Path,
    unpacker: Option<Unpacker>,
    stopped: &dyn Fn() -> bool,
) -> Result<(Sha256, u64), LocalStoreError> {
    let mut copy = Copy { unpacker, writer: Writer::new(HashSink(sha2::Sha256::new())), stopped };
    dump(source, &mut copy).map_err(|error| match error {
        DumpError::Visit(CopyError::Stopped) => LocalStoreError::Stopped,
        DumpError::Visit(CopyError::Unpack(error)) => unwritable(error),
        DumpError::Visit(CopyError::Hash(error)) => unreadable(source, DumpError::Visit(error)),
        DumpError::Io { path, source } => LocalStoreError::Io { action: "read", path, source },
        DumpError::Unsupported { path, what } => LocalStoreError::Unsupported { path, what },
    })?;
    let size = copy.writer.position();
    let HashSink(hasher) =
        copy.writer.finish().map_err(|error| unreadable(source, DumpError::Visit(error)))?;
    Ok((Sha256(hasher.finalize().into()), size))
}

/// Hashes the archive of a tree, and writes the tree if there is a place for it.
struct Copy<'a> {
    unpacker: Option<Unpacker>,
    writer: Writer<HashSink>,
    stopped: &'a dyn Fn() -> bool,
}

enum CopyError {
    Stopped,
    Unpack(UnpackError),
    Hash(WriteError),
}

impl Copy<'_> {
    fn write(
        &mut self,
        write: impl FnOnce(&mut Unpacker) -> Result<(), UnpackError>,
    ) -> Result<(), CopyError> {
        self.unpacker.as_mut().map_or(Ok(()), write).map_err(CopyError::Unpack)
    }
}

impl Visit for Copy<'_> {
    type Error = CopyError;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), CopyError> {
        if (self.stopped)() {
            return Err(CopyError::Stopped);
        }
        self.writer.enter(name, node).map_err(CopyError::Hash)?;
        self.write(|unpacker| unpacker.enter(name, node))
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), CopyError> {
        if (self.stopped)() {
            return Err(CopyError::Stopped);
        }
        self.writer.contents(piece).map_err(CopyError::Hash)?;
        self.write(|unpacker| unpacker.contents(piece))
    }

    fn leave(&mut self) -> Result<(), CopyError> {
        self.writer.leave().map_err(CopyError::Hash)?;
        self.write(Unpacker::leave)
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

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs};

    use super::*;

    #[test]
    fn whoever_stops_it_finds_nothing_left() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("tree");
        fs::create_dir_all(source.join("bin")).unwrap();
        fs::write(source.join("bin/run"), vec![b'x'; 300_000]).unwrap();
        let root = folder.path().join("root");
        let store = LocalStore::open(&root).unwrap();
        let asked = Cell::new(0);
        let add = |end: u32| {
            asked.set(0);
            let stopped = || asked.replace(asked.get() + 1) >= end;
            store.add_unless(&source, "tree", &BTreeSet::new(), &stopped)
        };
        let mut end = 0;
        let info = loop {
            match add(end) {
                Ok(info) => break info,
                Err(error) => assert!(matches!(error, LocalStoreError::Stopped), "{error}"),
            }
            let left = fs::read_dir(root.join("nix/store")).unwrap();
            let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, [".links"], "stopped when it asked for time {end}");
            end += 1;
        };
        assert!(end > 8, "asked {end} times, before it reads and before it writes each piece");
        assert!(store.real_path(&info.path).join("bin/run").exists());
    }
}
