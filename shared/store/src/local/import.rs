//! Takes an archive into the store, believing nothing of it.

use std::io::{self, BufRead, BufReader, Read};

use sha2::Digest as _;
use shared::nix::{
    ContentAddress, Hash, PathInfo, Sha256, StorePath,
    content_address::{ContentHasher, Method, SelfReference},
    hash::Algorithm,
    nar::{self, Node, ReadError, Visit},
};

use super::{LocalStore, LocalStoreError, PathLocks, layout::io_error};
use crate::{
    archive::{UnpackError, Unpacker, remove_tree},
    disk::{self, Guard},
};

/// Bytes that are asked at once of a source without a buffer.
const BUFFER_LEN: u64 = 256 * 1024;

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
    #[error("the contents of `{path}` have hash `{found}`, not `{wanted}` as their address says")]
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
    /// The path was valid already; nothing was touched.
    #[error("`{path}` is valid already")]
    AlreadyValid {
        /// The path.
        path: StorePath,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

impl ImportError {
    /// Returns whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Unpack { source, .. } => disk::is_full(source),
            Self::Store(error) => error.is_disk_full(),
            Self::Source { .. }
            | Self::Malformed { .. }
            | Self::Size { .. }
            | Self::Hash { .. }
            | Self::ContentAddress { .. }
            | Self::NotOneFile { .. }
            | Self::AlreadyValid { .. } => false,
        }
    }
}

impl LocalStore {
    /// Unpacks `nar` at the final place of `info.path`, checking size, hash and content address.
    ///
    /// Reads at most `info.nar_size` bytes. The path is not valid until it is registered. The
    /// caller holds its temp root and, in `locks`, its lock.
    ///
    /// # Errors
    /// When the archive is not what `info` says, or cannot be written; nothing is left behind.
    pub fn import(
        &self,
        info: &PathInfo,
        nar: &mut dyn Read,
        locks: &PathLocks,
    ) -> Result<(), ImportError> {
        let capacity = usize::try_from(info.nar_size.min(BUFFER_LEN)).unwrap_or_default();
        let mut nar = BufReader::with_capacity(capacity, nar.take(info.nar_size));
        self.import_guarded(info, &mut nar, locks, &Guard::none())
    }

    /// Does the same, and stops where `guard` does. What the buffer of `nar` holds is hashed and
    /// written from there.
    ///
    /// # Errors
    /// As [`LocalStore::import`].
    pub fn import_guarded(
        &self,
        info: &PathInfo,
        nar: &mut dyn BufRead,
        locks: &PathLocks,
        guard: &Guard,
    ) -> Result<(), ImportError> {
        let path = || info.path.clone();
        if !locks.holds(&info.path) {
            return Err(LocalStoreError::NotLocked(path()).into());
        }
        if !self.valid(&[path()].into())?.is_empty() {
            return Err(ImportError::AlreadyValid { path: path() });
        }
        let target = self.real_path(&info.path);
        let remove = || remove_tree(&target).map_err(io_error("remove", &target));
        remove()?;
        let taken = take(info, nar, &target, guard);
        if taken.is_err() {
            // What cannot be removed is not valid; the end of a run, the next import or a collector
            // sweeps it.
            if let Err(error) = remove() {
                tracing::debug!(path = %info.path, %error, "what was unpacked stays behind");
            }
        }
        taken
    }
}

