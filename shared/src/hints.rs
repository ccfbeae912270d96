//! Hints beside a closure index: where each NAR is, and who vouches for it.
//!
//! Hints are never trusted and may change at any time. They save the requests for narinfos; what
//! they say is verified or ignored, so a line that cannot be read is skipped, not an error.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use crate::{
    closure::decimal,
    id::Digest,
    nix::{ContentAddress, Signature, StorePath, narinfo::Compression, store_path::is_hash_part},
};

/// Longest hints that are read, in bytes.
pub const MAX_LEN: usize = 64 * 1024 * 1024;

/// Most signatures, or places of one NAR, that are kept for a path.
const MAX_PER_PATH: usize = 16;

const MAGIC: &str = "shoal-hints 1";

/// What is said of the paths of one closure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    caches: BTreeMap<u32, String>,
    /// By hash part.
    paths: HashMap<Box<str>, PathHints>,
}

/// What is said of one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathHints {
    /// Where its NAR is.
    pub nars: Vec<NarHint>,
    /// Signatures of its fingerprint.
    pub signatures: Vec<Signature>,
    /// Its content address.
    pub content_address: Option<ContentAddress>,
    /// What built it.
    pub deriver: Option<StorePath>,
}

/// One place of a NAR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarHint {
    /// The cache's number in these hints.
    pub cache: u32,
    /// How the file is compressed.
    pub compression: Compression,
    /// Size of the file in bytes.
    pub file_size: u64,
    /// Where the file is, relative to the cache.
    pub url: String,
}

/// Why hints are of no use at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintsError {
    /// Longer than [`MAX_LEN`] or not UTF-8.
    #[error("hints are longer than {MAX_LEN} bytes or no UTF-8 text")]
    NotText,
    /// The first line is of another form or version.
    #[error("hints do not begin with `{MAGIC} <digest>`")]
    Header,
    /// They belong to another closure index.
    #[error("hints are for closure index {0}")]
    OtherIndex(Digest),
}

impl Hints {
    /// Reads the hints of the closure index with this digest.
    ///
    /// # Errors
    ///
    /// If they are no text, of another version, or for another index.
    pub fn parse(bytes: &[u8], index: Digest) -> Result<Self, HintsError> {
        let (digest, lines) = header(bytes)?;
        if digest != index {
            return Err(HintsError::OtherIndex(digest));
        }
        let mut hints = Self::default();
        for line in lines {
            // A line that says nothing we understand costs nothing but what it could have told.
            let _understood = hints.take_line(line);
        }
        Ok(hints)
    }

    /// Returns the digest of the closure index that hints say they are for.
    ///
    /// # Errors
    ///
    /// If they are no text or of another version.
    pub fn index_of(bytes: &[u8]) -> Result<Digest, HintsError> {
        header(bytes).map(|(digest, _)| digest)
    }

    /// Returns the caches by their number: URLs that the reader compares with those it may use.
    pub fn caches(&self) -> impl Iterator<Item = (u32, &str)> {
        self.caches.iter().map(|(number, url)| (*number, url.as_str()))
    }

    /// Returns the URL of a cache.
    #[must_use]
    pub fn cache(&self, number: u32) -> Option<&str> {
        self.caches.get(&number).map(String::as_str)
    }

    /// Says whether a cache is the one at `url`; a slash at the end makes no difference.
    #[must_use]
    pub fn is_at(&self, number: u32, url: &str) -> bool {
        self.cache(number).is_some_and(|known| same_cache(known, url))
    }

    /// Says whether the cache at `url` is one of these.
    #[must_use]
    pub fn names(&self, url: &str) -> bool {
        self.caches.values().any(|known| same_cache(known, url))
    }

    /// Returns what is said of a path.
    #[must_use]
    pub fn get(&self, path: &StorePath) -> Option<&PathHints> {
        self.paths.get(path.hash_part())
    }

    /// Returns what is said of a path, to add to it.
    pub fn entry(&mut self, path: &StorePath) -> &mut PathHints {
        self.paths.entry(path.hash_part().into()).or_default()
    }

    /// Adds a cache, and returns its number.
    pub fn add_cache(&mut self, url: &str) -> u32 {
        if let Some((number, _)) = self.caches.iter().find(|(_, known)| *known == url) {
            return *number;
        }
        let number = self.caches.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        self.caches.insert(number, url.to_owned());
        number
    }

    /// Writes the hints of the closure index with this digest, sorted.
    #[must_use]
    pub fn to_bytes(&self, index: Digest) -> Vec<u8> {
        let mut text = format!("{MAGIC} {index}\n");
        for (number, url) in &self.caches {
            push_line(&mut text, format_args!("cache {number} {url}"));
        }
        let sorted: BTreeMap<_, _> = self.paths.iter().collect();
        for (path, hints) in sorted {
            for NarHint { cache, compression, file_size, url } in &hints.nars {
                let compression = compression.name();
                push_line(
                    &mut text,
                    format_args!("nar {path} {cache} {compression} {file_size} {url}"),
                );
            }
            for signature in &hints.signatures {
                push_line(&mut text, format_args!("sig {path} {signature}"));
            }
            if let Some(address) = &hints.content_address {
                push_line(&mut text, format_args!("ca {path} {address}"));
            }
            if let Some(deriver) = &hints.deriver {
                push_line(&mut text, format_args!("deriver {path} {}", deriver.base_name()));
            }
        }
        text.into_bytes()
    }

