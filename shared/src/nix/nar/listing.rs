//! The listing of an archive, as `nix nar ls --json` prints it.

/// Remembers what an archive holds.
#[derive(Debug, Default)]
pub struct Listing {}