fn take(
    info: &PathInfo,
    source: &mut dyn BufRead,
    target: &std::path::Path,
    guard: &Guard,
) -> Result<(), ImportError> {
    let path = || info.path.clone();
    let unpack = |source| ImportError::Unpack { path: path(), source };
    let (mut input_check, file_check) = checks(info);
    let mut input = Input {
        source,
        hasher: sha2::Sha256::new(),
        content: input_check.take(),
        hashed: 0,
        left: info.nar_size,
        overrun: false,
    };
    let mut tree = Tree {
        unpacker: Unpacker::new(target).map_err(unpack)?,
        guard,
        content: file_check,
        one_file: false,
        nodes: 0,
    };
    let read = nar::read(&mut input, &mut tree);
    if input.overrun {
        return Err(ImportError::Size { path: path(), wanted: info.nar_size, found: "larger" });
    }
    read.map_err(|error| match error {
        ReadError::Io(source) => ImportError::Source { path: path(), source },
        ReadError::Malformed { offset, what } => {
            ImportError::Malformed { path: path(), offset, what }
        }
        ReadError::Visit(UnpackError { path, source }) => {
            let folder = target.parent().unwrap_or(target);
            unpack(UnpackError { path, source: disk::with_what_is_left(source, folder) })
        }
    })?;
    if input.left > 0 {
        return Err(ImportError::Size { path: path(), wanted: info.nar_size, found: "smaller" });
    }
    let found = Sha256(input.hasher.finalize().into());
    if found != info.nar_hash {
        return Err(ImportError::Hash { path: path(), wanted: info.nar_hash, found });
    }
    let Some(address) = &info.content_address else { return Ok(()) };
    if address.method != Method::Recursive && !(tree.one_file && tree.nodes == 1) {
        return Err(ImportError::NotOneFile { path: path() });
    }
    let hasher = input.content.or(tree.content);
    check_address(info, address, hasher.map_or_else(|| found.into(), ContentHasher::finish))
}

fn check_address(
    info: &PathInfo,
    address: &ContentAddress,
    found: Hash,
) -> Result<(), ImportError> {
    if found == address.hash {
        return Ok(());
    }
    let wanted = address.hash.clone();
    Err(ImportError::ContentAddress { path: info.path.clone(), wanted, found })
}

/// Returns what has to be computed beside the NAR hash: from the NAR, and from file contents.
fn checks(info: &PathInfo) -> (Option<ContentHasher>, Option<ContentHasher>) {
    let Some(address) = &info.content_address else { return (None, None) };
    let own = match info.self_reference() {
        SelfReference::Yes => Some(&info.path),
        SelfReference::No => None,
    };
    let hasher = || ContentHasher::new(address, own);
    match address.method {
        Method::Text | Method::Flat => (None, Some(hasher())),
        // This is the NAR hash itself.
        Method::Recursive if own.is_none() && address.hash.algorithm() == Algorithm::Sha256 => {
            (None, None)
        }
        Method::Recursive => (Some(hasher()), None),
    }
}

/// The archive on its way in: hashed, and cut off where it should end.
struct Input<'a> {
    source: &'a mut dyn BufRead,
    hasher: sha2::Sha256,
    content: Option<ContentHasher>,
    /// How many of the bytes in the source's buffer are hashed already.
    hashed: usize,
    left: u64,
    /// Whether more was asked for than there may be.
    overrun: bool,
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            self.overrun = true;
            return Ok(&[]);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let bytes = self.source.fill_buf()?;
        let bytes = bytes.get(..most).unwrap_or(bytes);
        if let Some(new @ [_, ..]) = bytes.get(self.hashed..) {
            self.hasher.update(new);
            if let Some(content) = &mut self.content {
                content.nar(new);
            }
            self.hashed = bytes.len();
        }
        Ok(bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
        self.hashed = self.hashed.saturating_sub(amount);
        self.left = self.left.saturating_sub(amount as u64);
    }
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

/// The tree on its way to the disk.
struct Tree<'a> {
    unpacker: Unpacker,
    guard: &'a Guard,
    content: Option<ContentHasher>,
    /// Whether the node that came first is a file.
    one_file: bool,
    nodes: u64,
}

impl Visit for Tree<'_> {
    type Error = UnpackError;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), UnpackError> {
        self.one_file |= self.nodes == 0 && matches!(node, Node::Regular { .. });
        self.nodes += 1;
        self.guard.node().map_err(|error| self.unpacker.refused(error))?;
        self.unpacker.enter(name, node)
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), UnpackError> {
        if let Some(content) = &mut self.content {
            content.contents(piece);
        }
        self.guard.bytes(piece.len()).map_err(|error| self.unpacker.refused(error))?;
        self.unpacker.contents(piece)
    }

    fn leave(&mut self) -> Result<(), UnpackError> {
        self.unpacker.leave()
    }
}
