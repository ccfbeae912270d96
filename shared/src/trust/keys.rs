//! Ed25519 keys as TUF writes them.

use std::{cmp::Ordering, fmt};

use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use serde_json::{Value, json};

use crate::nix::Sha256;

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
        signature.is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
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
    fn refuses_weak_points_and_other_spellings() {
        let weak = format!("01{}", "0".repeat(62));
        let upper = SigningKey::from_seed(&[1; 32]).public().to_hex().to_uppercase();
        for text in ["", "00", &weak, &upper] {
            assert!(PublicKey::from_hex(text).is_err(), "{text}");
        }
    }
}
