//! Certificates of hosts: which ones count, and which were found good before.
//!
//! A certificate travels with every report, and its signature is as much work as that of the report
//! itself; so what was found good is remembered by its digest, for as long as nothing changes that
//! could make it bad.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use shared::{
    certificate::{self, Certificate, CertificateError},
    id::Digest,
    time::Time,
    trust::{PublicKey, dsse::Envelope},
};

use crate::{api::error::ApiError, realm::Realm};

/// Most certificates that are remembered: 16 MiB; then all are forgotten, and found good again.
const MOST: usize = 1 << 18;

/// Certificates that were found good, by the digest of their envelopes.
#[derive(Debug, Default)]
pub(crate) struct Certificates(Mutex<HashMap<Digest, Good>>);

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
    ) -> Result<Certificate, ApiError> {
        let payload = envelope.unverified_payload().map_err(|error| ApiError::malformed(&error))?;
        let certificate =
            Certificate::parse(&payload).map_err(|error| ApiError::malformed(&error))?;
        certificate.check(signers.realm.name(), now).map_err(|error| {
            let code = match error {
                CertificateError::Expired(_) => "certificate_expired",
                CertificateError::Realm(_) => "certificate_realm",
                CertificateError::Json(_)
                | CertificateError::Format(_)
                | CertificateError::HostId(_) => "certificate",
            };
            ApiError::forbidden(code, error.to_string()).fix("enrol the host again")
        })?;
        let digest = Digest::of(bytes);
        let version = signers.realm.version("snapshot");
        let known = self.lock().get(&digest).copied();
        if known.is_some_and(|good| good == Good::Own || good == Good::Policy(version)) {
            return Ok(certificate);
        }
        let Some(good) = signed(envelope, &certificate, signers, version) else {
            let what = "the certificate is not by an enrolment key of its groups";
            let refusal = ApiError::forbidden("certificate_key", what);
            return Err(refusal.fix("enrol the host again"));
        };
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(digest, good);
        Ok(certificate)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Good>> {
        // What a panic left is still a list of good ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
