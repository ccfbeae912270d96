//! Reads an archive.

use std::io::{self, BufRead};

use super::{
    MAX_DEPTH, MAX_NAME_LEN, MAX_TARGET_LEN, Node, Visit,
    words::{
        CLOSE, CONTENTS, DIRECTORY, ENTRY, ENTRY_NAME, EXECUTABLE, MAGIC, NODE, NODE_TYPE, REGULAR,
        SYMLINK, TARGET, check_name, check_target, padding,
    },
};

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The input failed.
    #[error("cannot read the archive")]
    Io(#[source] io::Error),
    /// The bytes are no archive that Nix would accept.
    #[error("bad archive at byte {offset}: {what}")]
    Malformed {
        /// Where, in bytes from the start.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The visitor could not go on.
    #[error(transparent)]
    Visit(E),
}

/// Reads one archive and tells `visitor` what it holds; leaves what follows it unread.
///
/// The contents of files are handed on in pieces as they lie in the buffer of `input`, so its
/// capacity decides how large they are, and nothing is copied.
///
/// # Errors
/// When the input fails, is no canonical archive, or the visitor cannot go on.
pub fn read<R: BufRead, V: Visit>(
    input: &mut R,
    visitor: &mut V,
) -> Result<(), ReadError<V::Error>> {
    let mut words = Words { input, offset: 0 };
    words.expect(MAGIC, "this is no Nix archive")?;
    // The last name seen in each directory that is open, the root first.
    let mut open: Vec<Vec<u8>> = Vec::new();
    loop {
        if open.len() > MAX_DEPTH {
            return Err(words.malformed("more than 63 directories inside each other").into());
        }
        let name = open.last().map_or(&[][..], Vec::as_slice);
        let mut complete = !read_node(&mut words, name, visitor)?;
        if !complete {
            open.push(Vec::new());
        }
        loop {
            let Some(previous) = open.last_mut() else { return Ok(()) };
            if complete {
                words.expect(CLOSE, "expected `)` after the node of an entry")?;
            }
            if words.next_entry(previous)? {
                break;
            }
            visitor.leave().map_err(ReadError::Visit)?;
            open.pop();
            complete = true;
        }
    }
}

/// Reads a file or symlink whole, a directory up to its first entry; returns whether it is one.
fn read_node<R: BufRead, V: Visit>(
    words: &mut Words<'_, R>,
    name: &[u8],
    visitor: &mut V,
) -> Result<bool, ReadError<V::Error>> {
    words.expect(NODE_TYPE, "expected `(` and `type`")?;
    let kind = words.take()?;
    if &kind == REGULAR {
        let (executable, size) = words.file_header()?;
        visitor.enter(name, &Node::Regular { executable, size }).map_err(ReadError::Visit)?;
        words.contents(size, visitor)?;
    } else if &kind == SYMLINK {
        let target = words.target()?;
        visitor.enter(name, &Node::Symlink { target }).map_err(ReadError::Visit)?;
    } else {
        words.rest(DIRECTORY, &kind, "expected `regular`, `symlink` or `directory`")?;
        visitor.enter(name, &Node::Directory).map_err(ReadError::Visit)?;
        return Ok(true);
    }
    words.expect(CLOSE, "expected `)` after a file or symlink")?;
    visitor.leave().map_err(ReadError::Visit)?;
    Ok(false)
}

/// A fault of the input itself, not of the visitor.
enum Fault {
    Io(io::Error),
    Malformed { offset: u64, what: &'static str },
}

impl<E> From<Fault> for ReadError<E> {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Io(error) => Self::Io(error),
            Fault::Malformed { offset, what } => Self::Malformed { offset, what },
        }
    }
}

/// The input, taken word by word.
struct Words<'a, R> {
    input: &'a mut R,
    offset: u64,
}

