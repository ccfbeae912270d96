//! Content addresses: how a store path can vouch for itself.
//!
//! A path with a content address needs no signature, provided that the path recomputed from the
//! address is the one asked for *and* the contents have the address. [`ContentAddress::store_path`]
//! is the first half, [`ContentHasher`] the second. The hash of self-referring contents follows
//! Nix 2.17 and later.

use std::{collections::BTreeSet, fmt};

use super::{
    hash::{Algorithm, Hash, HashError, Hasher, Sha256},
    store_path::{HASH_PART_LEN, STORE_DIR, StorePath, StorePathError},
};

/// What of the contents is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A text file that may refer to other paths; SHA-256 only.
    Text,
    /// The bytes of a single file.
    Flat,
    /// The NAR.
    Recursive,
}

/// The `CA` field of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentAddress {
    /// What is hashed.
    pub method: Method,
    /// Its hash.
    pub hash: Hash,
}

/// Why a content address is refused, or does not lead to the path that claims it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentAddressError {
    /// Neither `text:…` nor `fixed:…`, or a method that is not supported.
    #[error("content address `{0}` is not supported")]
    Form(String),
    /// The hash is unreadable.
    #[error("content address `{text}` holds no hash")]
    Hash {
        /// The whole address.
        text: String,
        /// What is wrong with the hash.
        source: HashError,
    },
    /// Only `text` and `fixed:r:sha256` addresses may have references, and `text` none to itself.
    #[error("a path with content address `{0}` cannot have these references")]
    References(String),
    /// The name is refused.
    #[error("cannot name a content-addressed path")]
    Name(#[from] StorePathError),
}

impl ContentAddress {
    /// Parses `text:sha256:…` or `fixed:[r:]algo:…`.
    ///
    /// # Errors
    /// When the method or hash is none of these.
    pub fn parse(text: &str) -> Result<Self, ContentAddressError> {
        let form = || ContentAddressError::Form(text.to_owned());
        let (method, hash) = match text.split_once(':').ok_or_else(form)? {
            ("text", hash) => (Method::Text, hash),
            ("fixed", hash) => match hash.strip_prefix("r:") {
                Some(hash) => (Method::Recursive, hash),
                None => (Method::Flat, hash),
            },
            _ => return Err(form()),
        };
        if hash.starts_with("git:") {
            return Err(form());
        }
        let hash = Hash::parse(hash)
            .map_err(|source| ContentAddressError::Hash { text: text.to_owned(), source })?;
        if method == Method::Text && hash.algorithm() != Algorithm::Sha256 {
            return Err(form());
        }
        Ok(Self { method, hash })
    }

    /// Recomputes the store path of contents with this address.
    ///
    /// # Errors
    /// When such an address cannot have these references, or the name is refused.
    pub fn store_path(
        &self,
        name: &str,
        references: &BTreeSet<StorePath>,
        self_reference: SelfReference,
    ) -> Result<StorePath, ContentAddressError> {
        let refused = || ContentAddressError::References(self.to_string());
        let refers_to_itself = self_reference == SelfReference::Yes;
        let hex = self.hash.to_hex();
        let sha256 = self.hash.algorithm() == Algorithm::Sha256;
        let (kind, inner) = match self.method {
            Method::Text if refers_to_itself => return Err(refused()),
            Method::Text => (with_references("text", references), hex),
            Method::Recursive if sha256 => {
                let mut kind = with_references("source", references);
                if refers_to_itself {
                    kind.push_str(":self");
                }
                (kind, hex)
            }
            Method::Flat | Method::Recursive => {
                if refers_to_itself || !references.is_empty() {
                    return Err(refused());
                }
                let recursive = if self.method == Method::Recursive { "r:" } else { "" };
                let algorithm = self.hash.algorithm().name();
                let inner = format!("fixed:out:{recursive}{algorithm}:{hex}:");
                ("output:out".to_owned(), Sha256::of(inner.as_bytes()).to_hex())
            }
        };
        let text = format!("{kind}:sha256:{inner}:{STORE_DIR}:{name}");
        Ok(StorePath::from_digest(&Sha256::of(text.as_bytes()), name)?)
    }
}

/// Whether contents refer to their own path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfReference {
    /// They hold their own hash part.
    Yes,
    /// They do not.
    No,
}

