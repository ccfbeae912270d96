//! The closure index: every store path that a root needs, with NAR hash, size and references.
//!
//! A manifest names an index by the SHA-256 of its bytes, so 32 bytes commit to a whole closure.
//! There is exactly one way to write a closure down; whatever differs from it is refused.

use std::{collections::BTreeMap, fmt};

use crate::{
    hints::{Hints, HintsError},
    id::Digest,
    nix::{
        PathInfo, STORE_DIR, Sha256, StorePath,
        store_path::{self, StorePathError},
    },
};

/// Longest index that is read, in bytes.
pub const MAX_LEN: usize = 32 * 1024 * 1024;

/// Most paths in one closure.
pub const MAX_PATHS: usize = 250_000;

/// First word of the file, and the version of the format.
const MAGIC: &str = "shoal-closure 1";

/// A closure, complete in itself: every reference is in it, every path is reachable from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosureIndex {
    root: StorePath,
    nar_size: u64,
    /// In the order of their base names.
    records: Vec<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    path: StorePath,
    nar_hash: Sha256,
    nar_size: u64,
    /// Places in `records`, rising.
    references: Box<[u32]>,
}

/// One path of a closure.
#[derive(Clone, Copy)]
pub struct ClosureEntry<'a> {
    index: &'a ClosureIndex,
    record: &'a Record,
}

/// Why bytes are no closure index, or paths no closure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosureError {
    /// Longer than [`MAX_LEN`], not UTF-8, or without the final line feed.
    #[error("closure index is longer than {MAX_LEN} bytes, no UTF-8 text, or cut off")]
    NotText,
    /// The first line is of another form or version.
    #[error("closure index does not begin with `{MAGIC} {STORE_DIR} <paths> <size> <root>`")]
    Header,
    /// A line that is not of the form of a path.
    #[error("closure index line {0} is not `<base name> <narHash> <narSize> <references>`")]
    Line(usize),
    /// A store path that is none.
    #[error("closure index line {line} names no store path")]
    Path {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: StorePathError,
    },
    /// A line, or a reference within a line, out of order or repeated.
    #[error("closure index line {0} is not sorted, or repeats a path")]
    Order(usize),
    /// Number of paths or sum of sizes is not what the header says, or beyond the limits.
    #[error(
        "closure has {paths} paths of {nar_size} bytes, which its first line or a limit denies"
    )]
    Totals {
        /// Number of paths.
        paths: usize,
        /// Sum of their NAR sizes.
        nar_size: u64,
    },
    /// A path refers to one that the closure does not hold.
    #[error("`{path}` refers to `{reference}`, which the closure does not hold")]
    NotClosed {
        /// The path.
        path: StorePath,
        /// What it refers to: a hash part.
        reference: String,
    },
    /// The root is not in the closure.
    #[error("the closure does not hold its own root `{0}`")]
    NoRoot(StorePath),
    /// A path that the root does not need.
    #[error("`{0}` is not reachable from the closure's root")]
    Unreachable(StorePath),
    /// The bytes are not those that the digest names.
    #[error("closure index has digest {actual} where {expected} was wanted")]
    Digest {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
}

