//! Disk images with ext4 on them, without being root.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
};

use crate::{run, tool};

const MIB: u64 = 1024 * 1024;

/// Makes an image of `size` bytes with ext4 on it that holds a copy of `folder`.
///
/// # Panics
/// When that fails.
pub fn make(image: &Path, size: u64, folder: Option<&Path>) {
    File::create(image).and_then(|file| file.set_len(size)).expect("a place for the image");
    let mut mke2fs = tool("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", "root_owner=0:0"]);
    if let Some(folder) = folder {
        mke2fs.arg("-d").arg(folder);
    }
    run(mke2fs.arg(image).arg(format!("{}k", size / 1024))).ok();
}

/// Returns how large an image must be for a copy of `folder`.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn size_for(folder: &Path) -> u64 {
    // Holes take no room, so there may be plenty.
    (used(folder) * 5 / 4).next_multiple_of(MIB) + 32 * MIB
}

fn used(path: &Path) -> u64 {
    let found = path.symlink_metadata().expect("it is ours");
    let inside = |path: &Path| {
        fs::read_dir(path).expect("it is ours").map(|it| used(&it.expect("readable").path())).sum()
    };
    let inside: u64 = if found.is_dir() { inside(path) } else { 0 };
    found.size().next_multiple_of(4096) + inside
}

/// Copies an image; where it is empty, the copy takes no room.
///
/// # Panics
/// When a file cannot be read or written.
pub fn copy(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).expect("an image"), File::create(to).expect("a place"));
    let length = from.metadata().expect("an image").len();
    to.set_len(length).expect("a place");
    let mut piece = vec![0; 64 * 1024];
    let mut at = 0;
    while at < length {
        let read = from.read_at(&mut piece, at).expect("an image");
        let piece = piece.split_at(read).0;
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, at).expect("a place");
        }
        at += read as u64;
    }
}

/// Does what the kernel does at the mount after a power cut, and checks the file system.
///
/// # Panics
/// When it is damaged beyond what its journal mends: no such disk should have been left.
#[track_caller]
pub fn recover(image: &Path) {
    let checked = run(tool("e2fsck").args(["-f", "-p"]).arg(image));
    assert!(matches!(checked.code, Some(0 | 1)), "{checked}");
}

/// Copies all that is on the image into `folder`.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn extract(image: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("it is ours");
    let request = format!("rdump / {}", folder.to_str().expect("a plain path"));
    run(tool("debugfs").args(["-R", &request]).arg(image)).ok();
}
