//! The fixtures with damage, the same damage in each run: never a panic, and what is still
//! accepted means exactly what stands there.

use shared::nix::NarInfo;

use super::{
    support::{bytes, count, names},
    tree::Tree,
};

/// A small generator of numbers that are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// Damages `bytes` in one of the ways that find faults in parsers.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const LENGTHS: [u64; 8] = [0, 1, 32, 33, 255, 1 << 40, 1 << 63, u64::MAX];
        let at = self.below(bytes.len().max(1));
        match self.below(7) {
            _ if bytes.is_empty() => bytes.push(self.byte()),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, self.byte()),
            4 => {
                bytes.remove(at);
            }
            5 => {
                let from = self.below(bytes.len());
                let piece = bytes[from..bytes.len().min(from + 64)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let at = at / 8 * 8;
                let end = bytes.len().min(at + 8);
                bytes.splice(at..end, LENGTHS[self.below(LENGTHS.len())].to_le_bytes());
            }
        }
    }
}

/// Calls `check` with each of the files, `times` damaged.
fn each_damaged(files: impl IntoIterator<Item = String>, times: u32, check: impl Fn(&[u8])) {
    for name in files {
        let intact = bytes(&name);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ intact.len() as u64);
        for _ in 0..times {
            let mut damaged = intact.clone();
            for _ in 0..=numbers.below(3) {
                numbers.damage(&mut damaged);
            }
            check(&damaged);
        }
    }
}

#[test]
fn a_damaged_archive_is_refused_or_read_as_it_stands() {
    let files = names("nar", ".nar").into_iter().chain(names("nar-hostile", ".nar"));
    each_damaged(files, count(200), |damaged| {
        if let Ok((tree, rest)) = Tree::read(damaged) {
            let taken = damaged.strip_suffix(rest).unwrap();
            assert!(tree.to_nar(usize::MAX).unwrap() == taken);
        }
    });
}

#[test]
fn a_damaged_narinfo_is_refused_or_read_as_it_stands() {
    let files = ["narinfo", "cache-xz", "cache-ca"].map(|folder| names(folder, ".narinfo"));
    each_damaged(files.into_iter().flatten(), count(200), |damaged| {
        if let Ok(mut narinfo) = NarInfo::parse(damaged) {
            let again = NarInfo::parse(narinfo.to_string().as_bytes());
            narinfo.info.signatures.sort();
            narinfo.info.signatures.dedup();
            assert_eq!(again, Ok(narinfo));
        }
    });
}
