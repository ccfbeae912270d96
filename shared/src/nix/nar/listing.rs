//! The listing of an archive, as `nix nar ls --json --recursive ARCHIVE /` prints it.

use std::{collections::BTreeMap, io};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::{Node, Visit, WriteError, Writer};

/// What an archive holds; serialises to what Nix prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// A directory.
    Directory {
        /// What is in it, by name.
        entries: BTreeMap<String, Self>,
    },
    /// A file.
    Regular {
        /// Whether its owner may execute it.
        executable: bool,
        /// Where in the archive its contents begin.
        nar_offset: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        target: String,
    },
}

/// Why a tree could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// A name or target is not UTF-8, which JSON cannot express; Nix fails on it too.
    #[error("`{0}` is not UTF-8, so it cannot be listed")]
    NotText(String),
    /// The tree is none that an archive can hold.
    #[error(transparent)]
    Tree(#[from] WriteError),
}

/// Lists the tree that it is told.
#[derive(Debug)]
pub struct Lister {
    /// Knows the offsets, because it would write the archive.
    writer: Writer<io::Sink>,
    /// The nodes that are open, the root first, each with its name.
    open: Vec<(String, Listing)>,
    root: Option<Listing>,
}

impl Lister {
    /// Starts a listing.
    #[must_use]
    pub fn new() -> Self {
        Self { writer: Writer::new(io::sink()), open: Vec::new(), root: None }
    }

    /// Returns the listing once the tree is complete.
    ///
    /// # Errors
    /// When it is not.
    pub fn finish(self) -> Result<Listing, ListingError> {
        self.writer.finish()?;
        self.root.ok_or(ListingError::Tree(WriteError::Tree("the tree is not complete")))
    }
}

impl Default for Lister {
    fn default() -> Self {
        Self::new()
    }
}

impl Visit for Lister {
    type Error = ListingError;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), ListingError> {
        self.writer.enter(name, node)?;
        let listing = match node {
            Node::Directory => Listing::Directory { entries: BTreeMap::new() },
            Node::Regular { executable, size } => Listing::Regular {
                executable: *executable,
                nar_offset: self.writer.position(),
                size: *size,
            },
            Node::Symlink { target } => Listing::Symlink { target: text(target)? },
        };
        self.open.push((text(name)?, listing));
        Ok(())
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), ListingError> {
        Ok(self.writer.contents(piece)?)
    }

    fn leave(&mut self) -> Result<(), ListingError> {
        self.writer.leave()?;
        let Some((name, listing)) = self.open.pop() else { return Ok(()) };
        match self.open.last_mut() {
            Some((_, Listing::Directory { entries })) => {
                entries.insert(name, listing);
            }
            Some(_) | None => self.root = Some(listing),
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<String, ListingError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ListingError::NotText(bytes.escape_ascii().to_string()))
}

/// Writes the fields in the order of their names, as Nix does.
impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut node = serializer.serialize_struct("Listing", 4)?;
        match self {
            Self::Directory { entries } => {
                node.serialize_field("entries", entries)?;
                node.serialize_field("type", "directory")?;
            }
            Self::Regular { executable, nar_offset, size } => {
                if *executable {
                    node.serialize_field("executable", executable)?;
                }
                node.serialize_field("narOffset", nar_offset)?;
                node.serialize_field("size", size)?;
                node.serialize_field("type", "regular")?;
            }
            Self::Symlink { target } => {
                node.serialize_field("target", target)?;
                node.serialize_field("type", "symlink")?;
            }
        }
        node.end()
    }
}
