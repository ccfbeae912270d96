//! Keys of binary caches and the signatures they make.
//!
//! These keys vouch for the contents of store paths. They are not the keys of [`crate::trust`],
//! which vouch for what a host should run.

use std::{collections::BTreeMap, fmt};

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

/// Why a string is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `name:base64`.
    #[error("key is not of the form `name:base64`")]
    Form,
    /// The part behind the colon has the wrong length or is not base 64.
    #[error("key `{name}` does not hold {expected} bytes in base 64")]
    Bytes {
        /// The key's name.
        name: String,
        /// How many bytes such a key has.
        expected: usize,
    },
    /// The bytes are no Ed25519 key, or the public half is not that of the secret half.
    #[error("key `{name}` is no valid Ed25519 key")]
    Invalid {
        /// The key's name.
        name: String,
    },
}

/// Splits `name:value` at the first colon; both halves must be there.
fn split_named(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

fn key_bytes<const N: usize>(text: &str) -> Result<(&str, [u8; N]), KeyError> {
    let (name, value) = split_named(text.trim()).ok_or(KeyError::Form)?;
    let bytes = BASE64.decode(value.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes.ok_or_else(|| KeyError::Bytes { name: name.to_owned(), expected: N })?;
    Ok((name, bytes))
}

/// A named public key, `name:base64(32 bytes)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Parses the text form; surrounding white space is allowed.
    ///
    /// # Errors
    /// When it is not `name:base64` of an Ed25519 public key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = key_bytes::<32>(text)?;
        let key = VerifyingKey::from_bytes(&bytes)
            .map_err(|_| KeyError::Invalid { name: name.to_owned() })?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// Returns the name that signatures of this key carry.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// A named secret key, `name:base64(seed and public key)`; never printed.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// Parses the text form; surrounding white space is allowed.
    ///
    /// # Errors
    /// When it is not `name:base64` of an Ed25519 key pair.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = key_bytes::<64>(text)?;
        let key = SigningKey::from_keypair_bytes(&bytes)
            .map_err(|_| KeyError::Invalid { name: name.to_owned() })?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// Makes a key from its 32 secret bytes.
    ///
    /// # Errors
    /// When the name is empty or holds a colon.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        if name.is_empty() || name.contains(':') {
            return Err(KeyError::Form);
        }
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Returns the text form that Nix reads: this is the secret itself.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&self.key.to_keypair_bytes()))
    }

    /// Signs a fingerprint.
    #[must_use]
    pub fn sign(&self, fingerprint: &str) -> Signature {
        let bytes = self.key.sign(fingerprint.as_bytes()).to_bytes();
        Signature { text: format!("{}:{}", self.name, BASE64.encode(&bytes)).into() }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.name)
    }
}

/// A signature as a narinfo carries it, `keyname:base64`.
///
/// It is kept as text, because Nix keeps signatures that it cannot verify as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    text: Box<str>,
}

/// A signature without a colon, or with nothing before or behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("signature `{0}` is not of the form `keyname:base64`")]
pub struct SignatureError(pub String);

impl Signature {
    /// Parses the text form; what stands behind the colon is looked at only when verifying.
    ///
    /// # Errors
    /// When either half is missing, or the text holds white space.
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        if split_named(text).is_none() || text.contains(|c: char| c.is_whitespace() || c == '\0') {
            return Err(SignatureError(text.to_owned()));
        }
        Ok(Self { text: text.into() })
    }

    /// Returns the name of the key that is said to have signed.
    #[must_use]
    pub fn key_name(&self) -> &str {
        self.text.split_once(':').map_or("", |(name, _)| name)
    }

    fn bytes(&self) -> Option<[u8; 64]> {
        let (_, value) = self.text.split_once(':')?;
        BASE64.decode(value.as_bytes()).ok()?.try_into().ok()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The keys that may vouch for a path, by name.
///
/// As in Nix a name is bound once: a second key of the same name is not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys {
    keys: BTreeMap<String, VerifyingKey>,
}

impl TrustedKeys {
    /// Returns whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the names of the keys.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Returns the name of a key that signed `fingerprint`.
    ///
    /// A signature of an unknown key, or of the wrong size, is no signature; it does no harm
    /// beside a good one.
    #[must_use]
    pub fn signer<'a>(&'a self, fingerprint: &str, signatures: &[Signature]) -> Option<&'a str> {
        signatures.iter().find_map(|signature| {
            let (name, key) = self.keys.get_key_value(signature.key_name())?;
            let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes()?);
            key.verify_strict(fingerprint.as_bytes(), &bytes).ok().map(|()| name.as_str())
        })
    }
}

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let mut trusted = Self::default();
        for PublicKey { name, key } in keys {
            trusted.keys.entry(name).or_insert(key);
        }
        trusted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, seed: u8) -> SecretKey {
        SecretKey::from_seed(name, &[seed; 32]).unwrap()
    }

    #[test]
    fn one_good_signature_among_bad_ones_is_enough() {
        let trusted = TrustedKeys::from_iter([secret("a-1", 1).public()]);
        let good = secret("a-1", 1).sign("text");
        let spoofed = secret("a-1", 2).sign("text");
        let unknown = secret("b-1", 1).sign("text");
        let short = Signature::parse("a-1:AAAA").unwrap();
        assert_eq!(trusted.signer("text", &[spoofed.clone(), unknown, short, good]), Some("a-1"));
        assert_eq!(trusted.signer("text", &[spoofed]), None);
    }

    #[test]
    fn the_first_key_of_a_name_stays() {
        let trusted =
            TrustedKeys::from_iter([secret("a-1", 1).public(), secret("a-1", 2).public()]);
        assert_eq!(trusted.signer("text", &[secret("a-1", 2).sign("text")]), None);
    }

    #[test]
    fn a_secret_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", secret("a-1", 1)), "SecretKey(a-1)");
    }

    #[test]
    fn refuses_a_secret_key_whose_halves_do_not_fit() {
        let mut bytes = SigningKey::from_bytes(&[1; 32]).to_keypair_bytes();
        bytes[63] ^= 1;
        let text = format!("a-1:{}", BASE64.encode(&bytes));
        assert_eq!(
            SecretKey::parse(&text).unwrap_err(),
            KeyError::Invalid { name: "a-1".to_owned() }
        );
    }
}