impl<R: BufRead> Words<'_, R> {
    const fn malformed(&self, what: &'static str) -> Fault {
        Fault::Malformed { offset: self.offset, what }
    }

    /// Returns what the input has at hand, at least one byte.
    fn available(&mut self) -> Result<&[u8], Fault> {
        // Asked twice, because a borrow that is returned from a loop outlives it.
        loop {
            match self.input.fill_buf() {
                Ok([]) => return Err(self.malformed("it ends too early")),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        self.input.fill_buf().map_err(Fault::Io)
    }

    fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.offset += length as u64;
    }

    /// Fills `buffer` whole.
    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Fault> {
        while !buffer.is_empty() {
            let available = self.available()?;
            let length = available.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(length);
            now.copy_from_slice(available.split_at(length).0);
            self.consume(length);
            buffer = later;
        }
        Ok(())
    }

    /// Takes the next `N` bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Takes `wanted` and nothing else.
    fn expect<const N: usize>(
        &mut self,
        wanted: &[u8; N],
        what: &'static str,
    ) -> Result<(), Fault> {
        let start = self.offset;
        if &self.take::<N>()? == wanted {
            return Ok(());
        }
        Err(Fault::Malformed { offset: start, what })
    }

    /// Takes what is left of `wanted` when its first bytes were taken as `begun`.
    fn rest<const N: usize>(
        &mut self,
        wanted: &[u8; N],
        begun: &[u8; 16],
        what: &'static str,
    ) -> Result<(), Fault> {
        let start = self.offset.saturating_sub(16);
        let Some(rest) = wanted.strip_prefix(begun) else {
            return Err(Fault::Malformed { offset: start, what });
        };
        let mut bytes = [0; N];
        let bytes = bytes.split_at_mut(rest.len()).0;
        self.fill(bytes)?;
        if bytes == rest { Ok(()) } else { Err(Fault::Malformed { offset: start, what }) }
    }

    fn length(&mut self) -> Result<u64, Fault> {
        self.take().map(u64::from_le_bytes)
    }

    fn padding(&mut self, length: u64) -> Result<(), Fault> {
        let mut zeros = [0; 7];
        let zeros = zeros.split_at_mut(padding(length).len()).0;
        self.fill(zeros)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(self.malformed("padding is not zero"));
        }
        Ok(())
    }

    /// Takes a word of at most `buffer.len()` bytes.
    fn word<'b>(
        &mut self,
        buffer: &'b mut [u8],
        too_long: &'static str,
    ) -> Result<&'b [u8], Fault> {
        let length = self.length()?;
        let fits = usize::try_from(length).ok().filter(|length| *length <= buffer.len());
        let Some(fits) = fits else { return Err(self.malformed(too_long)) };
        let word = buffer.split_at_mut(fits).0;
        self.fill(word)?;
        self.padding(length)?;
        Ok(word)
    }

    /// Takes what stands between `regular` and the contents.
    fn file_header(&mut self) -> Result<(bool, u64), Fault> {
        let field = self.take()?;
        let executable = &field != CONTENTS;
        if executable {
            self.rest(EXECUTABLE, &field, "expected `contents`, or `executable` and nothing")?;
            self.expect(CONTENTS, "expected `contents`")?;
        }
        Ok((executable, self.length()?))
    }

    /// Hands the contents of a file on, and takes their padding.
    fn contents<V: Visit>(&mut self, size: u64, to: &mut V) -> Result<(), ReadError<V::Error>> {
        let mut left = size;
        while left > 0 {
            let available = self.available()?;
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
            to.contents(available.split_at(length).0).map_err(ReadError::Visit)?;
            self.consume(length);
            left -= length as u64;
        }
        Ok(self.padding(size)?)
    }

    fn target(&mut self) -> Result<Vec<u8>, Fault> {
        self.expect(TARGET, "expected `target`")?;
        let start = self.offset;
        let mut buffer = [0; MAX_TARGET_LEN];
        let target = self.word(&mut buffer, "the target of a symlink is longer than 4095 bytes")?;
        check_target(target).map_err(|what| Fault::Malformed { offset: start, what })?;
        Ok(target.to_vec())
    }

    /// Takes the head of the next entry and puts its name into `name`, which holds the previous
    /// one; or takes the end of the directory and returns false.
    fn next_entry(&mut self, name: &mut Vec<u8>) -> Result<bool, Fault> {
        let word = self.take()?;
        if &word == CLOSE {
            return Ok(false);
        }
        self.rest(ENTRY, &word, "expected `entry` or `)`")?;
        self.expect(ENTRY_NAME, "expected `(` and `name`")?;
        let start = self.offset;
        let mut buffer = [0; MAX_NAME_LEN];
        let next = self.word(&mut buffer, "a name is longer than 255 bytes")?;
        check_name(next, name).map_err(|what| Fault::Malformed { offset: start, what })?;
        name.clear();
        name.extend_from_slice(next);
        self.expect(NODE, "expected `node`")?;
        Ok(true)
    }
}