fn with_references(kind: &str, references: &BTreeSet<StorePath>) -> String {
    references.iter().fold(kind.to_owned(), |text, path| format!("{text}:{path}"))
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Text => "text:",
            Method::Flat => "fixed:",
            Method::Recursive => "fixed:r:",
        };
        write!(f, "{method}{}", self.hash)
    }
}

/// Computes the hash that a content address holds, while the contents stream by.
///
/// Feed every byte of the NAR to [`Self::nar`] and every byte of file contents to
/// [`Self::contents`]; what the method does not need is ignored. That flat and text contents are
/// one single file has to be seen by the caller, in the NAR.
#[derive(Debug)]
pub struct ContentHasher {
    hasher: Hasher,
    source: Source,
}

#[derive(Debug)]
enum Source {
    File,
    Nar,
    /// The NAR with every occurrence of `hash_part` replaced by NULs. The last bytes are held
    /// back in `pending` as long as they may begin an occurrence.
    NarModuloSelf {
        hash_part: Vec<u8>,
        pending: Vec<u8>,
    },
}

impl ContentHasher {
    /// Starts the hash that `address` asks for.
    ///
    /// `own` is the path itself, given if it refers to itself.
    #[must_use]
    pub fn new(address: &ContentAddress, own: Option<&StorePath>) -> Self {
        let source = match (address.method, own) {
            (Method::Text | Method::Flat, _) => Source::File,
            (Method::Recursive, None) => Source::Nar,
            (Method::Recursive, Some(path)) => Source::NarModuloSelf {
                hash_part: path.hash_part().as_bytes().to_vec(),
                pending: Vec::new(),
            },
        };
        Self { hasher: Hasher::new(address.hash.algorithm()), source }
    }

    /// Takes the next bytes of the NAR.
    pub fn nar(&mut self, bytes: &[u8]) {
        match &mut self.source {
            Source::File => {}
            Source::Nar => self.hasher.update(bytes),
            Source::NarModuloSelf { hash_part, pending } => {
                pending.extend_from_slice(bytes);
                blank(pending, hash_part);
                let ready = pending.len().saturating_sub(HASH_PART_LEN - 1);
                let kept = pending.split_off(ready);
                self.hasher.update(pending);
                *pending = kept;
            }
        }
    }

    /// Takes the next bytes of file contents.
    pub fn contents(&mut self, bytes: &[u8]) {
        if matches!(self.source, Source::File) {
            self.hasher.update(bytes);
        }
    }

    /// Ends the hash.
    #[must_use]
    pub fn finish(mut self) -> Hash {
        if let Source::NarModuloSelf { pending, .. } = &self.source {
            self.hasher.update(pending);
        }
        self.hasher.finish()
    }
}

/// Overwrites every occurrence of `needle` by NULs.
fn blank(bytes: &mut [u8], needle: &[u8]) {
    let found: Vec<usize> = bytes
        .windows(needle.len())
        .enumerate()
        .filter_map(|(at, window)| (window == needle).then_some(at))
        .collect();
    for at in found {
        if let Some(occurrence) = bytes.get_mut(at..at + needle.len()) {
            occurrence.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_what_nix_writes() {
        let digits = "1fidk8cppdqfbdis3hi1k4ca6sxqpv79lmdc21hgiff6pxq68c4b";
        for text in [
            format!("text:sha256:{digits}"),
            format!("fixed:sha256:{digits}"),
            format!("fixed:r:sha256:{digits}"),
        ] {
            assert_eq!(ContentAddress::parse(&text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "text",
            "text:",
            "nonsense:sha256:x",
            "fixed:r:",
            "text:md5:d41d8cd98f00b204e9800998ecf8427e",
            &format!("fixed:git:sha256:{digits}"),
        ] {
            assert!(ContentAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_self_reference_cut_by_a_chunk_border_is_blanked() {
        let own = StorePath::from_base_name("9a455acx720hx0zfwn0q7gn8y2jrvllr-x").unwrap();
        let nar = format!("aaaa{}bbbb{}", own.hash_part(), own.hash_part());
        let blanked = nar.replace(own.hash_part(), &"\0".repeat(HASH_PART_LEN));
        let address = ContentAddress {
            method: Method::Recursive,
            hash: Sha256::of(blanked.as_bytes()).into(),
        };
        for size in 1..nar.len() {
            let mut hasher = ContentHasher::new(&address, Some(&own));
            nar.as_bytes().chunks(size).for_each(|chunk| hasher.nar(chunk));
            assert_eq!(hasher.finish(), address.hash, "chunks of {size}");
        }
    }
}
