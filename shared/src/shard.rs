//! Shards: where the entries of a manifest are that has too many for one file.
//!
//! Each host belongs to one shard, by the first bits of the SHA-256 of its name, and fetches that
//! one alone. A shard is a file named by its own digest, which the manifest pins; it holds, in the
//! order of the manifest, every entry that could be for a host of the shard.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, HostName},
    json::{self, JsonError},
    manifest::{Entry, Manifest, ManifestError, Selector},
};

/// Longest shard that is read, in bytes.
pub const MAX_LEN: usize = 64 * 1024;

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Most bits that [`split`] uses: a manifest has room for as many digests.
const MOST_BITS: u8 = 9;

/// No entry is shorter than this, in bytes: its closure and its path alone have 96.
const LEAST_ENTRY: usize = 96;

/// Files that hold the entries, by the first bits of the SHA-256 of the host's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shards {
    /// How many bits.
    pub bits: u8,
    /// 2^bits digests.
    pub digests: Vec<Digest>,
}

/// The entries that could be for a host of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// [`FORMAT`].
    format: u32,
    /// Tried in order; the first match wins. Empty where no host of the shard has one.
    pub entries: Vec<Entry>,
}

/// What of a shard is read first, whatever else it holds.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Why bytes are no shard of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Others than the manifest pins.
    #[error("its digest is {actual}, not {pinned}")]
    OtherBytes {
        /// The digest in the manifest.
        pinned: Digest,
        /// That of the bytes.
        actual: Digest,
    },
    /// Too long, no JSON, an unknown or missing key, a value of another type.
    #[error("the shard is not of its form")]
    Json(#[from] JsonError),
    /// Of another format.
    #[error("the shard has format {0}, this program reads format {FORMAT}")]
    Format(u32),
    /// An entry that is for no host of this shard, or of an empty closure.
    #[error("the shard says of entry {number}: {problem}")]
    Entry {
        /// Its place, from 1.
        number: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Entries that are in another order in another shard.
    #[error("two shards have the same entries in another order")]
    Order,
    /// Entries that do not fit into as many shards as a manifest can name.
    #[error("more entries than fit into 2^{MOST_BITS} shards of {MAX_LEN} bytes each")]
    TooMany,
}

/// Why a manifest cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// It contradicts itself, or is too long without its entries as well.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It has too many entries.
    #[error("the manifest does not fit into its shards")]
    Shards(#[from] ShardError),
}

impl ShardError {
    /// Tells whether a newer program could read it: reason `unsupported`.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Format(_))
    }
}

impl Shards {
    /// Returns which shard a host belongs to.
    #[must_use]
    pub fn index_of(&self, host: &HostName) -> usize {
        place(mark(host), self.bits)
    }

    /// Returns the digest of the shard that a host belongs to; none only of what is incomplete.
    #[must_use]
    pub fn digest_of(&self, host: &HostName) -> Option<Digest> {
        self.digests.get(self.index_of(host)).copied()
    }

    /// Reads the shard at `index`, and checks that it is the one that is pinned.
    ///
    /// # Errors
    /// If the bytes are others, of another format, or hold what does not belong there.
    pub fn read(&self, index: usize, bytes: &[u8]) -> Result<Shard, ShardError> {
        let actual = Digest::of(bytes);
        match self.digests.get(index) {
            Some(pinned) if *pinned == actual => {}
            pinned => {
                let pinned = pinned.copied().unwrap_or(Digest([0; 32]));
                return Err(ShardError::OtherBytes { pinned, actual });
            }
        }
        // First and leniently, so that one from the future is refused as such.
        let Head { format } = json::read(bytes, MAX_LEN)?;
        if format != FORMAT {
            return Err(ShardError::Format(format));
        }
        let shard: Shard = json::read(bytes, MAX_LEN)?;
        for (number, entry) in (1..).zip(&shard.entries) {
            if let Some(problem) = entry.problem() {
                return Err(ShardError::Entry { number, problem });
            }
            let hosts = &entry.selector.hosts;
            if !hosts.is_empty() && !hosts.iter().any(|host| self.index_of(host) == index) {
                let problem = "it names no host of this shard";
                return Err(ShardError::Entry { number, problem });
            }
        }
        Ok(shard)
    }

    /// Tells whether there are as many digests as shards.
    pub(crate) fn is_complete(&self) -> bool {
        let expected = 1_usize.checked_shl(u32::from(self.bits));
        (1..=16).contains(&self.bits) && expected == Some(self.digests.len())
    }
}

