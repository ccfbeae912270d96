//! What a disk was asked to do, and what it may hold when its power goes in the middle of it.
//!
//! A disk may keep writes in a cache, and lose any of them that came after the last flush, in any
//! order. So from the log of one run follows what it may hold at every moment of the run.
//!
//! The log is what qemu's `blklogwrites` writes, in the form of Linux's `dm-log-writes`.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use crate::{Random, guest::disk};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;
/// What a disk writes as a whole: each of these survives or is lost by itself.
const BLOCK: usize = 4096;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// The log of one run.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where on the disk, in bytes.
    offset: u64,
    length: u64,
    flags: u64,
    /// Where its data lie in the log.
    data: u64,
}

/// What becomes of the writes that came after the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Each block is kept or lost, by this chance in percent.
    Kept(u64),
    /// The same, and no flush ever did anything: a disk that lies. No program can survive that.
    Lying(u64),
}

impl WriteLog {
    /// Reads a log that is complete.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).expect("qemu has written it");
        let word = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).expect("the log is complete");
            u64::from_le_bytes(bytes)
        };
        assert_eq!((word(0), word(8)), (MAGIC, 1), "{} is no log", path.display());
        let mut entries = Vec::new();
        let mut at = SECTOR;
        for _ in 0..word(16) {
            let flags = word(at + 16);
            assert_eq!(flags & DISCARD, 0, "a discard says nothing of what is there afterwards");
            let (offset, length) = (word(at) * SECTOR, word(at + 8) * SECTOR);
            entries.push(Entry { offset, length, flags, data: at + SECTOR });
            at += SECTOR + length;
        }
        Self { file, entries }
    }

    /// Returns the number of entries, writes and flushes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of flushes.
    #[must_use]
    pub fn flushes(&self) -> usize {
        self.entries.iter().filter(|entry| entry.flags & FLUSH != 0).count()
    }

    /// Returns what was written from byte `offset` on, each with the number of its entry.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn written_from(&self, offset: u64) -> Vec<(usize, Vec<u8>)> {
        let late = self.entries.iter().enumerate().filter(|(_, entry)| entry.offset >= offset);
        late.filter(|(_, e)| e.length > 0).map(|(number, e)| (number, self.data(e))).collect()
    }

    /// Makes at `into` what a disk may hold that held `base`, and lost power before entry `end`.
    ///
    /// # Panics
    /// When a file cannot be read or written.
    pub fn cut(&self, base: &Path, end: usize, cache: Cache, random: &mut Random, into: &Path) {
        disk::copy(base, into);
        let image = OpenOptions::new().write(true).open(into).expect("it is ours");
        let before = self.entries.get(..end).expect("the log is that long");
        let flushed = |entry: &Entry| entry.flags & FLUSH != 0;
        let (safe, chance) = match cache {
            Cache::Kept(chance) => (before.iter().rposition(flushed).unwrap_or(0), chance),
            Cache::Lying(chance) => (0, chance),
        };
        for (number, entry) in before.iter().enumerate() {
            let data = self.data(entry);
            for (block, at) in data.chunks(BLOCK).zip((entry.offset..).step_by(BLOCK)) {
                let kept =
                    number < safe || entry.flags & FUA != 0 && !matches!(cache, Cache::Lying(_));
                if kept || random.below(100) < chance {
                    image.write_all_at(block, at).expect("it is ours");
                }
            }
        }
    }

    fn data(&self, entry: &Entry) -> Vec<u8> {
        let mut data = vec![0; usize::try_from(entry.length).expect("a write is small")];
        self.file.read_exact_at(&mut data, entry.data).expect("the log is complete");
        data
    }
}
