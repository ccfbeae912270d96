//! Writes a tree to the file system, in Nix's canonical form.

use std::{
    io,
    path::{Path, PathBuf},
};

use shared::nix::nar::{Node, Visit};

/// Why a tree could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`", .path.display())]
pub struct UnpackError {
    /// What could not be written.
    pub path: PathBuf,
    /// What failed.
    pub source: io::Error,
}

/// Writes the tree that it is told, with canonical modes and times, never outside its target.
#[derive(Debug)]
pub struct Unpacker {
    target: PathBuf,
}

impl Unpacker {
    /// Prepares to write a tree at `target`, which must not exist, in a directory that does.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn new(target: &Path) -> Result<Self, UnpackError> {
        Ok(Self { target: target.to_owned() })
    }
}

impl Visit for Unpacker {
    type Error = UnpackError;

    fn enter(&mut self, _name: &[u8], _node: &Node) -> Result<(), UnpackError> {
        let _ = &self.target;
        todo!()
    }

    fn contents(&mut self, _piece: &[u8]) -> Result<(), UnpackError> {
        todo!()
    }

    fn leave(&mut self) -> Result<(), UnpackError> {
        todo!()
    }
}
