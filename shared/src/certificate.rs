//! The certificate of a host: an enrolment key's word for a host's key, name and groups.
//!
//! It travels in a DSSE envelope with each report, so that a lost database loses no trust.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{GroupName, HostId, HostName, LabelName, LabelValue, RawKey, RealmName},
    json::{self, JsonError},
    time::Time,
};

/// The payload type of a certificate's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.shoal.certificate+json";

/// The payload type of an enrolment request's envelope.
pub const REQUEST_PAYLOAD_TYPE: &str = "application/vnd.shoal.enrolment-request+json";

/// Longest certificate or request, in bytes.
pub const MAX_LEN: usize = 16 * 1024;

/// The version of the format that this program reads and writes.
pub const FORMAT: u32 = 1;

/// What an enrolment key says of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// [`FORMAT`].
    pub format: u32,
    /// The realm.
    pub realm: RealmName,
    /// The SHA-256 of the host's key.
    pub host: HostId,
    /// The host's key.
    pub key: RawKey,
    /// The host's name.
    pub name: HostName,
    /// The groups whose reports count.
    pub groups: Vec<GroupName>,
    /// The host's labels.
    pub labels: BTreeMap<LabelName, LabelValue>,
    /// When the certificate ends.
    pub not_after: Time,
}

/// What a host asks a certificate for, signed with the key that it wants in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentRequest {
    /// [`FORMAT`].
    pub format: u32,
    /// The realm.
    pub realm: RealmName,
    /// The host's key.
    pub key: RawKey,
    /// The host's name.
    pub name: HostName,
    /// The groups that it follows.
    pub groups: Vec<GroupName>,
    /// The host's labels.
    pub labels: BTreeMap<LabelName, LabelValue>,
}

/// Why bytes are no certificate, or one that does not hold here and now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not of this form.
    #[error("the certificate is not of its form")]
    Json(#[from] JsonError),
    /// A format that this program does not know.
    #[error("the certificate has format {0}, this program reads format {FORMAT}")]
    Format(u32),
    /// The host id is not the hash of the key.
    #[error("host id `{0}` is not the hash of the certificate's key")]
    HostId(HostId),
    /// For another realm.
    #[error("the certificate is for realm `{0}`")]
    Realm(RealmName),
    /// Its time is over.
    #[error("the certificate ended at {0}")]
    Expired(Time),
}

impl Certificate {
    /// Reads a certificate; its signature is not looked at.
    ///
    /// # Errors
    ///
    /// If it is not of this form, or its host id is not the hash of its key.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let certificate: Self = json::read(bytes, MAX_LEN)?;
        if certificate.format != FORMAT {
            return Err(CertificateError::Format(certificate.format));
        }
        if certificate.key.host_id() != certificate.host {
            return Err(CertificateError::HostId(certificate.host));
        }
        Ok(certificate)
    }

    /// Checks that the certificate holds in this realm at this time.
    ///
    /// # Errors
    ///
    /// If it is for another realm or has ended.
    pub fn check(&self, realm: &RealmName, now: Time) -> Result<(), CertificateError> {
        if self.realm != *realm {
            return Err(CertificateError::Realm(self.realm.clone()));
        }
        if self.not_after <= now {
            return Err(CertificateError::Expired(self.not_after));
        }
        Ok(())
    }

    /// Writes the certificate as compact JSON.
    ///
    /// # Errors
    ///
    /// Never for values that can be made; the writer's signature says it may.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CertificateError> {
        Ok(serde_json::to_vec(self).map_err(|error| JsonError::Invalid(error.to_string()))?)
    }
}

impl EnrolmentRequest {
    /// Reads a request; its signature is not looked at.
    ///
    /// # Errors
    ///
    /// If it is not of this form.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let request: Self = json::read(bytes, MAX_LEN)?;
        if request.format != FORMAT {
            return Err(CertificateError::Format(request.format));
        }
        Ok(request)
    }

    /// Writes the request as compact JSON.
    ///
    /// # Errors
    ///
    /// Never for values that can be made; the writer's signature says it may.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CertificateError> {
        Ok(serde_json::to_vec(self).map_err(|error| JsonError::Invalid(error.to_string()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> String {
        let key = RawKey([7; 32]);
        format!(
            "{{\"format\":1,\"realm\":\"main\",\"host\":\"{}\",\"key\":\"{key}\",\"name\":\"web-17\",\
             \"groups\":[\"eu-prod\"],\"labels\":{{}},\"not_after\":\"2027-01-01T00:00:00Z\"}}",
            key.host_id()
        )
    }

    #[test]
    fn reads_and_writes_the_same_bytes() {
        let certificate = Certificate::parse(golden().as_bytes()).unwrap();
        assert_eq!(certificate.to_bytes().unwrap(), golden().as_bytes());
    }

    #[test]
    fn holds_only_in_its_realm_and_its_time() {
        let certificate = Certificate::parse(golden().as_bytes()).unwrap();
        let main = RealmName::parse("main").unwrap();
        let time = |text| Time::parse(text).unwrap();
        assert_eq!(certificate.check(&main, time("2026-12-31T23:59:59Z")), Ok(()));
        let expired = certificate.check(&main, time("2027-01-01T00:00:00Z"));
        assert!(matches!(expired, Err(CertificateError::Expired(_))));
        let other =
            certificate.check(&RealmName::parse("other").unwrap(), time("2026-12-31T23:59:59Z"));
        assert!(matches!(other, Err(CertificateError::Realm(_))));
    }

    #[test]
    fn refuses_a_host_id_that_is_not_the_hash_of_the_key() {
        let other = golden().replace(&RawKey([7; 32]).to_string(), &RawKey([8; 32]).to_string());
        let refused = Certificate::parse(other.as_bytes());
        assert!(matches!(refused, Err(CertificateError::HostId(_))));
    }
}
