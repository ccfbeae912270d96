//! The fixed parts of an archive, each as the bytes that stand there.
//!
//! A word is its length as eight bytes, least significant first, then its bytes, then zeros up
//! to the next multiple of eight. Words that always follow each other are one constant.

/// `nix-archive-1`.
pub(super) const MAGIC: &[u8; 24] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";
/// `(` `type`: a node begins.
pub(super) const NODE_TYPE: &[u8; 32] =
    b"\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0type\0\0\0\0";
/// `)`: a node or an entry ends.
pub(super) const CLOSE: &[u8; 16] = b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";
/// `regular`.
pub(super) const REGULAR: &[u8; 16] = b"\x07\0\0\0\0\0\0\0regular\0";
/// `executable` and its value, the empty word.
pub(super) const EXECUTABLE: &[u8; 32] =
    b"\x0a\0\0\0\0\0\0\0executable\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
/// `contents`.
pub(super) const CONTENTS: &[u8; 16] = b"\x08\0\0\0\0\0\0\0contents";
/// `symlink`.
pub(super) const SYMLINK: &[u8; 16] = b"\x07\0\0\0\0\0\0\0symlink\0";
/// `target`.
pub(super) const TARGET: &[u8; 16] = b"\x06\0\0\0\0\0\0\0target\0\0";
/// `directory`.
pub(super) const DIRECTORY: &[u8; 24] = b"\x09\0\0\0\0\0\0\0directory\0\0\0\0\0\0\0";
/// `entry`.
pub(super) const ENTRY: &[u8; 16] = b"\x05\0\0\0\0\0\0\0entry\0\0\0";
/// `(` `name`: what follows `entry`.
pub(super) const ENTRY_NAME: &[u8; 32] =
    b"\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0name\0\0\0\0";
/// `node`.
pub(super) const NODE: &[u8; 16] = b"\x04\0\0\0\0\0\0\0node\0\0\0\0";

/// The zeros of which padding is cut.
const ZEROS: [u8; 7] = [0; 7];

/// Returns the zeros that follow a word of `length` bytes.
pub(super) fn padding(length: u64) -> &'static [u8] {
    let missing = match length % 8 {
        0 => 0,
        1 => 7,
        2 => 6,
        3 => 5,
        4 => 4,
        5 => 3,
        6 => 2,
        _ => 1,
    };
    ZEROS.get(..missing).unwrap_or_default()
}

/// Checks the name of a directory entry that follows the entry `previous`, empty for none.
pub(super) fn check_name(name: &[u8], previous: &[u8]) -> Result<(), &'static str> {
    if name.len() > super::MAX_NAME_LEN {
        return Err("a name is longer than 255 bytes");
    }
    if name.is_empty() || name == b"." || name == b".." {
        return Err("a name is empty, `.` or `..`");
    }
    if name.contains(&b'/') || name.contains(&0) {
        return Err("a name holds `/` or NUL");
    }
    if name <= previous {
        return Err("the names of a directory do not rise");
    }
    Ok(())
}

/// Checks the target of a symbolic link.
pub(super) fn check_target(target: &[u8]) -> Result<(), &'static str> {
    if target.is_empty() || target.len() > super::MAX_TARGET_LEN {
        return Err("the target of a symlink is empty or longer than 4095 bytes");
    }
    if target.contains(&0) {
        return Err("the target of a symlink holds NUL");
    }
    Ok(())
}
