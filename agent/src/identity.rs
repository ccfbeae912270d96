//! Who this host is: an Ed25519 key that never leaves it.
//!
//! The key signs enrolment requests and reports. It grants nothing: no other host acts on it.

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{self, DecodePrivateKey as _, EncodePrivateKey as _};
use rand::TryRng as _;
use rand::rngs::{SysError, SysRng};
use shared::id::{HostId, RawKey};
use shared::trust;
use shared::trust::dsse::Envelope;
use zeroize::Zeroizing;

use crate::files::{self, FileError};

/// The file below `state_dir`.
const FILE: &str = "host.key";

/// A key in PEM takes some hundred bytes.
const MAX_FILE: u64 = 4096;

/// Why there is no host key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// There is none yet.
    #[error("this host has no key at `{}`", .0.display())]
    Absent(PathBuf),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("`{}` is no Ed25519 key in PKCS#8 PEM", path.display())]
    Malformed { path: PathBuf, source: pkcs8::Error },
    /// The key cannot be written as PEM.
    #[error("cannot encode the host key")]
    Encode(#[source] pkcs8::Error),
    /// The operating system gave no randomness.
    #[error("the system has no randomness for a host key")]
    Randomness(#[source] SysError),
}

/// The host's key.
#[derive(Debug)]
pub(crate) struct Identity {
    key: SigningKey,
}

impl Identity {
    /// Reads the key.
    pub(crate) fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(FILE);
        let pem = files::read(&path, MAX_FILE)?.map(Zeroizing::new);
        let pem = pem.ok_or_else(|| IdentityError::Absent(path.clone()))?;
        let key = SigningKey::from_pkcs8_pem(&String::from_utf8_lossy(&pem))
            .map_err(|source| IdentityError::Malformed { path, source })?;
        Ok(Self { key })
    }

    /// Reads the key, or makes one that is on disk before this returns.
    pub(crate) fn load_or_make(state_dir: &Path) -> Result<Self, IdentityError> {
        match Self::load(state_dir) {
            Err(IdentityError::Absent(path)) => {
                let mut seed = Zeroizing::new([0; 32]);
                SysRng.try_fill_bytes(seed.as_mut_slice()).map_err(IdentityError::Randomness)?;
                let key = SigningKey::from_bytes(&seed);
                let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(IdentityError::Encode)?;
                files::replace(&path, pem.as_bytes())?;
                Ok(Self { key })
            }
            other => other,
        }
    }

    /// Signs a payload of this type as this host.
    pub(crate) fn sign(&self, payload_type: &str, payload: &[u8]) -> Envelope {
        let key = trust::SigningKey::from_seed(self.key.as_bytes());
        Envelope::sign(payload_type, payload, &key)
    }

    /// Returns the public half.
    pub(crate) fn public(&self) -> RawKey {
        RawKey(self.key.verifying_key().to_bytes())
    }

    /// Returns the name that the key gives the host.
    pub(crate) fn host_id(&self) -> HostId {
        self.public().host_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_is_made_once_and_read_ever_after() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Identity::load(folder.path()), Err(IdentityError::Absent(_))));
        let made = Identity::load_or_make(folder.path()).unwrap();
        let again = Identity::load_or_make(folder.path()).unwrap();
        assert_eq!(made.host_id(), again.host_id());
        assert_eq!(made.public(), Identity::load(folder.path()).unwrap().public());
    }

    #[test]
    fn refuses_a_file_that_is_no_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "secret").unwrap();
        let error = Identity::load_or_make(folder.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Malformed { .. }));
    }
}
