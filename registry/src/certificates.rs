//! Certificates of hosts: which ones count, and which were found good before.
//!
//! A certificate travels with every report, and its signature is as much work as that of the report
//! itself; so what was found good is remembered by its digest, for as long as nothing changes that
//! could make it bad, and as it was read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use shared::{
    certificate::{self, Certificate, CertificateError},
    id::Digest,
    time::Time,
    trust::{PublicKey, dsse::Envelope},
};

use crate::{api::error::ApiError, realm::Realm};

/// Most bytes of envelopes whose certificates are remembered, some 150 000; then all are forgotten,
/// and found good again.
const MOST: usize = 96 << 20;

/// Certificates that were found good.
#[derive(Debug, Default)]
pub(crate) struct Certificates(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By the digest of their envelopes.
    certificates: HashMap<Digest, (Good, Verified)>,
    /// Of their envelopes.
    bytes: usize,
}

/// A certificate that was found good once.
#[derive(Debug, Clone)]
pub(crate) struct Verified {
    pub(crate) certificate: Arc<Certificate>,
    /// The host's key.
    pub(crate) key: PublicKey,
}

/// By whose word a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    /// This server's own key signed it.
    Own,
    /// The policies name its key, as of this version of the snapshot.
    Policy(u64),
}

/// What is checked against what a certificate must be signed with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signers<'a> {
    pub(crate) realm: &'a Realm,
    /// This server's own enrolment key, if it has one.
    pub(crate) own: Option<PublicKey>,
}

impl Certificates {
    /// Reads a certificate that holds now, and that this server's own key signed, or one that the
    /// policy of each of its groups names.
    pub(crate) fn verify(
        &self,
        envelope: &Envelope,
        bytes: &[u8],
        signers: Signers<'_>,
        now: Time,
    ) -> Result<Verified, ApiError> {
        let digest = Digest::of(bytes);
        let version = signers.realm.version("snapshot");
        let known = self.lock().certificates.get(&digest).cloned();
        if let Some((good, verified)) = known
            && (good == Good::Own || good == Good::Policy(version))
        {
            holds(&verified.certificate, signers, now)?;
            return Ok(verified);
        }
        let payload = envelope.unverified_payload().map_err(|error| ApiError::malformed(&error))?;
        let certificate =
            Certificate::parse(&payload).map_err(|error| ApiError::malformed(&error))?;
        holds(&certificate, signers, now)?;
        let key = PublicKey::from_bytes(certificate.key.0);
        let key = key.map_err(|error| ApiError::malformed(&error))?;
        let Some(good) = signed(envelope, &certificate, signers, version) else {
            let what = "the certificate is not by an enrolment key of its groups";
            let refusal = ApiError::forbidden("certificate_key", what);
            return Err(refusal.fix("enrol the host again"));
        };
        let verified = Verified { certificate: Arc::new(certificate), key };
        let mut known = self.lock();
        if known.bytes + bytes.len() > MOST {
            *known = Known::default();
        }
        if known.certificates.insert(digest, (good, verified.clone())).is_none() {
            known.bytes += bytes.len();
        }
        drop(known);
        Ok(verified)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // What a panic left is still a list of good ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks what time and place could change of a certificate that was good before.
fn holds(certificate: &Certificate, signers: Signers<'_>, now: Time) -> Result<(), ApiError> {
    certificate.check(signers.realm.name(), now).map_err(|error| {
        let code = match error {
            CertificateError::Expired(_) => "certificate_expired",
            CertificateError::Realm(_) => "certificate_realm",
            CertificateError::Json(_)
            | CertificateError::Format(_)
            | CertificateError::HostId(_) => "certificate",
        };
        ApiError::forbidden(code, error.to_string()).fix("enrol the host again")
    })
}

fn signed(
    envelope: &Envelope,
    certificate: &Certificate,
    Signers { realm, own }: Signers<'_>,
    version: u64,
) -> Option<Good> {
    let signed_by = |key: &PublicKey| envelope.verify(certificate::PAYLOAD_TYPE, key).is_ok();
    if own.as_ref().is_some_and(signed_by) {
        return Some(Good::Own);
    }
    let by_policy = |group| {
        let policy = realm.policy(group);
        policy.is_some_and(|policy| {
            let mut keys = policy.enrolment.iter();
            keys.any(|key| PublicKey::from_bytes(key.0).is_ok_and(|key| signed_by(&key)))
        })
    };
    let named = !certificate.groups.is_empty() && certificate.groups.iter().all(by_policy);
    named.then_some(Good::Policy(version))
}
