//! A file tree in memory, to and from the calls of [`Visit`].

use std::{collections::BTreeMap, convert::Infallible};

use shared::nix::nar::{self, Node, ReadError, Visit, WriteError, Writer};

/// A file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    Directory(BTreeMap<Vec<u8>, Self>),
    Regular { executable: bool, contents: Vec<u8> },
    Symlink { target: Vec<u8> },
}

impl Tree {
    fn node(&self) -> Node {
        match self {
            Self::Directory(_) => Node::Directory,
            Self::Regular { executable, contents } => {
                Node::Regular { executable: *executable, size: contents.len() as u64 }
            }
            Self::Symlink { target } => Node::Symlink { target: target.clone() },
        }
    }

    /// Tells `visitor` this tree, contents in pieces of at most `piece` bytes.
    pub(crate) fn tell<V: Visit>(
        &self,
        name: &[u8],
        piece: usize,
        visitor: &mut V,
    ) -> Result<(), V::Error> {
        visitor.enter(name, &self.node())?;
        match self {
            Self::Directory(entries) => {
                for (name, entry) in entries {
                    entry.tell(name, piece, visitor)?;
                }
            }
            Self::Regular { contents, .. } => {
                for part in contents.chunks(piece) {
                    visitor.contents(part)?;
                }
            }
            Self::Symlink { .. } => {}
        }
        visitor.leave()
    }

    /// Writes this tree as an archive.
    pub(crate) fn to_nar(&self, piece: usize) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Vec::new());
        self.tell(b"", piece, &mut writer)?;
        writer.finish()
    }

    /// Reads an archive; returns what is behind it as well.
    pub(crate) fn read(mut archive: &[u8]) -> Result<(Self, &[u8]), ReadError<Infallible>> {
        let mut planter = Planter::default();
        nar::read(&mut archive, &mut planter)?;
        Ok((planter.root.unwrap(), archive))
    }
}

/// Grows a [`Tree`] from what it is told.
#[derive(Default)]
pub(crate) struct Planter {
    open: Vec<(Vec<u8>, Tree)>,
    pub(crate) root: Option<Tree>,
}

impl Visit for Planter {
    type Error = Infallible;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), Infallible> {
        let tree = match node {
            Node::Directory => Tree::Directory(BTreeMap::new()),
            Node::Regular { executable, .. } => {
                Tree::Regular { executable: *executable, contents: Vec::new() }
            }
            Node::Symlink { target } => Tree::Symlink { target: target.clone() },
        };
        self.open.push((name.to_vec(), tree));
        Ok(())
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), Infallible> {
        assert!(!piece.is_empty());
        match self.open.last_mut() {
            Some((_, Tree::Regular { contents, .. })) => contents.extend_from_slice(piece),
            other => panic!("contents of {other:?}"),
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Infallible> {
        let (name, tree) = self.open.pop().unwrap();
        match self.open.last_mut() {
            Some((_, Tree::Directory(entries))) => {
                assert!(entries.insert(name, tree).is_none());
            }
            Some(other) => panic!("a node in {other:?}"),
            None => {
                assert!(name.is_empty() && self.root.is_none());
                self.root = Some(tree);
            }
        }
        Ok(())
    }
}
