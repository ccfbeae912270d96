//! The Nix archive: one file tree as one canonical stream of bytes.
//!
//! There is one way to say a tree, [`Visit`]: [`read`] says what an archive holds, [`Writer`]
//! takes it and writes an archive, [`Lister`] takes it and remembers names and sizes. The file
//! system's side, unpacking and dumping, is in crate `store`.
//!
//! As strict as Nix 2.34.8: names strictly rising by bytes, all padding zero, bounded names,
//! targets and depth. Nothing is allocated because an archive says how long something will be.

mod listing;
mod read;
mod words;
mod write;

pub use listing::{Lister, Listing, ListingError};
pub use read::{ReadError, read};
pub use write::{WriteError, Writer};

/// Longest name of a directory entry, in bytes.
pub const MAX_NAME_LEN: usize = 255;
/// Longest target of a symlink, in bytes.
pub const MAX_TARGET_LEN: usize = 4095;
/// Most directories above a node.
pub const MAX_DEPTH: usize = 63;

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory; its entries follow, in rising order of their names.
    Directory,
    /// A file; its contents follow, in pieces that add up to `size`.
    Regular {
        /// Whether its owner may execute it.
        executable: bool,
        /// Its size in bytes, as the archive claims it: do not allocate that much.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to; any bytes but NUL.
        target: Vec<u8>,
    },
}

/// Takes a tree, node by node.
///
/// Each node is one [`Self::enter`], what is in it, and one [`Self::leave`]. The root's name is
/// empty; every other name is not empty, not `.` or `..`, and holds neither `/` nor NUL.
pub trait Visit {
    /// Why the visitor cannot go on.
    type Error;

    /// A node begins, in the directory that was entered last and not left.
    ///
    /// # Errors
    /// When the visitor cannot go on.
    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), Self::Error>;

    /// The next piece of the contents of the file that was entered last; never empty.
    ///
    /// # Errors
    /// When the visitor cannot go on.
    fn contents(&mut self, piece: &[u8]) -> Result<(), Self::Error>;

    /// The node that was entered last and not left is complete.
    ///
    /// # Errors
    /// When the visitor cannot go on.
    fn leave(&mut self) -> Result<(), Self::Error>;
}
