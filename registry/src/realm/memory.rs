//! Files of a realm that were read before, in memory for as long as the disk has them unchanged.
//!
//! A fleet asks for the same few files all at once. What is remembered is held against the file
//! each time that it is asked for, by one `stat`: whoever replaces a file, by whatever means, is
//! served the new one from then on. Files are replaced as a whole here, so none is ever read half.

use std::{
    collections::HashMap,
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::Tag;
use crate::blobs::{Blobs, Change, FileName};

/// Most bytes of files of one realm that are remembered.
const MOST: usize = 32 << 20;

/// The longest file that is remembered, in bytes.
const LONGEST: usize = 1 << 20;

/// What a file costs beside its bytes, about.
const OVERHEAD: usize = 512;

/// A file as it was read.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) bytes: Bytes,
    pub(crate) tag: Tag,
    pub(crate) change: Change,
    path: PathBuf,
    stamp: Stamp,
}

/// What tells a file from the same one at another time, or another one of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Takes what the system says of a file.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Files by their names below `/r/<realm>/`.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Generations>);

/// What is asked for again moves to the young; what was not, goes with the old.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Arc<Remembered>>,
    old: HashMap<String, Arc<Remembered>>,
    /// Of the young.
    bytes: usize,
}

impl Memory {
    /// Returns a file that is on the disk as it was when it was read.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Remembered>> {
        let found = self.lock().find(name)?;
        let unchanged =
            std::fs::metadata(&found.path).is_ok_and(|it| Stamp::of(&it) == found.stamp);
        if unchanged {
            return Some(found);
        }
        self.lock().forget(name);
        None
    }

    /// Reads a file from the disk, and remembers it.
    pub(crate) fn read(
        &self,
        blobs: &Blobs,
        name: &FileName,
    ) -> io::Result<Option<Arc<Remembered>>> {
        let Some((bytes, stamp)) = blobs.read_stamped(name)? else { return Ok(None) };
        let tag = name.digest().map_or_else(|| Tag::of_bytes(&bytes), Tag::of_digest);
        let (bytes, change, path) = (Bytes::from(bytes), name.change(), blobs.file(name));
        let found = Arc::new(Remembered { bytes, tag, change, path, stamp });
        // A file that grows while it is read is no file of ours.
        let whole = found.bytes.len() as u64 == stamp.size;
        if whole && found.bytes.len() <= LONGEST {
            self.lock().put(name.path(), Arc::clone(&found));
        }
        Ok(Some(found))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // What a panic left are still files as they were read.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn find(&mut self, name: &str) -> Option<Arc<Remembered>> {
        if let Some(found) = self.young.get(name) {
            return Some(Arc::clone(found));
        }
        let (name, found) = self.old.remove_entry(name)?;
        self.put(name, Arc::clone(&found));
        Some(found)
    }

    fn put(&mut self, name: String, file: Arc<Remembered>) {
        self.old.remove(&name);
        let cost = file.bytes.len() + OVERHEAD;
        if self.bytes + cost > MOST / 2 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += cost;
        if let Some(before) = self.young.insert(name, file) {
            self.bytes = self.bytes.saturating_sub(before.bytes.len() + OVERHEAD);
        }
    }

    fn forget(&mut self, name: &str) {
        self.old.remove(name);
        if let Some(before) = self.young.remove(name) {
            self.bytes = self.bytes.saturating_sub(before.bytes.len() + OVERHEAD);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use shared::id::Digest;

    use super::*;

    /// Its folder goes with it.
    struct Folder(#[expect(dead_code, reason = "it is held")] tempfile::TempDir, Blobs, Memory);

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::new(folder.path().join("r/main"));
            Self(folder, blobs, Memory::default())
        }

        fn read(&self, name: &FileName) -> Arc<Remembered> {
            self.2.read(&self.1, name).unwrap().unwrap()
        }

        fn get(&self, name: &FileName) -> Option<Bytes> {
            self.2.get(&name.path()).map(|found| found.bytes.clone())
        }
    }

    #[test]
    fn a_file_is_remembered_until_it_is_replaced_changed_or_removed() {
        let folder = Folder::new();
        let name = FileName::Hints(Digest([1; 32]));
        assert!(folder.2.read(&folder.1, &name).unwrap().is_none());
        folder.1.write(&name, b"one").unwrap();
        assert_eq!(folder.get(&name), None);
        let first = folder.read(&name).tag.clone();
        assert_eq!(folder.get(&name).unwrap(), "one");
        folder.1.write(&name, b"two").unwrap();
        assert_eq!(folder.get(&name), None);
        assert_ne!(folder.read(&name).tag, first);
        assert_eq!(folder.get(&name).unwrap(), "two");
        // As no program of ours does it.
        fs::write(folder.1.file(&name), b"three").unwrap();
        assert_eq!(folder.get(&name), None);
        folder.read(&name);
        folder.1.remove(&name).unwrap();
        assert_eq!(folder.get(&name), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_asked_for_stays() {
        let folder = Folder::new();
        let often = FileName::metadata(1, "root");
        folder.1.write(&often, b"{}").unwrap();
        folder.read(&often);
        let long = vec![b'x'; LONGEST];
        for number in 0..100u8 {
            let name = FileName::Hints(Digest([number; 32]));
            folder.1.write(&name, &long).unwrap();
            folder.read(&name);
            assert_eq!(folder.get(&often).unwrap(), "{}", "{number}");
            let kept = folder.2.lock();
            let bytes = |files: &HashMap<String, Arc<Remembered>>| -> usize {
                files.values().map(|file| file.bytes.len() + OVERHEAD).sum()
            };
            assert!(bytes(&kept.young) + bytes(&kept.old) <= MOST, "after {number}");
            assert_eq!(kept.bytes, bytes(&kept.young));
        }
        assert_eq!(folder.get(&FileName::Hints(Digest([0; 32]))), None);
        let longer = FileName::Hints(Digest([200; 32]));
        folder.1.write(&longer, &vec![b'x'; LONGEST + 1]).unwrap();
        assert_eq!(folder.read(&longer).bytes.len(), LONGEST + 1);
        assert_eq!(folder.get(&longer), None);
    }
}
