//! Room on a file system: what is free, what a closure takes, and what must stay free.
//!
//! Only arithmetic; [`crate::disk`] asks the file system. Everything saturates: what cannot be
//! counted is treated as more than there is, never as nothing.

use std::fmt;

use shared::human;

/// NAR bytes for which one inode is allowed. Closures of nixpkgs have one in 20 KiB; ext4 makes
/// one for 16 KiB unless told otherwise, so that there both run out together.
const NAR_PER_INODE: u64 = 16 * 1024;
/// What a path adds to Nix's database and its log: its row, and the pages of the indexes that its
/// row and its references touch, each written once to the log and once to the tables.
const DATABASE_PER_PATH: u64 = 16 * 1024;
/// A temporary root: the path and its end.
const TEMP_ROOT: u64 = 256;
/// What a guard keeps clear of a floor: pieces that other threads were granted and have not yet
/// written, and the file system's own maps of what is written.
const MARGIN: Space = Space { bytes: 1024 * 1024, inodes: 16 };
/// Inodes that stay free where bytes must, or a hundredth of all if that is less: a host without
/// them cannot make a single file.
const MIN_FREE_INODES: u64 = 1000;
/// Most that a guard grants before it asks the file system again; somebody else may fill it.
const GRANT: Space = Space { bytes: 1024 * 1024, inodes: 256 };

/// An amount of room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Inodes, of which every file, directory and symlink takes one.
    pub inodes: u64,
}

impl Space {
    /// More than there ever is: what a file system has that knows no limit.
    pub const UNLIMITED: Self = Self { bytes: u64::MAX, inodes: u64::MAX };

    /// Adds both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }

    /// Takes `other` away, as far as there is something.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            inodes: self.inodes.saturating_sub(other.inodes),
        }
    }

    /// Returns whether there is as much as `other` of both.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.bytes >= other.bytes && self.inodes >= other.inodes
    }

    fn at_most(self, other: Self) -> Self {
        Self { bytes: self.bytes.min(other.bytes), inodes: self.inodes.min(other.inodes) }
    }

    /// Reads what `statvfs(2)` says, for whoever is not root.
    ///
    /// Blocks that are reserved for root do not count, also for root: they are what keeps the
    /// machine itself going. A file system that counts no blocks or no inodes has no limit.
    #[must_use]
    pub(crate) const fn of_statvfs(stat: &Statvfs) -> Self {
        let bytes = stat.available_blocks.saturating_mul(stat.block_size);
        Self {
            bytes: if stat.blocks == 0 { u64::MAX } else { bytes },
            inodes: if stat.inodes == 0 { u64::MAX } else { stat.available_inodes },
        }
    }
}

/// Told as `1.0 MiB and 3 inodes`; without inodes where they have no limit.
impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", human::size(self.bytes))?;
        let inodes = usize::try_from(self.inodes).unwrap_or(usize::MAX);
        if self.inodes == u64::MAX {
            return Ok(());
        }
        write!(f, " and {}", human::count(inodes, "inode"))
    }
}

/// The fields of `statvfs(2)` that matter here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Statvfs {
    /// `f_frsize`
    pub(crate) block_size: u64,
    /// `f_blocks`
    pub(crate) blocks: u64,
    /// `f_bavail`
    pub(crate) available_blocks: u64,
    /// `f_files`
    pub(crate) inodes: u64,
    /// `f_favail`
    pub(crate) available_inodes: u64,
}

/// What a substitution takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// In the store directory: trees and locks.
    pub(crate) store: Space,
    /// In Nix's state directory: database and temporary roots.
    pub(crate) state: Space,
}

