//! The file system's side of archives: unpacking and dumping trees, and removing them.

mod dump;
mod remove;
mod unpack;

pub(crate) use dump::HashSink;
pub use dump::{DumpError, dump, nar_digest};
pub use remove::{Freed, remove_and_count, remove_tree};
pub use unpack::{UnpackError, Unpacker};

#[cfg(test)]
mod tests;
