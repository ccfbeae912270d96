//! A metadata file under work: its content is fixed, its signatures grow.

use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};
use sigstore_tuf::canonical_json::to_canonical_bytes;

use super::super::keys::{KeyId, PublicKey, SigningKey};
use super::super::metadata::{self, Ruled};
use super::super::rules::{Rules, Violation};
use super::WriteError;

/// The kinds of metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `root`.
    Root,
    /// `targets` and every role that it delegates to.
    Targets,
    /// `snapshot`.
    Snapshot,
    /// `timestamp`.
    Timestamp,
}

impl Kind {
    /// Returns the kind of a role's file.
    #[must_use]
    pub fn of(role: &str) -> Self {
        match role {
            "root" => Self::Root,
            "snapshot" => Self::Snapshot,
            "timestamp" => Self::Timestamp,
            _ => Self::Targets,
        }
    }
}

/// A metadata file: what is signed, and by whom so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    signed: Value,
    canonical: Vec<u8>,
    signatures: Vec<(KeyId, String)>,
}

impl Document {
    pub(super) fn new(
        kind: Kind,
        role: &str,
        signed: Map<String, Value>,
        realm: &str,
    ) -> Result<Self, WriteError> {
        let signed = Value::from(signed);
        let canonical = to_canonical_bytes(&signed).map_err(WriteError::Canonical)?;
        let document = Self { signed, canonical, signatures: Vec::new() };
        // What we would not read, we do not write.
        check(kind, role, &document.to_bytes(), &Rules::shoal(realm))
            .map_err(|source| WriteError::Refused { role: role.to_owned(), source })?;
        Ok(document)
    }

    /// Reads a file of `role`, to add a signature to it.
    ///
    /// # Errors
    /// When it breaks the rules.
    pub fn read(bytes: &[u8], role: &str, rules: &Rules) -> Result<Self, WriteError> {
        let unreadable = |source| WriteError::Unreadable { role: role.to_owned(), source };
        check(Kind::of(role), role, bytes, rules).map_err(unreadable)?;
        let malformed = || unreadable(Violation::Form("not TUF metadata".to_owned()));
        let mut file: Value = serde_json::from_slice(bytes).map_err(|_| malformed())?;
        let signed = file.get_mut("signed").map(Value::take).ok_or_else(malformed)?;
        let canonical = to_canonical_bytes(&signed).map_err(WriteError::Canonical)?;
        let mut signatures = Vec::new();
        for signature in file.get("signatures").and_then(Value::as_array).into_iter().flatten() {
            let member = |name| signature.get(name).and_then(Value::as_str);
            let (id, sig) = member("keyid").zip(member("sig")).ok_or_else(malformed)?;
            signatures.push((KeyId::declared(id), sig.to_owned()));
        }
        Ok(Self { signed, canonical, signatures })
    }

    /// Returns the bytes that signatures cover.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.canonical
    }

    /// Returns the keys that signed so far; whether rightly is not looked at.
    #[must_use]
    pub fn signers(&self) -> Vec<&KeyId> {
        self.signatures.iter().map(|(id, _)| id).collect()
    }

    /// Signs, in place of what this key signed before.
    pub fn sign(&mut self, key: &SigningKey) {
        self.put(&key.public(), &key.sign(&self.canonical));
    }

    /// Adds a signature that was made elsewhere.
    ///
    /// # Errors
    /// When it is not by this key over this content.
    pub fn add_signature(&mut self, key: &PublicKey, signature: &[u8]) -> Result<(), WriteError> {
        if !key.verifies(&self.canonical, signature) {
            return Err(WriteError::Signature(*key));
        }
        self.put(key, signature);
        Ok(())
    }

    /// Returns the file: compact JSON, the same bytes for the same content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let signature = |(id, sig): &(KeyId, String)| json!({"keyid": id.as_str(), "sig": sig});
        let signatures: Vec<_> = self.signatures.iter().map(signature).collect();
        json!({"signatures": signatures, "signed": self.signed}).to_string().into_bytes()
    }

    fn put(&mut self, key: &PublicKey, signature: &[u8]) {
        let id = key.key_id();
        self.signatures.retain(|(known, _)| *known != id);
        self.signatures.push((id, HEXLOWER.encode(signature)));
        self.signatures.sort();
    }
}

fn check(kind: Kind, role: &str, bytes: &[u8], rules: &Rules) -> Result<(), Violation> {
    fn read<T: Ruled>(bytes: &[u8], role: &str, rules: &Rules) -> Result<(), Violation> {
        metadata::read::<T>(bytes, role, rules.max_len(role), rules).map(drop)
    }
    match kind {
        Kind::Root => read::<sigstore_tuf::Root>(bytes, role, rules),
        Kind::Targets => read::<sigstore_tuf::Targets>(bytes, role, rules),
        Kind::Snapshot => read::<sigstore_tuf::Snapshot>(bytes, role, rules),
        Kind::Timestamp => read::<sigstore_tuf::Timestamp>(bytes, role, rules),
    }
}
