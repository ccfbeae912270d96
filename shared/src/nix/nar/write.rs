//! Writes an archive.

use std::io::{self, BufWriter, Write};

use super::{
    MAX_DEPTH, Node, Visit,
    words::{
        CLOSE, CONTENTS, DIRECTORY, ENTRY, ENTRY_NAME, EXECUTABLE, MAGIC, NODE, NODE_TYPE, REGULAR,
        SYMLINK, TARGET, check_name, check_target, padding,
    },
};

/// Bytes that are gathered before the output is called; larger pieces pass by.
const BUFFER_LEN: usize = 64 * 1024;

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
///
/// It buffers by itself: give it the file or the compressor.
#[derive(Debug)]
pub struct Writer<W: Write> {
    output: BufWriter<W>,
    position: u64,
    /// The last name seen in each directory that is open, the root first.
    open: Vec<Vec<u8>>,
    state: State,
}

/// Where in the tree the writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing came yet.
    Start,
    /// In the innermost open directory.
    Directory,
    /// In a file of `size` bytes, of which `left` are to come.
    File { size: u64, left: u64 },
    /// In a symlink.
    Symlink,
    /// The tree is complete.
    End,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(output: W) -> Self {
        let output = BufWriter::with_capacity(BUFFER_LEN, output);
        Self { output, position: 0, open: Vec::new(), state: State::Start }
    }

    /// Returns how many bytes of the archive were written so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Returns the output once the tree is complete; does not flush it.
    ///
    /// # Errors
    /// When the tree is not complete, or the last bytes cannot be written.
    pub fn finish(self) -> Result<W, WriteError> {
        if self.state != State::End {
            return Err(WriteError::Tree("the tree is not complete"));
        }
        self.output.into_inner().map_err(|error| WriteError::Io(error.into_error()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.output.write_all(bytes).map_err(WriteError::Io)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn put_word(&mut self, word: &[u8]) -> Result<(), WriteError> {
        let length = word.len() as u64;
        self.put(&length.to_le_bytes())?;
        self.put(word)?;
        self.put(padding(length))
    }

    /// Writes what comes before a node: the archive's start, or the head of its entry.
    fn put_entry(&mut self, name: &[u8]) -> Result<(), WriteError> {
        match (self.state, self.open.last_mut()) {
            (State::Start, None) if name.is_empty() => self.put(MAGIC),
            (State::Start, None) => Err(WriteError::Tree("the root has a name")),
            (State::Directory, Some(previous)) => {
                check_name(name, previous).map_err(WriteError::Tree)?;
                previous.clear();
                previous.extend_from_slice(name);
                if self.open.len() > MAX_DEPTH {
                    let what = "more than 63 directories inside each other";
                    return Err(WriteError::Tree(what));
                }
                self.put(ENTRY)?;
                self.put(ENTRY_NAME)?;
                self.put_word(name)?;
                self.put(NODE)
            }
            _ => Err(WriteError::Tree("a node where none can be")),
        }
    }
}

impl<W: Write> Visit for Writer<W> {
    type Error = WriteError;

    fn enter(&mut self, name: &[u8], node: &Node) -> Result<(), WriteError> {
        if let Node::Symlink { target } = node {
            check_target(target).map_err(WriteError::Tree)?;
        }
        self.put_entry(name)?;
        self.put(NODE_TYPE)?;
        match node {
            Node::Directory => {
                self.put(DIRECTORY)?;
                self.open.push(Vec::new());
                self.state = State::Directory;
            }
            Node::Regular { executable, size } => {
                self.put(REGULAR)?;
                if *executable {
                    self.put(EXECUTABLE)?;
                }
                self.put(CONTENTS)?;
                self.put(&size.to_le_bytes())?;
                self.state = State::File { size: *size, left: *size };
            }
            Node::Symlink { target } => {
                self.put(SYMLINK)?;
                self.put(TARGET)?;
                self.put_word(target)?;
                self.state = State::Symlink;
            }
        }
        Ok(())
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), WriteError> {
        let State::File { size, left } = self.state else {
            return Err(WriteError::Tree("contents of what is no file"));
        };
        let Some(left) = left.checked_sub(piece.len() as u64) else {
            return Err(WriteError::Tree("a file has more bytes than its size"));
        };
        self.state = State::File { size, left };
        self.put(piece)
    }

    fn leave(&mut self) -> Result<(), WriteError> {
        match self.state {
            State::File { size, left: 0 } => self.put(padding(size))?,
            State::File { .. } => {
                return Err(WriteError::Tree("a file has fewer bytes than its size"));
            }
            State::Symlink => {}
            State::Directory => {
                self.open.pop();
            }
            State::Start | State::End => return Err(WriteError::Tree("no node is open")),
        }
        self.put(CLOSE)?;
        self.state = if self.open.is_empty() {
            State::End
        } else {
            self.put(CLOSE)?;
            State::Directory
        };
        Ok(())
    }
}
