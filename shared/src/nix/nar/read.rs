//! Reads an archive.

use std::io::{self, Read};

use super::Visit;

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
/// # Errors
/// When the input fails, is no canonical archive, or the visitor cannot go on.
pub fn read<R: Read, V: Visit>(input: &mut R, visitor: &mut V) -> Result<(), ReadError<V::Error>> {
    let _: (&mut R, &mut V) = (input, visitor);
    todo!()
}
