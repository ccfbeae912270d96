//! Hashes in every textual form that Nix accepts.
//!
//! [`Sha256`] is the hash of NARs and of everything that Shoal itself names by content; [`struct@Hash`]
//! carries any algorithm, as content addresses may.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::Digest as _;

use super::base32;

/// An algorithm that Nix knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// 16 bytes; broken, read only.
    Md5,
    /// 20 bytes; broken, read only.
    Sha1,
    /// 32 bytes; what Nix uses throughout.
    Sha256,
    /// 64 bytes.
    Sha512,
    /// 32 bytes; new in Nix 2.27.
    Blake3,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512, Self::Blake3];

    /// Returns the name that Nix writes before the hash.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    const fn len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// Why a string is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Neither `algo:` nor `algo-` at the start.
    #[error("hash `{0}` does not name its algorithm")]
    NoAlgorithm(String),
    /// An algorithm that Nix does not know, or not the one that is needed here.
    #[error("hash algorithm `{0}` is not accepted here")]
    Algorithm(String),
    /// No textual form of this algorithm has this length.
    #[error("`{text}` is not a {algorithm} hash: wrong length", algorithm = .algorithm.name())]
    Length {
        /// The algorithm.
        algorithm: Algorithm,
        /// What stood behind its name.
        text: String,
    },
    /// The right length, but characters of no such encoding.
    #[error("`{text}` is not a {algorithm} hash: bad character or bit", algorithm = .algorithm.name())]
    Encoding {
        /// The algorithm.
        algorithm: Algorithm,
        /// What stood behind its name.
        text: String,
    },
}

/// A hash with its algorithm; prints as `algo:` and base 32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Hash {
    /// Parses `algo:` followed by base 16, base 32 or base 64 (told apart by length), or the SRI
    /// form `algo-base64`.
    ///
    /// # Errors
    /// When the algorithm is missing or unknown, or what follows is no hash of it.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let at = text.find([':', '-']).ok_or_else(|| HashError::NoAlgorithm(text.to_owned()))?;
        let (name, rest) = text.split_at(at);
        let (separator, rest) = rest.split_at(1);
        let algorithm =
            Algorithm::from_name(name).ok_or_else(|| HashError::Algorithm(name.to_owned()))?;
        match separator {
            ":" => Self::parse_digits(algorithm, rest),
            _ => Self::parse_base64(algorithm, rest),
        }
    }

    fn parse_digits(algorithm: Algorithm, text: &str) -> Result<Self, HashError> {
        let length = algorithm.len();
        let encoding = || HashError::Encoding { algorithm, text: text.to_owned() };
        let bytes = if text.len() == length * 2 {
            HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| encoding())?
        } else if text.len() == base32::encoded_len(length) {
            let decoded = match algorithm {
                Algorithm::Md5 => base32::decode::<16>(text.as_bytes()).map(Vec::from),
                Algorithm::Sha1 => base32::decode::<20>(text.as_bytes()).map(Vec::from),
                Algorithm::Sha256 | Algorithm::Blake3 => {
                    base32::decode::<32>(text.as_bytes()).map(Vec::from)
                }
                Algorithm::Sha512 => base32::decode::<64>(text.as_bytes()).map(Vec::from),
            };
            decoded.map_err(|_| encoding())?
        } else {
            return Self::parse_base64(algorithm, text);
        };
        Ok(Self { algorithm, bytes })
    }

    fn parse_base64(algorithm: Algorithm, text: &str) -> Result<Self, HashError> {
        if text.len() != algorithm.len().div_ceil(3) * 4 {
            return Err(HashError::Length { algorithm, text: text.to_owned() });
        }
        match BASE64.decode(text.as_bytes()) {
            Ok(bytes) if bytes.len() == algorithm.len() => Ok(Self { algorithm, bytes }),
            Ok(_) | Err(_) => Err(HashError::Encoding { algorithm, text: text.to_owned() }),
        }
    }

    /// Returns the algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the lower-case base 16 of the bytes, without the algorithm.
    #[must_use]
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.bytes)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), base32::encode(&self.bytes))
    }
}

impl From<Sha256> for Hash {
    fn from(Sha256(bytes): Sha256) -> Self {
        Self { algorithm: Algorithm::Sha256, bytes: bytes.to_vec() }
    }
}

/// A SHA-256; prints as Nix writes it in a narinfo, `sha256:` and base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Parses any form that [`Hash::parse`] takes.
    ///
    /// # Errors
    /// When it is no hash, or one of another algorithm.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        Self::try_from(Hash::parse(text)?)
    }

    /// Parses 64 lower-case hexadecimal digits without a prefix, as in our file names.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// Parses 52 base-32 digits without a prefix, as in a closure index.
    ///
    /// # Errors
    /// When they are no base 32 of 32 bytes.
    pub fn from_base32(text: &str) -> Result<Self, base32::Base32Error> {
        base32::decode(text.as_bytes()).map(Self)
    }

    /// Returns 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Returns 52 base-32 digits without a prefix.
    #[must_use]
    pub fn to_base32(&self) -> String {
        base32::encode(&self.0)
    }
}

impl TryFrom<Hash> for Sha256 {
    type Error = HashError;

    fn try_from(hash: Hash) -> Result<Self, HashError> {
        let name = hash.algorithm.name();
        match <[u8; 32]>::try_from(hash.bytes) {
            Ok(bytes) if hash.algorithm == Algorithm::Sha256 => Ok(Self(bytes)),
            Ok(_) | Err(_) => Err(HashError::Algorithm(name.to_owned())),
        }
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_base32())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Computes a [`struct@Hash`] of any algorithm, piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// See [`Algorithm::Md5`].
    Md5(md5::Md5),
    /// See [`Algorithm::Sha1`].
    Sha1(sha1::Sha1),
    /// See [`Algorithm::Sha256`].
    Sha256(sha2::Sha256),
    /// See [`Algorithm::Sha512`].
    Sha512(sha2::Sha512),
    /// See [`Algorithm::Blake3`].
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Starts a hash.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Md5 => Self::Md5(md5::Md5::new()),
            Algorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(state) => state.update(bytes),
            Self::Sha1(state) => state.update(bytes),
            Self::Sha256(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
            Self::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Ends the hash.
    #[must_use]
    pub fn finish(self) -> Hash {
        let (algorithm, bytes) = match self {
            Self::Md5(state) => (Algorithm::Md5, state.finalize().to_vec()),
            Self::Sha1(state) => (Algorithm::Sha1, state.finalize().to_vec()),
            Self::Sha256(state) => (Algorithm::Sha256, state.finalize().to_vec()),
            Self::Sha512(state) => (Algorithm::Sha512, state.finalize().to_vec()),
            Self::Blake3(state) => (Algorithm::Blake3, state.finalize().as_bytes().to_vec()),
        };
        Hash { algorithm, bytes }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_textual_forms_mean_the_same_hash() {
        let hash = Sha256::of(b"");
        for text in [
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(Sha256::parse(text), Ok(hash), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_sha256() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256-0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256--47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256:-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha257:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "blake3:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
        ] {
            assert!(Sha256::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_algorithm_hashes_and_parses_its_own_output() {
        for algorithm in Algorithm::ALL {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"sho");
            hasher.update(b"al");
            let hash = hasher.finish();
            assert_eq!(hash.algorithm(), algorithm);
            assert_eq!(Hash::parse(&hash.to_string()), Ok(hash.clone()));
            let hex = format!("{}:{}", algorithm.name(), hash.to_hex());
            assert_eq!(Hash::parse(&hex), Ok(hash));
        }
    }
}