/// Estimates what `paths` with these NARs take, on a file system with blocks of this size.
///
/// A closure pins the sizes of NARs, not how many files are in them. A NAR spends some 200 bytes on
/// each, the disk half a block on average.
pub(crate) fn needs(paths: usize, nar_size: u64, block_size: u64) -> Needs {
    let paths = u64::try_from(paths).unwrap_or(u64::MAX);
    let inodes = paths.saturating_add(nar_size / NAR_PER_INODE);
    let rounding = inodes.saturating_mul(block_size / 2);
    let state = paths.saturating_mul(DATABASE_PER_PATH + TEMP_ROOT);
    Needs {
        store: Space {
            bytes: nar_size.saturating_add(rounding),
            // While a path is under way it has a lock beside it.
            inodes: inodes.saturating_add(paths),
        },
        // The file of temporary roots, the log of the database and its index.
        state: Space { bytes: state, inodes: 3 },
    }
}

/// What must stay free, and what a guard that sees to it grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Floor {
    /// What the operator wants to stay free.
    min_free: Space,
    /// What is still to be written by others than those whom the guard knows.
    promised: Space,
}

impl Floor {
    /// Makes a floor of so many bytes, on a file system of so many inodes; none at all for 0.
    pub(crate) fn new(min_free: u64, inodes: u64) -> Self {
        let inodes = if min_free == 0 { 0 } else { MIN_FREE_INODES.min(inodes / 100) };
        Self { min_free: Space { bytes: min_free, inodes }, promised: Space::default() }
    }

    /// Keeps this clear as well.
    pub(crate) const fn promising(self, promised: Space) -> Self {
        Self { promised, ..self }
    }

    /// Returns whether there is a floor.
    pub(crate) const fn exists(self) -> bool {
        self.min_free.bytes > 0
    }

    fn margin(self) -> Space {
        if self.exists() { MARGIN } else { Space::default() }
    }

    /// Checks that `needed` fits into what is `free`, and leaves the floor.
    ///
    /// What passes here is granted later, if nobody else writes.
    pub(crate) fn check(self, free: Space, needed: Space) -> Result<(), Lack> {
        // Twice: a guard is asked for a whole block where half of one is used.
        self.check_exactly(free, needed.plus(self.margin()).plus(self.margin()))
    }

    fn check_exactly(self, free: Space, needed: Space) -> Result<(), Lack> {
        let needed = needed.plus(self.promised);
        let lack = Lack { needed, min_free: self.min_free, free };
        if lack.missing() == Space::default() { Ok(()) } else { Err(lack) }
    }

    /// Returns how much may be written before the file system is asked again, at least `wanted`.
    pub(crate) fn grant(self, free: Space, wanted: Space) -> Result<Space, Lack> {
        self.check_exactly(free, wanted.plus(self.margin()))?;
        let kept = self.min_free.plus(self.promised).plus(self.margin());
        let above = free.minus(kept);
        // Near the floor it is asked more often.
        let share = Space { bytes: above.bytes / 4, inodes: above.inodes / 4 };
        let granted = share.at_most(GRANT);
        Ok(Space {
            bytes: granted.bytes.max(wanted.bytes),
            inodes: granted.inodes.max(wanted.inodes),
        })
    }
}

/// Room that a file system lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    /// What is needed, on top of what must stay free.
    pub needed: Space,
    /// What must stay free.
    pub min_free: Space,
    /// What is free.
    pub free: Space,
}

impl Lack {
    /// Returns what has to be freed so that it fits.
    #[must_use]
    pub fn missing(&self) -> Space {
        let wanted = self.needed.plus(self.min_free);
        wanted.minus(self.free)
    }
}

/// Told in one line: what is needed, what must stay free, what is free, what is missing.
impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.missing();
        let bytes = |bytes: u64| human::size(bytes);
        let inodes = |inodes: u64| format!("{inodes} inodes");
        let (needed, min_free, free, missing) = if missing.bytes > 0 {
            let all = [self.needed, self.min_free, self.free, missing];
            all.map(|space| bytes(space.bytes)).into()
        } else {
            let all = [self.needed, self.min_free, self.free, missing];
            all.map(|space| inodes(space.inodes)).into()
        };
        write!(f, "{needed} are needed")?;
        if self.min_free != Space::default() {
            write!(f, ", {min_free} must stay free")?;
        }
        write!(f, ", {free} are free: {missing} are missing")
    }
}

impl std::error::Error for Lack {}

#[cfg(test)]
mod tests;
