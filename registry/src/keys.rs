//! Signers' keys: Ed25519 in PKCS#8 PEM files that `openssl pkey` reads.
//!
//! A signer's key is encrypted (scrypt, AES-256) and lies in the signer's own folder; its public
//! half lies beside it in plain hex, so that listing keys needs no passphrase. The server's own
//! keys are not encrypted, because it must start unattended; they can only withhold.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ed25519_dalek::pkcs8::{DecodePrivateKey as _, KeypairBytes};
use pkcs8::{
    EncodePrivateKey as _, EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef,
    SecretDocument,
    pkcs5::{pbes2, scrypt},
};
use rand::{TryRng as _, rngs::SysRng};
use shared::trust::{PublicKey, SigningKey};
use zeroize::Zeroizing;

use crate::files::{self, Existing, Readers, WriteError};

/// The label of an encrypted key in PEM.
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
/// The longest key file that is read; real ones have some 400 bytes.
const MAX_FILE: u64 = 16 * 1024;
/// What OpenSSL still reads (it allows scrypt 32 MiB), at five times its own effort.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// Why a key cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("key name `{0}` is not of the form `[a-z0-9][a-z0-9-]{{0,39}}`")]
    Name(String),
    #[error("there is no key `{name}` in `{folder}`")]
    Missing { name: String, folder: PathBuf },
    #[error("there is a key `{name}` already in `{folder}`")]
    Exists { name: String, folder: PathBuf },
    #[error("cannot read key file `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("key file `{path}` is longer than 16 KiB")]
    TooLong { path: PathBuf },
    #[error("`{path}` is no Ed25519 key in PKCS#8 PEM")]
    Malformed { path: PathBuf },
    #[error("the passphrase does not open `{path}`")]
    Passphrase { path: PathBuf },
    #[error("`{public}` does not hold the public half of `{path}`")]
    Halves { path: PathBuf, public: PathBuf },
    #[error("the operating system gave no randomness")]
    Random,
    #[error("cannot encrypt the key")]
    Encrypt,
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Makes a new key from the operating system's randomness.
///
/// # Errors
/// When the operating system gives none.
pub(crate) fn generate() -> Result<SigningKey, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    SysRng.try_fill_bytes(seed.as_mut()).map_err(|_| KeyError::Random)?;
    Ok(SigningKey::from_seed(&seed))
}

/// The folder that holds one signer's keys for one realm.
#[derive(Debug, Clone)]
pub(crate) struct KeyFolder {
    path: PathBuf,
}

/// A key as the folder lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) public: PublicKey,
}

