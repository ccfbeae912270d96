//! Writes an archive.

use std::io::{self, Write};

use super::{Node, Visit};

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output failed.
    #[error("cannot write the archive")]
    Io(#[source] io::Error),
    /// The tree is none that an archive can hold, or its nodes came in a wrong order.
    #[error("an archive cannot hold this: {0}")]
    Tree(&'static str),
}

/// Writes the tree that it is told as an archive.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub const fn new(output: W) -> Self {
        Self { output }
    }

    /// Returns the output once the tree is complete.
    ///
    /// # Errors
    /// When it is not.
    pub fn finish(self) -> Result<W, WriteError> {
        Ok(self.output)
    }
}

impl<W: Write> Visit for Writer<W> {
    type Error = WriteError;

    fn enter(&mut self, _name: &[u8], _node: &Node) -> Result<(), WriteError> {
        todo!()
    }

    fn contents(&mut self, _piece: &[u8]) -> Result<(), WriteError> {
        todo!()
    }

    fn leave(&mut self) -> Result<(), WriteError> {
        todo!()
    }
}
