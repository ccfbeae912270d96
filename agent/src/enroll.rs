//! Enrolment: a host key, a pinned root, and a certificate for the key.
//!
//! The root is verified before the token leaves the host. The certificate only makes reports
//! count; what the host runs never depends on it.

use shared::api::{EnrolAnswer, EnrolRequest};
use shared::certificate::{
    self, Certificate, CertificateError, EnrolmentRequest, PAYLOAD_TYPE, REQUEST_PAYLOAD_TYPE,
};
use shared::problem::Problem;
use shared::trust::dsse::{DsseError, Envelope};

use crate::client::{Posted, Source};
use crate::config::Settings;
use crate::files::{self, FileError};
use crate::identity::{Identity, IdentityError};
use crate::report;

/// An envelope with a certificate is not larger than this.
const MAX_ANSWER: usize = 4 * certificate::MAX_LEN;

/// Why a host did not get a certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    /// There is no host key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate could not be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// The request could not be written.
    #[error("cannot write the request for a certificate")]
    Request(#[source] CertificateError),
    /// Nobody could be reached.
    #[error("cannot reach `{url}`")]
    Unreachable { url: String, source: reqwest::Error },
    /// The registry refused.
    #[error("`{url}` refuses to enrol this host: {}", problem.what)]
    Refused { url: String, problem: Box<Problem> },
    /// The answer is no certificate.
    #[error("`{url}` answered without a certificate")]
    Answer { url: String, source: serde_json::Error },
    /// The certificate's envelope cannot be read.
    #[error("the certificate cannot be read")]
    Envelope(#[from] DsseError),
    /// The certificate is malformed.
    #[error("the certificate is refused")]
    Certificate(#[source] CertificateError),
    /// The certificate is for another key or realm.
    #[error("the certificate is for another host or realm")]
    Other,
}

/// Asks for a certificate and keeps it.
pub(crate) async fn enrol(
    settings: &Settings,
    source: &Source,
    token: &str,
) -> Result<Certificate, EnrolError> {
    let identity = Identity::load_or_make(&settings.state_dir)?;
    let request = EnrolmentRequest {
        format: certificate::FORMAT,
        realm: settings.realm.clone(),
        key: identity.public(),
        name: settings.host.name.clone(),
        groups: settings.groups.clone(),
        labels: settings.host.labels.clone(),
    };
    let request = request.to_bytes().map_err(EnrolError::Request)?;
    let request = identity.sign(REQUEST_PAYLOAD_TYPE, &request);
    let request = EnrolRequest { token: token.to_owned(), request };
    let envelope = ask(source, settings, &request).await?;
    let certificate = read(&envelope)?;
    if certificate.key != identity.public() || certificate.realm != settings.realm {
        return Err(EnrolError::Other);
    }
    files::replace(&report::certificate_path(&settings.state_dir), &envelope.to_bytes())?;
    Ok(certificate)
}

async fn ask(
    source: &Source,
    settings: &Settings,
    request: &EnrolRequest,
) -> Result<Envelope, EnrolError> {
    let path = format!("api/v1/realms/{}/enrol", settings.realm);
    let url = source.url(&path).to_string();
    // Strings and lists of strings cannot fail to serialise.
    let json = serde_json::to_vec(request).unwrap_or_default();
    let Posted { status, body, .. } = match source.post(&path, json, MAX_ANSWER).await {
        Ok(posted) => posted,
        Err(error) => return Err(EnrolError::Unreachable { url, source: error.without_url() }),
    };
    if !status.is_success() {
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            Problem::new(shared::problem::Kind::Runtime, "refused", status.to_string())
        });
        return Err(EnrolError::Refused { url, problem: Box::new(problem) });
    }
    let answer: EnrolAnswer =
        serde_json::from_slice(&body).map_err(|source| EnrolError::Answer { url, source })?;
    Ok(answer.certificate)
}

/// Reads what a certificate says; whether an enrolment key signed it is for the registry to judge,
/// which is the only one that acts on it.
fn read(envelope: &Envelope) -> Result<Certificate, EnrolError> {
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(EnrolError::Other);
    }
    Certificate::parse(&envelope.unverified_payload()?).map_err(EnrolError::Certificate)
}