impl ClosureIndex {
    /// Parses an index.
    ///
    /// # Errors
    ///
    /// If one byte differs from what [`Self::to_bytes`] writes for the closure, or it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, ClosureError> {
        if bytes.len() > MAX_LEN {
            return Err(ClosureError::NotText);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ClosureError::NotText)?;
        let text = text.strip_suffix('\n').ok_or(ClosureError::NotText)?;
        let mut lines = text.split('\n');
        let header = Header::parse(lines.next().unwrap_or_default())?;
        // The header is a claim: memory is reserved for no more than could be in these bytes.
        let capacity = header.paths.min(bytes.len() / MIN_LINE_LEN);
        let mut drafts = Vec::with_capacity(capacity);
        for (line, number) in lines.zip(2..) {
            drafts.push(Draft::parse(line, number)?);
            if drafts.len() > MAX_PATHS {
                return Err(ClosureError::Totals { paths: drafts.len(), nar_size: 0 });
            }
        }
        let index = Self::link(header.root, drafts)?;
        if (index.len(), index.nar_size) != (header.paths, header.nar_size) {
            let totals = ClosureError::Totals { paths: index.len(), nar_size: index.nar_size };
            return Err(totals);
        }
        Ok(index)
    }

    /// Parses an index that was asked for by its digest.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], and if the bytes have another digest.
    pub fn parse_named(bytes: &[u8], expected: Digest) -> Result<Self, ClosureError> {
        let actual = Digest::of(bytes);
        if actual != expected {
            return Err(ClosureError::Digest { expected, actual });
        }
        Self::parse(bytes)
    }

    /// Makes the index of a root from everything that it needs.
    ///
    /// # Errors
    ///
    /// If the paths are not exactly the closure of the root, or beyond the limits.
    pub fn from_paths<'a>(
        root: &StorePath,
        paths: impl IntoIterator<Item = &'a PathInfo>,
    ) -> Result<Self, ClosureError> {
        let sorted: BTreeMap<_, _> =
            paths.into_iter().map(|info| (&info.path, Draft::from(info))).collect();
        Self::link(root.clone(), sorted.into_values().collect())
    }

    /// Returns the path that everything else is there for.
    #[must_use]
    pub const fn root(&self) -> &StorePath {
        &self.root
    }

    /// Returns the number of paths, which is never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a closure holds at least its root")]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Returns the sum of the NAR sizes in bytes.
    #[must_use]
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// Returns the digest that names this index.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// Returns all paths in the order of their base names.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = ClosureEntry<'_>> {
        self.records.iter().map(|record| ClosureEntry { index: self, record })
    }

    /// Returns what the closure says of a path, if it holds it.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> Option<ClosureEntry<'_>> {
        let record = self.records.get(self.place(path)?)?;
        Some(ClosureEntry { index: self, record })
    }

    /// Returns the path with this hash part, if the closure holds it.
    #[must_use]
    pub fn by_hash_part(&self, hash_part: &str) -> Option<ClosureEntry<'_>> {
        let find = |record: &Record| record.path.hash_part().cmp(hash_part);
        let at = self.records.binary_search_by(find).ok()?;
        self.records.get(at).map(|record| ClosureEntry { index: self, record })
    }

    /// Writes the index, in the only form there is.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }

    fn link(root: StorePath, drafts: Vec<Draft<'_>>) -> Result<Self, ClosureError> {
        let unsorted = drafts.array_windows().position(|[a, b]| a.hash_part() >= b.hash_part());
        if let Some(at) = unsorted {
            return Err(ClosureError::Order(at + 3));
        }
        let references: Vec<Box<[u32]>> =
            drafts.iter().map(|draft| draft.link(&drafts)).collect::<Result<_, _>>()?;
        let mut nar_size = 0_u64;
        let mut records = Vec::with_capacity(drafts.len());
        for (draft, references) in drafts.into_iter().zip(references) {
            nar_size = nar_size.saturating_add(draft.nar_size);
            let Draft { path, nar_hash, nar_size, .. } = draft;
            records.push(Record { path, nar_hash, nar_size, references });
        }
        if records.len() > MAX_PATHS || nar_size > i64::MAX.unsigned_abs() {
            return Err(ClosureError::Totals { paths: records.len(), nar_size });
        }
        let index = Self { root, nar_size, records };
        index.check_reachable()?;
        Ok(index)
    }

    fn place(&self, path: &StorePath) -> Option<usize> {
        self.records.binary_search_by(|record| record.path.cmp(path)).ok()
    }

    fn check_reachable(&self) -> Result<(), ClosureError> {
        let root = self.place(&self.root).ok_or_else(|| ClosureError::NoRoot(self.root.clone()))?;
        let mut seen = vec![false; self.records.len()];
        let mut waiting = vec![root];
        while let Some(at) = waiting.pop() {
            let (Some(seen), Some(record)) = (seen.get_mut(at), self.records.get(at)) else {
                continue;
            };
            if !std::mem::replace(seen, true) {
                waiting.extend(record.references.iter().map(|at| *at as usize));
            }
        }
        match seen.iter().zip(&self.records).find(|(seen, _)| !**seen) {
            Some((_, record)) => Err(ClosureError::Unreachable(record.path.clone())),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ClosureIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root().base_name();
        writeln!(f, "{MAGIC} {STORE_DIR} {} {} {root}", self.len(), self.nar_size)?;
        for entry in self.entries() {
            let hash = entry.nar_hash().to_base32();
            write!(f, "{} {hash} {} ", entry.path().base_name(), entry.nar_size())?;
            let mut separator = "";
            for reference in entry.references() {
                write!(f, "{separator}{}", reference.hash_part())?;
                separator = ",";
            }
            f.write_str(if separator.is_empty() { "-\n" } else { "\n" })?;
        }
        Ok(())
    }
}