    fn take_line(&mut self, line: &str) -> Option<()> {
        let (kind, rest) = line.split_once(' ')?;
        let (subject, value) = rest.split_once(' ')?;
        if kind == "cache" {
            let number = decimal(subject).and_then(|number| u32::try_from(number).ok())?;
            self.caches.entry(number).or_insert_with(|| value.to_owned());
            return Some(());
        }
        if !is_hash_part(subject) {
            return None;
        }
        let path = self.paths.entry(subject.into()).or_default();
        match kind {
            "nar" if path.nars.len() < MAX_PER_PATH => path.nars.push(NarHint::parse(value)?),
            "sig" if path.signatures.len() < MAX_PER_PATH => {
                path.signatures.push(Signature::parse(value).ok()?);
            }
            "ca" => path.content_address = Some(ContentAddress::parse(value).ok()?),
            "deriver" => path.deriver = Some(StorePath::from_base_name(value).ok()?),
            _ => return None,
        }
        Some(())
    }
}

impl NarHint {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (cache, compression, file_size, url, None) =
            (words.next()?, words.next()?, words.next()?, words.next()?, words.next())
        else {
            return None;
        };
        Some(Self {
            cache: decimal(cache).and_then(|number| u32::try_from(number).ok())?,
            compression: Compression::from_name(compression)?,
            file_size: decimal(file_size)?,
            url: is_relative(url).then(|| url.to_owned())?,
        })
    }
}

fn same_cache(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

/// Splits hints into the digest in their first line, and the other lines.
fn header(bytes: &[u8]) -> Result<(Digest, std::str::Lines<'_>), HintsError> {
    if bytes.len() > MAX_LEN {
        return Err(HintsError::NotText);
    }
    let mut lines = std::str::from_utf8(bytes).map_err(|_| HintsError::NotText)?.lines();
    let header = lines.next().and_then(|line| line.strip_prefix(MAGIC)?.strip_prefix(' '));
    let digest = header.and_then(|text| Digest::parse(text).ok()).ok_or(HintsError::Header)?;
    Ok((digest, lines))
}

/// Tells whether a URL stays below the cache that it is relative to.
fn is_relative(url: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\\#:%".contains(&byte);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..");
    url.len() <= 1024 && url.bytes().all(plain) && url.split('/').all(segment)
}

fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0a455acx720hx0zfwn0q7gn8y2jrvllr";
    const B: &str = "1a455acx720hx0zfwn0q7gn8y2jrvllr";

    fn golden() -> String {
        format!(
            "shoal-hints 1 {}\n\
             cache 0 https://cache.example\n\
             cache 1 https://other.example/x\n\
             nar {A} 0 zstd 1234 nar/abc.nar.zst\n\
             nar {A} 1 xz 999 nar/abc.nar.xz\n\
             sig {A} cache.example-1:AAAA\n\
             deriver {A} {B}-web.drv\n\
             nar {B} 0 none 5 nar/def.nar\n\
             ca {B} fixed:r:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73\n",
            Digest([7; 32])
        )
    }

    fn path(hash_part: &str) -> StorePath {
        StorePath::from_base_name(&format!("{hash_part}-x")).unwrap()
    }

    #[test]
    fn reads_and_writes_the_same_bytes() {
        let hints = Hints::parse(golden().as_bytes(), Digest([7; 32])).unwrap();
        assert_eq!(String::from_utf8(hints.to_bytes(Digest([7; 32]))).unwrap(), golden());
        assert_eq!(hints.cache(1), Some("https://other.example/x"));
        let of_a = hints.get(&path(A)).unwrap();
        assert_eq!((of_a.nars.len(), of_a.signatures.len()), (2, 1));
        assert!(hints.get(&path(B)).unwrap().content_address.is_some());
    }

    #[test]
    fn skips_lines_that_it_cannot_read() {
        let bad = [
            "",
            "nar",
            "cache x https://a",
            "nar short 0 xz 1 nar/x",
            &format!("nar {A} 0 rar 1 nar/x"),
            &format!("nar {A} 0 xz -1 nar/x"),
            &format!("nar {A} 0 xz 1 ../x"),
            &format!("nar {A} 0 xz 1 /etc/x"),
            &format!("nar {A} 0 xz 1 https://evil/x"),
            &format!("nar {A} 0 xz 1 nar/%2e%2e/x"),
            &format!("nar {A} 0 xz 1 nar/x y"),
            &format!("sig {A} nocolon"),
            &format!("ca {A} nonsense"),
            &format!("deriver {A} /etc/passwd"),
            &format!("future {A} x"),
        ];
        let text = format!("shoal-hints 1 {}\n{}\n", Digest([7; 32]), bad.join("\n"));
        let hints = Hints::parse(text.as_bytes(), Digest([7; 32])).unwrap();
        assert_eq!(hints.caches().count(), 0);
        assert!(hints.paths.values().all(|path| *path == PathHints::default()));
    }

    #[test]
    fn refuses_hints_for_another_index_or_version() {
        let other = Hints::parse(golden().as_bytes(), Digest([8; 32]));
        assert_eq!(other, Err(HintsError::OtherIndex(Digest([7; 32]))));
        for text in ["", "shoal-hints 2 x\n", "shoal-hints 1\n", "\n"] {
            assert_eq!(Hints::parse(text.as_bytes(), Digest([7; 32])), Err(HintsError::Header));
        }
    }

    #[test]
    fn a_cache_is_added_once() {
        let mut hints = Hints::default();
        assert_eq!((hints.add_cache("a"), hints.add_cache("b"), hints.add_cache("a")), (0, 1, 0));
    }
}
