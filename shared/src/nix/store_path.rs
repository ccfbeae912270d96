//! Store paths: `/nix/store/<32 base-32 digits>-<name>`.
//!
//! Stricter than Nix: nothing is normalised before it is checked, so a path with `..` or a double
//! slash is refused where Nix would tidy it.

use std::fmt;

use super::{base32, hash::Sha256};

/// The logical store directory; the only one Shoal serves.
///
/// It is part of every hash and signature, whatever real directory a store root puts it in.
pub const STORE_DIR: &str = "/nix/store";

/// Digits of the hash part of a base name.
pub const HASH_PART_LEN: usize = 32;

/// Longest name that Nix accepts, in bytes.
const MAX_NAME_LEN: usize = 211;

/// Why a string is not a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// Not directly below the store directory.
    #[error("`{0}` is not a path directly in {STORE_DIR}")]
    NotInStore(String),
    /// No 32 digits and a dash at the start.
    #[error("`{0}` does not begin with 32 base-32 digits and a dash")]
    HashPart(String),
    /// A name that Nix refuses.
    #[error("`{0}` has a name that Nix refuses")]
    Name(String),
}

/// A path directly in the store, without the store directory; prints in full.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    base_name: Box<str>,
}

impl StorePath {
    /// Parses a full path such as `/nix/store/…-hello-2.12`.
    ///
    /// # Errors
    /// When it is not directly in [`STORE_DIR`], or its base name is refused.
    pub fn parse(path: &str) -> Result<Self, StorePathError> {
        let base_name = path
            .strip_prefix(STORE_DIR)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| StorePathError::NotInStore(path.to_owned()))?;
        Self::from_base_name(base_name)
    }

    /// Parses a base name such as `…-hello-2.12`.
    ///
    /// # Errors
    /// When the hash part or the name is refused.
    pub fn from_base_name(base_name: &str) -> Result<Self, StorePathError> {
        let Some((hash_part, name)) = base_name.split_at_checked(HASH_PART_LEN) else {
            return Err(StorePathError::HashPart(base_name.to_owned()));
        };
        let name = name
            .strip_prefix('-')
            .filter(|_| hash_part.bytes().all(base32::is_digit))
            .ok_or_else(|| StorePathError::HashPart(base_name.to_owned()))?;
        check_name(name).map_err(|()| StorePathError::Name(base_name.to_owned()))?;
        Ok(Self { base_name: base_name.into() })
    }

    /// Makes a path from the SHA-256 that Nix folds into the hash part.
    ///
    /// # Errors
    /// When Nix refuses `name`.
    pub fn from_digest(digest: &Sha256, name: &str) -> Result<Self, StorePathError> {
        check_name(name).map_err(|()| StorePathError::Name(name.to_owned()))?;
        let mut folded = [0_u8; 20];
        for (index, byte) in digest.0.iter().enumerate() {
            if let Some(slot) = folded.get_mut(index % 20) {
                *slot ^= byte;
            }
        }
        Ok(Self { base_name: format!("{}-{name}", base32::encode(&folded)).into() })
    }

    /// Returns `<hash part>-<name>`.
    #[must_use]
    pub fn base_name(&self) -> &str {
        &self.base_name
    }

    /// Returns the 32 digits before the dash.
    #[must_use]
    pub fn hash_part(&self) -> &str {
        self.base_name.split_at_checked(HASH_PART_LEN).map_or("", |(hash_part, _)| hash_part)
    }

    /// Returns what follows the dash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.base_name.get(HASH_PART_LEN + 1..).unwrap_or_default()
    }

    /// Returns whether Nix would take this for a derivation.
    #[must_use]
    pub fn is_derivation(&self) -> bool {
        self.base_name.ends_with(".drv")
    }
}

/// Returns whether `text` could be a hash part.
#[must_use]
pub fn is_hash_part(text: &str) -> bool {
    text.len() == HASH_PART_LEN && text.bytes().all(base32::is_digit)
}

fn check_name(name: &str) -> Result<(), ()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    let dots = name == "." || name == ".." || name.starts_with(".-") || name.starts_with("..-");
    if name.is_empty() || name.len() > MAX_NAME_LEN || dots || !name.bytes().all(allowed) {
        return Err(());
    }
    Ok(())
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE_DIR}/{}", self.base_name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(path: &str) -> Result<Self, StorePathError> {
        Self::parse(path)
    }
}

impl serde::Serialize for StorePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for StorePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&path).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9a455acx720hx0zfwn0q7gn8y2jrvllr";

    #[test]
    fn takes_apart_what_it_parsed() {
        let path = StorePath::parse(&format!("{STORE_DIR}/{HASH}-sample-1.2")).unwrap();
        assert_eq!(path.hash_part(), HASH);
        assert_eq!(path.name(), "sample-1.2");
        assert_eq!(path.to_string(), format!("{STORE_DIR}/{HASH}-sample-1.2"));
    }

    #[test]
    fn refuses_paths_that_nix_would_normalise() {
        for path in [
            format!("{STORE_DIR}//{HASH}-x"),
            format!("{STORE_DIR}/../store/{HASH}-x"),
            format!("{STORE_DIR}/{HASH}-x/bin"),
            format!("{STORE_DIR}/{HASH}-x/"),
            format!("{HASH}-x"),
            format!("/gnu/store/{HASH}-x"),
            STORE_DIR.to_owned(),
        ] {
            assert!(StorePath::parse(&path).is_err(), "{path}");
        }
    }

    #[test]
    fn refuses_names_that_nix_refuses() {
        let long = "x".repeat(212);
        for name in ["", ".", "..", ".-x", "..-x", "a/b", "a b", "ä", "a\0", long.as_str()] {
            assert!(StorePath::from_base_name(&format!("{HASH}-{name}")).is_err(), "{name}");
        }
        for name in [".x", "...", "..x", "-", "a?b=c+d_e.f", &long[..211]] {
            assert!(StorePath::from_base_name(&format!("{HASH}-{name}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn refuses_text_cut_inside_a_character() {
        assert!(StorePath::from_base_name(&"ä".repeat(40)).is_err());
        assert!(StorePath::from_base_name(&format!("{}ä-x", &HASH[..31])).is_err());
    }
}