impl KeyFolder {
    /// Points at a folder, which need not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where the key of this name lies.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.pem"))
    }

    /// Returns whether there is a key of this name.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    /// Stores a new key, encrypted.
    ///
    /// # Errors
    /// When there is one of this name, or the folder cannot be written.
    pub(crate) fn create(
        &self,
        name: &str,
        key: &SigningKey,
        passphrase: &str,
    ) -> Result<(), KeyError> {
        check_name(name)?;
        if self.holds(name) {
            return Err(KeyError::Exists { name: name.to_owned(), folder: self.path.clone() });
        }
        files::private_folder(&self.path)?;
        let pem = encrypt(key, passphrase)?;
        // The public half comes first: alone it is no key, and nothing stumbles over it.
        let public = format!("{}\n", key.public());
        files::write(&self.public_file(name), public.as_bytes(), Readers::All, Existing::Replace)?;
        let written =
            files::write(&self.file(name), pem.as_bytes(), Readers::Owner, Existing::Keep);
        match written {
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists { name: name.to_owned(), folder: self.path.clone() });
            }
            other => other?,
        }
        Ok(())
    }

    /// Opens a key with its passphrase.
    ///
    /// # Errors
    /// When it is missing, damaged, or the passphrase is another's.
    pub(crate) fn open(&self, name: &str, passphrase: &str) -> Result<SigningKey, KeyError> {
        let path = self.existing(name)?;
        let key = decrypt(&path, &read_pem(&path)?, passphrase)?;
        if self.public(name)? != key.public() {
            return Err(KeyError::Halves { path, public: self.public_file(name) });
        }
        Ok(key)
    }

    /// Returns the public half of a key; needs no passphrase.
    ///
    /// # Errors
    /// When the key is missing.
    pub(crate) fn public(&self, name: &str) -> Result<PublicKey, KeyError> {
        self.existing(name)?;
        let path = self.public_file(name);
        let text = read_pem(&path)?;
        PublicKey::from_hex(text.trim()).map_err(|_| KeyError::Malformed { path })
    }

    /// Lists the keys by name.
    ///
    /// # Errors
    /// When the folder, or the public half of one of them, cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, KeyError> {
        let read = |source| KeyError::Read { path: self.path.clone(), source };
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read(error)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let file_name = entry.map_err(read)?.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(".pem"));
            if let Some(name) = name.filter(|name| check_name(name).is_ok()) {
                listed.push(Listed { name: name.to_owned(), public: self.public(name)? });
            }
        }
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn public_file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.pub"))
    }

    fn existing(&self, name: &str) -> Result<PathBuf, KeyError> {
        check_name(name)?;
        let path = self.file(name);
        if path.exists() {
            return Ok(path);
        }
        Err(KeyError::Missing { name: name.to_owned(), folder: self.path.clone() })
    }
}

/// Stores one of the server's own keys, not encrypted, for its owner's eyes alone.
///
/// # Errors
/// When there is one already, or the folder cannot be written.
pub(crate) fn create_online(path: &Path, key: &SigningKey) -> Result<(), KeyError> {
    let pem = plain(key)
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|_| KeyError::Malformed { path: path.to_owned() })?;
    files::write(path, pem.as_bytes(), Readers::Owner, Existing::Keep)?;
    Ok(())
}

/// Reads one of the server's own keys.
///
/// # Errors
/// When it cannot be read, or is no such key.
pub(crate) fn open_online(path: &Path) -> Result<SigningKey, KeyError> {
    KeypairBytes::from_pkcs8_pem(&read_pem(path)?)
        .map(|key| SigningKey::from_seed(&key.secret_key))
        .map_err(|_| KeyError::Malformed { path: path.to_owned() })
}

/// Without the public half: OpenSSL 3.0 does not read the second version of PKCS#8.
fn plain(key: &SigningKey) -> KeypairBytes {
    KeypairBytes { secret_key: *key.seed(), public_key: None }
}

fn encrypt(key: &SigningKey, passphrase: &str) -> Result<Zeroizing<String>, KeyError> {
    let mut salt = [0; 16];
    let mut iv = [0; 16];
    SysRng.try_fill_bytes(&mut salt).map_err(|_| KeyError::Random)?;
    SysRng.try_fill_bytes(&mut iv).map_err(|_| KeyError::Random)?;
    let (log_n, r, p) = SCRYPT;
    let cost = scrypt::Params::new(log_n, r, p).map_err(|_| KeyError::Encrypt)?;
    let how = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)
        .map_err(|_| KeyError::Encrypt)?;
    let document = plain(key).to_pkcs8_der().map_err(|_| KeyError::Encrypt)?;
    let info = PrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| KeyError::Encrypt)?;
    let encrypted = info.encrypt_with_params(how, passphrase).map_err(|_| KeyError::Encrypt)?;
    encrypted.to_pem(ENCRYPTED, LineEnding::LF).map_err(|_| KeyError::Encrypt)
}

