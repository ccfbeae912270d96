//! The one place where signatures are counted.

use std::collections::BTreeMap;

use sigstore_tuf::metadata::RoleKeys;
use sigstore_tuf::{Key, Metadata, Role};

use super::keys::KeyId;

/// Why a file is not signed by those who may.
#[derive(Debug, thiserror::Error)]
pub enum ThresholdError {
    /// Too few.
    #[error("{found} of {threshold} valid signatures")]
    TooFew {
        /// Valid ones, by distinct keys.
        found: usize,
        /// What the role wants.
        threshold: usize,
    },
    /// A threshold of none, or a key that signed twice.
    #[error(transparent)]
    Refused(sigstore_tuf::Error),
}

/// Counts the signatures of distinct keys of `authority`, and returns their keys.
///
/// That distinct key ids are distinct keys is a rule on whoever declares them, checked when that
/// file was read ([`metadata::read`](super::metadata::read)).
///
/// # Errors
/// When there are fewer than its threshold, the threshold is 0, or a key signed twice.
pub fn verify<T: Role>(
    metadata: &Metadata<T>,
    keys: &BTreeMap<String, Key>,
    authority: &RoleKeys,
    role: &str,
) -> Result<Vec<KeyId>, ThresholdError> {
    metadata.verify_threshold(keys, authority, role).map_err(|error| {
        if let sigstore_tuf::Error::ThresholdNotMet { found, threshold, .. } = error {
            return ThresholdError::TooFew { found, threshold };
        }
        ThresholdError::Refused(error)
    })?;
    // Who signed: the same count again, with each key alone.
    let mut signers = Vec::new();
    for keyid in &authority.keyids {
        let mut alone = authority.clone();
        alone.keyids = vec![keyid.clone()];
        alone.threshold = 1;
        if metadata.verify_threshold(keys, &alone, role).is_ok() {
            signers.push(KeyId::declared(keyid));
        }
    }
    Ok(signers)
}
