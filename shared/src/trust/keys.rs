//! Ed25519 keys as TUF writes them.

use std::{cmp::Ordering, fmt};

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signer as _, Verifier as _};
use serde_json::{Value, json};

use crate::nix::Sha256;

/// The eight points of small order, as they are written.
const WEAK_POINTS: [[u8; 32]; 8] = [
    ends(0x00, 0x00),
    ends(0x00, 0x80),
    ends(0x01, 0x00),
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x85,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0xfa,
    ],
];

/// Returns bytes that begin and end so, with zeros between.
const fn ends(first: u8, last: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Why a text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("`{0}` is not a public key of 64 lower-case hexadecimal digits")]
    Hex(String),
    /// The digits name no point of the curve, or one of the few that verify anything.
    #[error("`{0}` is not a usable Ed25519 key")]
    Point(String),
}

/// A key's name in metadata: the SHA-256 of its canonical TUF object, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Returns the hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first 8 digits, by which people are told of a key.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }

    /// Names a key as some metadata declared it, where rules allow any name.
    pub(super) fn declared(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ed25519 public key; prints as 64 hexadecimal digits.
///
/// Holds the point that the bytes name, so that it is not computed anew for each signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Takes 32 raw bytes.
    ///
    /// # Errors
    /// When they are no point of the curve, or a weak one.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        match ed25519_dalek::VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(key)),
            Ok(_) | Err(_) => Err(KeyError::Point(HEXLOWER.encode(&bytes))),
        }
    }

    /// Parses 64 lower-case hexadecimal digits.
    ///
    /// # Errors
    /// When they are something else, or no usable key.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        Self::from_bytes(bytes.ok_or_else(|| KeyError::Hex(text.to_owned()))?)
    }

    /// Returns the raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(self.as_bytes())
    }

    /// Returns the key's name in metadata.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        // The canonical form of `to_tuf`: members sorted, nothing between them.
        let canonical =
            format!(r#"{{"keytype":"ed25519","keyval":{{"public":"{self}"}},"scheme":"ed25519"}}"#);
        KeyId(Sha256::of(canonical.as_bytes()).to_hex())
    }

    /// Returns the object that stands for this key in metadata.
    #[must_use]
    pub fn to_tuf(&self) -> Value {
        json!({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": self.to_hex()}})
    }

    /// Tells whether `signature` is this key's over `message`, by the strict rules that leave
    /// one valid signature form.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let signature = ed25519_dalek::Signature::from_slice(signature);
        // What `verify_strict` says, for a tenth less: the equation holds only for a commitment that is
        // spelled as points are, so its few weak ones are known by their bytes, and none is computed.
        // A key that is weak itself is no `PublicKey`.
        signature.is_ok_and(|signature| {
            !WEAK_POINTS.contains(signature.r_bytes()) && self.0.verify(message, &signature).is_ok()
        })
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An Ed25519 private key; never prints itself, and is wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes the key of 32 random bytes, which the caller drew.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Returns the seed, for a key file.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey of {}", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_is_the_hash_of_the_canonical_key() {
        let key = SigningKey::from_seed(&[7; 32]).public();
        let canonical =
            sigstore_tuf::canonical_json::to_canonical_bytes(&key.to_tuf()).expect("canonical");
        assert_eq!(key.key_id().as_str(), Sha256::of(&canonical).to_hex());
        let parsed: sigstore_tuf::Key = serde_json::from_value(key.to_tuf()).expect("a TUF key");
        assert_eq!(parsed.key_id().expect("an id"), key.key_id().as_str());
    }

    #[test]
    fn a_signature_is_of_one_key_over_one_message() {
        let (ours, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let signature = ours.sign(b"fish");
        assert!(ours.public().verifies(b"fish", &signature));
        assert!(!ours.public().verifies(b"fisH", &signature));
        assert!(!other.public().verifies(b"fish", &signature));
        assert!(!ours.public().verifies(b"fish", &signature[..63]));
    }

    #[test]
    fn verifies_what_the_strict_rules_verify_and_nothing_else() {
        let key = SigningKey::from_seed(&[1; 32]).public();
        let strictly = |signature: &[u8]| {
            let signature = ed25519_dalek::Signature::from_slice(signature).expect("64 bytes");
            key.0.verify_strict(b"fish", &signature).is_ok()
        };
        // Whoever has the key can make one whose commitment is the neutral point: the equation holds.
        let neutral = format!(
            "01{}e8879da0863543025ad7f1fb4eebedeb9600953bab99d0a2f8053a2f7f3b1f09",
            "0".repeat(62)
        );
        let neutral = HEXLOWER.decode(neutral.as_bytes()).expect("hexadecimal");
        let parsed = ed25519_dalek::Signature::from_slice(&neutral).expect("64 bytes");
        assert!(key.0.verify(b"fish", &parsed).is_ok(), "it holds");
        assert!(!strictly(&neutral) && !key.verifies(b"fish", &neutral), "and is refused");

        let good = SigningKey::from_seed(&[1; 32]).sign(b"fish");
        assert!(strictly(&good) && key.verifies(b"fish", &good));
        for at in 0..good.len() * 8 {
            let mut bad = good;
            bad[at / 8] ^= 1 << (at % 8);
            assert!(!strictly(&bad) && !key.verifies(b"fish", &bad), "bit {at}");
        }
        for weak in WEAK_POINTS {
            let known = ed25519_dalek::VerifyingKey::from_bytes(&weak).expect("a point");
            assert!(known.is_weak(), "{weak:x?}");
            let mut bad = good;
            bad[..32].copy_from_slice(&weak);
            assert!(!strictly(&bad) && !key.verifies(b"fish", &bad), "{weak:x?}");
        }
        let all: std::collections::BTreeSet<_> = WEAK_POINTS.into_iter().collect();
        assert_eq!(all.len(), 8, "the torsion of the curve has eight points");
    }

    #[test]
    fn refuses_weak_points_and_other_spellings() {
        let weak = format!("01{}", "0".repeat(62));
        let upper = SigningKey::from_seed(&[1; 32]).public().to_hex().to_uppercase();
        for text in ["", "00", &weak, &upper] {
            assert!(PublicKey::from_hex(text).is_err(), "{text}");
        }
    }
}