fn decrypt(path: &Path, pem: &str, passphrase: &str) -> Result<SigningKey, KeyError> {
    let malformed = || KeyError::Malformed { path: path.to_owned() };
    let (label, document) = SecretDocument::from_pem(pem).map_err(|_| malformed())?;
    if label != ENCRYPTED {
        return Err(malformed());
    }
    let info =
        EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).map_err(|_| malformed())?;
    // A wrong passphrase shows in the padding, or in a key that does not parse.
    let wrong = || KeyError::Passphrase { path: path.to_owned() };
    let opened = info.decrypt(passphrase).map_err(|_| wrong())?;
    let key = KeypairBytes::from_pkcs8_der(opened.as_bytes()).map_err(|_| wrong())?;
    Ok(SigningKey::from_seed(&key.secret_key))
}

fn read_pem(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let read = |source| KeyError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(read)?.len() > MAX_FILE {
        return Err(KeyError::TooLong { path: path.to_owned() });
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(read)
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let mut letters = name.bytes();
    let first = letters.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first && rest && name.len() <= 40 { Ok(()) } else { Err(KeyError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    fn folder() -> (tempfile::TempDir, KeyFolder) {
        let root = tempfile::tempdir().unwrap();
        let keys = KeyFolder::new(root.path().join("main/keys"));
        (root, keys)
    }

    #[test]
    fn openssl_reads_the_key_that_we_encrypted() {
        let (_root, keys) = folder();
        let key = generate().unwrap();
        keys.create("web", &key, "open sesame").unwrap();
        let output = Command::new("openssl")
            .args(["pkey", "-pubout", "-outform", "DER", "-passin", "pass:open sesame", "-in"])
            .arg(keys.file("web"))
            .output()
            .expect("openssl is needed: apt-get install openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout[output.stdout.len() - 32..], *key.public().as_bytes());
    }

    #[test]
    fn reads_a_key_that_openssl_encrypted() {
        let (root, keys) = folder();
        let key = generate().unwrap();
        let online = root.path().join("snapshot.pem");
        create_online(&online, &key).unwrap();
        files::private_folder(&root.path().join("main/keys")).unwrap();
        let status = Command::new("openssl")
            .args(["pkcs8", "-topk8", "-scrypt", "-v2", "aes-256-cbc", "-passout", "pass:x", "-in"])
            .arg(&online)
            .arg("-out")
            .arg(keys.file("theirs"))
            .status()
            .expect("openssl is needed: apt-get install openssl");
        assert!(status.success());
        fs::write(keys.public_file("theirs"), key.public().to_hex()).unwrap();
        assert_eq!(keys.open("theirs", "x").unwrap().seed(), key.seed());
    }

    #[test]
    fn opens_with_its_passphrase_only() {
        let (_root, keys) = folder();
        let key = generate().unwrap();
        keys.create("web", &key, "right").unwrap();
        assert_eq!(keys.open("web", "right").unwrap().seed(), key.seed());
        assert!(matches!(keys.open("web", "wrong"), Err(KeyError::Passphrase { .. })));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys.file("web")), 0o600);
        assert_eq!(mode(&keys.path), 0o700);
    }

    #[test]
    fn never_replaces_a_key() {
        let (_root, keys) = folder();
        let key = generate().unwrap();
        keys.create("web", &key, "p").unwrap();
        let again = keys.create("web", &generate().unwrap(), "p");
        assert!(matches!(again, Err(KeyError::Exists { .. })));
        assert_eq!(keys.public("web").unwrap(), key.public());
        assert_eq!(keys.list().unwrap().len(), 1);
    }

    #[test]
    fn a_name_cannot_be_a_path() {
        let (_root, keys) = folder();
        for name in ["../root", "", "Web", "a/b", "-web", &"a".repeat(41)] {
            assert!(matches!(keys.public(name), Err(KeyError::Name(_))), "{name}");
        }
    }

    #[test]
    fn a_public_half_of_another_key_is_noticed() {
        let (_root, keys) = folder();
        keys.create("web", &generate().unwrap(), "p").unwrap();
        fs::write(keys.public_file("web"), generate().unwrap().public().to_hex()).unwrap();
        assert!(matches!(keys.open("web", "p"), Err(KeyError::Halves { .. })));
    }
}
