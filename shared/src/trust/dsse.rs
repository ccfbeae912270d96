//! DSSE envelopes: signed bytes of a named type, for what is no metadata.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::keys::{PublicKey, SigningKey};
use crate::json::{self, JsonError};

/// Why an envelope proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum DsseError {
    /// Not an envelope, or too long.
    #[error("not a DSSE envelope")]
    Shape(#[source] JsonError),
    /// The payload or a signature is not base 64.
    #[error("the envelope's payload or signature is not base 64")]
    Base64,
    /// Of another type than was asked for.
    #[error("the payload is of type `{found}`, not `{expected}`")]
    Type {
        /// The type wanted.
        expected: String,
        /// The type named.
        found: String,
    },
    /// No signature by the key.
    #[error("not signed by key `{0}`")]
    Signature(PublicKey),
}

/// An envelope as sent; `certificate` is the one member that we add to the standard's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Envelope {
    /// The payload, in base 64.
    pub payload: String,
    /// What it is.
    pub payload_type: String,
    /// Who signed it.
    pub signatures: Vec<EnvelopeSignature>,
    /// The signer's certificate, itself an envelope; travels along unsigned, and proves itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub certificate: Option<Box<Self>>,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvelopeSignature {
    /// A hint at the key; never trusted.
    #[serde(default)]
    pub keyid: String,
    /// The signature, in base 64.
    pub sig: String,
}

impl Envelope {
    /// Signs `payload` as something of type `payload_type`.
    #[must_use]
    pub fn sign(payload_type: &str, payload: &[u8], key: &SigningKey) -> Self {
        let signature = key.sign(&pae(payload_type, payload));
        Self {
            payload: BASE64.encode(payload),
            payload_type: payload_type.to_owned(),
            signatures: vec![EnvelopeSignature {
                keyid: HEXLOWER.encode(key.public().as_bytes()),
                sig: BASE64.encode(&signature),
            }],
            certificate: None,
        }
    }

    /// Adds the signer's certificate.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Self) -> Self {
        self.certificate = Some(Box::new(certificate));
        self
    }

    /// Parses an envelope of at most `max` bytes.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(bytes: &[u8], max: usize) -> Result<Self, DsseError> {
        json::read(bytes, max).map_err(DsseError::Shape)
    }

    /// Returns the envelope as JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Strings and lists of strings cannot fail to serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the payload if `key` signed it as `payload_type`.
    ///
    /// # Errors
    /// When it is of another type, or not signed by this key.
    pub fn verify(&self, payload_type: &str, key: &PublicKey) -> Result<Vec<u8>, DsseError> {
        if self.payload_type != payload_type {
            let (expected, found) = (payload_type.to_owned(), self.payload_type.clone());
            return Err(DsseError::Type { expected, found });
        }
        let payload = self.unverified_payload()?;
        let message = pae(payload_type, &payload);
        for signature in &self.signatures {
            let bytes = BASE64.decode(signature.sig.as_bytes()).map_err(|_| DsseError::Base64)?;
            if key.verifies(&message, &bytes) {
                return Ok(payload);
            }
        }
        Err(DsseError::Signature(*key))
    }

    /// Returns the payload before anything is proven: only to learn which key it claims.
    ///
    /// # Errors
    /// When it is not base 64.
    pub fn unverified_payload(&self) -> Result<Vec<u8>, DsseError> {
        BASE64.decode(self.payload.as_bytes()).map_err(|_| DsseError::Base64)
    }
}

/// Returns the bytes that are signed: DSSE's pre-authentication encoding.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.shoal.report+json";

    #[test]
    fn the_encoding_is_the_standards() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn a_signed_envelope_verifies_after_a_round_trip() {
        let key = SigningKey::from_seed(&[3; 32]);
        let certificate = Envelope::sign("certificate", b"{}", &SigningKey::from_seed(&[4; 32]));
        let envelope = Envelope::sign(TYPE, b"{\"a\":1}", &key).with_certificate(certificate);
        let parsed = Envelope::parse(&envelope.to_bytes(), 4096).expect("parses");
        assert_eq!(parsed, envelope);
        assert_eq!(parsed.verify(TYPE, &key.public()).expect("verifies"), b"{\"a\":1}");
    }

    #[test]
    fn refuses_another_type_key_payload_or_size() {
        let key = SigningKey::from_seed(&[3; 32]);
        let envelope = Envelope::sign(TYPE, b"{}", &key);
        assert!(envelope.verify("other", &key.public()).is_err());
        assert!(envelope.verify(TYPE, &SigningKey::from_seed(&[4; 32]).public()).is_err());
        let forged = Envelope { payload: BASE64.encode(b"[]"), ..envelope.clone() };
        assert!(forged.verify(TYPE, &key.public()).is_err());
        assert!(Envelope::parse(&envelope.to_bytes(), 10).is_err());
        let unsigned = Envelope { signatures: Vec::new(), ..envelope };
        assert!(unsigned.verify(TYPE, &key.public()).is_err());
    }
}
