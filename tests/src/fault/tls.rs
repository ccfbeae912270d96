//! Certificates, good and bad ones, made by openssl, and servers that show them.

use std::{fs, io, net::TcpStream, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tempfile::TempDir;

use crate::{run, scratch, tool};

/// Makes an authority, and servers' keys with certificates of each kind.
const SCRIPT: &str = r#"set -e
new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256"
$new -x509 -keyout ca.key -out ca.pem -subj /CN=test-ca -days 2
$new -x509 -keyout self.key -out self.crt -subj /CN=127.0.0.1 -days 2 \
    -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE
as_of=
serve() { # NAME ADDRESS
    $new -keyout "$1.key" -out "$1.csr" -subj /CN=127.0.0.1
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$2" > extensions
    $as_of openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile extensions -out "$1.crt"
}
serve good IP:127.0.0.1
serve other DNS:cache.example
as_of="faketime 2020-01-01"
serve expired IP:127.0.0.1"#;

/// An authority and what it certified; goes away with the value.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    /// Makes them.
    ///
    /// # Panics
    /// When openssl cannot.
    #[must_use]
    pub fn new() -> Self {
        let folder = scratch();
        run(tool("sh").args(["-c", SCRIPT]).current_dir(folder.path())).ok();
        Self { folder }
    }

    /// Returns the file of the authority, for `--ca-file`.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Returns the identity `good`, `other` (a certificate for another name), `expired`, or `self`
    /// (signed by itself).
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn identity(&self, name: &str) -> Identity {
        let read = |extension: &str| {
            fs::read(self.folder.path().join(format!("{name}.{extension}"))).expect("it was made")
        };
        let certificate = CertificateDer::from_pem_slice(&read("crt")).expect("openssl wrote it");
        let key = PrivateKeyDer::from_pem_slice(&read("key")).expect("openssl wrote it");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("they are supported")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("the key is that of the certificate");
        Identity(Arc::new(config))
    }
}

/// Whom a server says to be.
#[derive(Debug, Clone)]
pub struct Identity(Arc<ServerConfig>);

impl Identity {
    /// Speaks TLS from here on.
    pub(super) fn accept(self, socket: TcpStream) -> io::Result<Box<dyn super::Stream>> {
        let connection = ServerConnection::new(self.0).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, socket)))
    }
}