/// Splits entries into as few shards as hold them; returns their files as well, in their order.
///
/// # Errors
/// If there are more than a manifest can name shards for.
pub fn split(entries: &[Entry]) -> Result<(Shards, Vec<Vec<u8>>), ShardError> {
    let json = |value: &Written<'_>| {
        serde_json::to_vec(value).map_err(|error| JsonError::Invalid(error.to_string()))
    };
    let marks: Vec<Vec<u16>> =
        entries.iter().map(|entry| entry.selector.hosts.iter().map(mark).collect()).collect();
    for bits in 1..=MOST_BITS {
        let mut shards = vec![Written { format: FORMAT, entries: Vec::new() }; 1 << bits];
        for (entry, marks) in entries.iter().zip(&marks) {
            let mut places: Vec<usize> = marks.iter().map(|mark| place(*mark, bits)).collect();
            places.sort_unstable();
            places.dedup();
            if marks.is_empty() {
                places.extend(0..shards.len());
            }
            for place in places {
                if let Some(shard) = shards.get_mut(place) {
                    shard.entries.push(entry);
                }
            }
        }
        // What is far too large needs no writing to be known as such.
        if shards.iter().any(|shard| shard.entries.len() > MAX_LEN / LEAST_ENTRY) {
            continue;
        }
        let files: Vec<Vec<u8>> = shards.iter().map(json).collect::<Result<_, _>>()?;
        if files.iter().all(|file| file.len() <= MAX_LEN) {
            let digests = files.iter().map(|file| Digest::of(file)).collect();
            return Ok((Shards { bits, digests }, files));
        }
    }
    Err(ShardError::TooMany)
}

/// Moves the entries of a manifest into shards if it is too long with them; returns the files of
/// the shards as well.
///
/// # Errors
/// If it contradicts itself, or has more entries than a manifest can name shards for.
pub fn fit(mut manifest: Manifest) -> Result<(Manifest, Vec<Vec<u8>>), FitError> {
    match manifest.to_bytes() {
        Ok(_) => return Ok((manifest, Vec::new())),
        Err(ManifestError::Json(JsonError::TooLong { .. })) if manifest.shards.is_none() => {}
        Err(error) => return Err(error.into()),
    }
    let (shards, files) = split(&manifest.entries)?;
    manifest.entries.clear();
    manifest.shards = Some(shards);
    manifest.to_bytes()?;
    Ok((manifest, files))
}

/// Puts the entries of all shards of a manifest together again.
///
/// The order is one in which every shard has its own, so that each host finds the same; of entries
/// for the very same hosts in one shard the first is left, the only one that could ever match.
///
/// # Errors
/// If there is no such order.
pub fn join(shards: Vec<Shard>) -> Result<Vec<Entry>, ShardError> {
    let mut queues: Vec<Vec<Entry>> = Vec::new();
    let mut copies: HashMap<Selector, usize> = HashMap::new();
    for shard in shards {
        let mut queue: Vec<Entry> = Vec::new();
        let mut seen = HashMap::new();
        for entry in shard.entries {
            if seen.insert(entry.selector.clone(), ()).is_none() {
                *copies.entry(entry.selector.clone()).or_default() += 1;
                queue.push(entry);
            }
        }
        // Taken from the end.
        queue.reverse();
        queues.push(queue);
    }
    // An entry is next once it is the next one of every shard that has it.
    let mut heads: HashMap<Selector, Vec<usize>> = HashMap::new();
    let mut moved: Vec<usize> = (0..queues.len()).rev().collect();
    let mut joined = Vec::new();
    while let Some(index) = moved.pop() {
        let Some(entry) = queues.get(index).and_then(|queue| queue.last()) else { continue };
        let at = heads.entry(entry.selector.clone()).or_default();
        at.push(index);
        if copies.get(&entry.selector) == Some(&at.len()) {
            let mut at = heads.remove(&entry.selector).unwrap_or_default();
            at.sort_unstable_by(|a, b| b.cmp(a));
            let taken = at.iter().filter_map(|index| queues.get_mut(*index)?.pop());
            joined.extend(taken.last());
            moved.extend(at);
        }
    }
    if joined.len() < copies.len() { Err(ShardError::Order) } else { Ok(joined) }
}

/// A [`Shard`] as it is written.
#[derive(Clone, Serialize)]
struct Written<'a> {
    format: u32,
    entries: Vec<&'a Entry>,
}

/// Returns the first 16 bits of the SHA-256 of a host's name.
fn mark(host: &HostName) -> u16 {
    let [a, b, ..] = Digest::of(host.as_str().as_bytes()).0;
    u16::from_be_bytes([a, b])
}

/// Returns the shard of a mark; no more than 16 bits are looked at.
fn place(mark: u16, bits: u8) -> usize {
    usize::from(mark) >> 16_u8.saturating_sub(bits)
}

#[cfg(test)]
mod tests;
