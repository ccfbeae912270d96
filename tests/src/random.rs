//! Chance that can be had again: a story that rolls dice says its seed, and takes it back.

use std::{
    io::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

/// A source of numbers that depend on nothing but a seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Takes the seed from `SHOAL_SEED`, or from the clock, and prints it for when `story` fails.
    ///
    /// # Panics
    /// When `SHOAL_SEED` is no number.
    #[must_use]
    pub fn new(story: &str) -> Self {
        let seed = match std::env::var("SHOAL_SEED") {
            Ok(seed) => seed.parse().expect("SHOAL_SEED is a number"),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |time| time.as_secs() ^ u64::from(time.subsec_nanos())),
        };
        let line = format!("{story}: SHOAL_SEED={seed}\n");
        drop(std::io::stderr().write_all(line.as_bytes()));
        Self(seed)
    }

    /// Starts with a seed, for one round of many; [`new`](Self::new) has the seed of the first.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the seed, as long as no number was taken.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.0
    }

    /// Returns the next number (SplitMix64).
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which must not be 0.
    ///
    /// # Panics
    /// When it is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// Returns whether it happens that happens once in `times`.
    pub const fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Picks one.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let index = self.below(from.len() as u64);
        from.get(usize::try_from(index).unwrap_or(0)).expect("one to pick")
    }

    /// Brings them into any order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for index in (1..all.len()).rev() {
            let other = usize::try_from(self.below(index as u64 + 1)).unwrap_or(0);
            all.swap(index, other);
        }
    }

    /// Returns so many bytes that no compressor makes smaller.
    #[must_use]
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.number().to_le_bytes());
        words.flatten().take(length).collect()
    }
}