impl<'a> ClosureEntry<'a> {
    /// Returns the store path.
    #[must_use]
    pub fn path(&self) -> &'a StorePath {
        &self.record.path
    }

    /// Returns the hash of its NAR.
    #[must_use]
    pub fn nar_hash(&self) -> Sha256 {
        self.record.nar_hash
    }

    /// Returns the size of its NAR in bytes.
    #[must_use]
    pub fn nar_size(&self) -> u64 {
        self.record.nar_size
    }

    /// Returns what it refers to, itself too if it does, sorted.
    pub fn references(&self) -> impl Iterator<Item = &'a StorePath> + use<'a> {
        let records = &self.index.records;
        let find = |at: &u32| records.get(*at as usize).map(|record| &record.path);
        self.record.references.iter().filter_map(find)
    }
}

impl fmt::Debug for ClosureEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.path(), f)
    }
}

/// Splits what `registry closure-index` prints: an index, and behind an empty line hints or none.
///
/// # Errors
///
/// If the index is none. Hints that cannot be read are an inner error, which costs nothing but
/// what they could have told.
pub fn read_with_hints(
    bytes: &[u8],
) -> Result<(ClosureIndex, Option<Result<Hints, HintsError>>), ClosureError> {
    let end = bytes.array_windows().position(|pair| pair == b"\n\n");
    let (index, hints) = match end {
        Some(at) => bytes.split_at_checked(at + 1).unwrap_or((bytes, &[])),
        None => (bytes, &[][..]),
    };
    let parsed = ClosureIndex::parse(index)?;
    let hints = hints.strip_prefix(b"\n").filter(|hints| !hints.is_empty());
    Ok((parsed, hints.map(|hints| Hints::parse(hints, Digest::of(index)))))
}

/// Shortest possible line of a path, its line feed included.
const MIN_LINE_LEN: usize = store_path::HASH_PART_LEN + 2 + 1 + 52 + 1 + 1 + 1 + 1 + 1;

struct Header {
    paths: usize,
    nar_size: u64,
    root: StorePath,
}

impl Header {
    fn parse(line: &str) -> Result<Self, ClosureError> {
        let rest = line.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(' '));
        let mut words = rest.ok_or(ClosureError::Header)?.split(' ');
        let (Some(STORE_DIR), Some(paths), Some(nar_size), Some(root), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(ClosureError::Header);
        };
        let paths = decimal(paths).and_then(|paths| usize::try_from(paths).ok());
        let root = StorePath::from_base_name(root)
            .map_err(|source| ClosureError::Path { line: 1, source })?;
        Ok(Self {
            paths: paths.ok_or(ClosureError::Header)?,
            nar_size: decimal(nar_size).ok_or(ClosureError::Header)?,
            root,
        })
    }
}

/// A path whose references are not yet looked up.
struct Draft<'a> {
    path: StorePath,
    nar_hash: Sha256,
    nar_size: u64,
    /// Hash parts, sorted.
    references: Vec<&'a str>,
}

impl<'a> Draft<'a> {
    fn parse(line: &'a str, number: usize) -> Result<Self, ClosureError> {
        let mut words = line.split(' ');
        let (Some(base_name), Some(nar_hash), Some(nar_size), Some(references), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return Err(ClosureError::Line(number));
        };
        let path = StorePath::from_base_name(base_name)
            .map_err(|source| ClosureError::Path { line: number, source })?;
        let nar_hash = Sha256::from_base32(nar_hash).map_err(|_| ClosureError::Line(number))?;
        let nar_size = decimal(nar_size).ok_or(ClosureError::Line(number))?;
        let references: Vec<&str> =
            if references == "-" { Vec::new() } else { references.split(',').collect() };
        if !references.iter().all(|reference| store_path::is_hash_part(reference)) {
            return Err(ClosureError::Line(number));
        }
        if !references.is_sorted_by(|a, b| a < b) {
            return Err(ClosureError::Order(number));
        }
        Ok(Self { path, nar_hash, nar_size, references })
    }

    fn hash_part(&self) -> &str {
        self.path.hash_part()
    }

    fn link(&self, drafts: &[Draft<'_>]) -> Result<Box<[u32]>, ClosureError> {
        let find = |reference: &&str| {
            let found = drafts.binary_search_by(|draft| draft.hash_part().cmp(reference)).ok();
            found.and_then(|at| u32::try_from(at).ok()).ok_or_else(|| ClosureError::NotClosed {
                path: self.path.clone(),
                reference: (*reference).to_owned(),
            })
        };
        self.references.iter().map(find).collect()
    }
}

impl<'a> From<&'a PathInfo> for Draft<'a> {
    fn from(info: &'a PathInfo) -> Self {
        Self {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.iter().map(StorePath::hash_part).collect(),
        }
    }
}

/// Parses a decimal number without sign or leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading = text.len() > 1 && text.starts_with('0');
    if plain && !leading { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
