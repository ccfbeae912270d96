//! What a store or cache says of a path, and whether it may be believed.

use std::collections::BTreeSet;

use super::{
    content_address::{ContentAddress, ContentAddressError, SelfReference},
    hash::Sha256,
    signature::{SecretKey, Signature, TrustedKeys},
    store_path::StorePath,
};

/// A valid path: its contents by hash, its references, and who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of its NAR.
    pub nar_hash: Sha256,
    /// Size of its NAR in bytes; never 0.
    pub nar_size: u64,
    /// The paths it refers to, itself included where it does.
    pub references: BTreeSet<StorePath>,
    /// The derivation that made it; nobody vouches for this.
    pub deriver: Option<StorePath>,
    /// Signatures, also of keys that are not known here.
    pub signatures: Vec<Signature>,
    /// How the path vouches for itself.
    pub content_address: Option<ContentAddress>,
}

/// Who vouches for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voucher {
    /// The path is content-addressed; its contents must still be checked against the address.
    ContentAddress(ContentAddress),
    /// A trusted key of this name signed it.
    Key(String),
}

/// Why a path is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// The content address does not lead to this path. Fatal also beside a good signature.
    #[error("`{path}` claims content address `{claimed}`, which makes `{computed}`")]
    ContentAddress {
        /// The path that claims it.
        path: StorePath,
        /// The claimed address.
        claimed: ContentAddress,
        /// The path that this address makes.
        computed: StorePath,
    },
    /// The content address is impossible for such a path.
    #[error("`{path}` has an impossible content address")]
    Impossible {
        /// The path that claims it.
        path: StorePath,
        /// What is wrong with it.
        source: ContentAddressError,
    },
    /// No signature at all.
    #[error("`{path}` is not signed")]
    Unsigned {
        /// The path.
        path: StorePath,
    },
    /// No signature by a trusted key.
    #[error("`{path}` is signed by {}, none of which is a trusted key that signed it", .signers.join(", "))]
    UnknownSigners {
        /// The path.
        path: StorePath,
        /// The key names that its signatures carry.
        signers: Vec<String>,
    },
}

impl PathInfo {
    /// Returns the text that signatures cover.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let references: Vec<String> = self.references.iter().map(StorePath::to_string).collect();
        format!("1;{};{};{};{}", self.path, self.nar_hash, self.nar_size, references.join(","))
    }

    /// Adds the signature of `key`, unless it is there already.
    pub fn sign(&mut self, key: &SecretKey) {
        let signature = key.sign(&self.fingerprint());
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// Returns who vouches for the path.
    ///
    /// # Errors
    /// When nobody does, or when a content address is claimed wrongly.
    pub fn voucher(&self, trusted: &TrustedKeys) -> Result<Voucher, Untrusted> {
        if let Some(address) = &self.content_address {
            self.check_content_address(address)?;
            return Ok(Voucher::ContentAddress(address.clone()));
        }
        if let Some(name) = trusted.signer(&self.fingerprint(), &self.signatures) {
            return Ok(Voucher::Key(name.to_owned()));
        }
        if self.signatures.is_empty() {
            return Err(Untrusted::Unsigned { path: self.path.clone() });
        }
        let signers = self.signatures.iter().map(|s| format!("`{}`", s.key_name())).collect();
        Err(Untrusted::UnknownSigners { path: self.path.clone(), signers })
    }

    /// Returns whether the path refers to itself.
    #[must_use]
    pub fn self_reference(&self) -> SelfReference {
        if self.references.contains(&self.path) { SelfReference::Yes } else { SelfReference::No }
    }

    fn check_content_address(&self, address: &ContentAddress) -> Result<(), Untrusted> {
        let mut others = self.references.clone();
        others.remove(&self.path);
        let computed = address
            .store_path(self.path.name(), &others, self.self_reference())
            .map_err(|source| Untrusted::Impossible { path: self.path.clone(), source })?;
        if computed == self.path {
            return Ok(());
        }
        Err(Untrusted::ContentAddress {
            path: self.path.clone(),
            claimed: address.clone(),
            computed,
        })
    }
}
