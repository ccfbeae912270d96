//! `POST /reports`: what a host says of itself.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use data_encoding::HEXLOWER;
use rand::{TryRng as _, rngs::SysRng};
use shared::{
    api::ReportAnswer,
    certificate::{self, Certificate},
    report::{self, Report},
    time::Time,
    trust::{PublicKey, dsse::Envelope},
};

use super::{blocking, body::Whole, error::ApiError};
use crate::{
    app::App,
    db::hosts::{self, Incoming, Stored},
    realm::Realm,
};

/// Stores a report, and answers when it is on the disk.
pub(crate) async fn report(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Whole(body): Whole,
) -> Result<Json<ReportAnswer>, ApiError> {
    let realm = Arc::clone(app.realm(&realm)?);
    let (own, now) = (app.enrolment_key(), app.time());
    // Signatures and policies are work for the processor and the disk.
    let incoming = blocking(move || verify(&realm, own, &body, now)).await??;
    let counter = incoming.report.counter;
    let stored = app.db.write(move |db| hosts::report(db, &incoming, now)).await;
    match stored.map_err(|error| ApiError::internal(&error))? {
        Stored::Yes => Ok(Json(ReportAnswer { counter })),
        Stored::Challenge { nonce, highest: Some(highest) } => {
            let what = format!("counter {counter} does not follow on what was told before");
            Err(ApiError::challenge(what, nonce, Some(highest)))
        }
        Stored::Challenge { nonce, highest: None } => {
            let what = "this registry does not know the host's counter";
            Err(ApiError::challenge(what, nonce, None))
        }
    }
}

fn verify(
    realm: &Realm,
    own: Option<PublicKey>,
    body: &[u8],
    now: Time,
) -> Result<Incoming, ApiError> {
    let envelope =
        Envelope::parse(body, report::MAX_LEN).map_err(|error| ApiError::malformed(&error))?;
    let signed = envelope.certificate.as_deref().ok_or_else(|| {
        ApiError::forbidden("no_certificate", "the report comes without a certificate")
    })?;
    let certificate = verify_certificate(realm, own, signed, now)?;
    let key =
        PublicKey::from_bytes(certificate.key.0).map_err(|error| ApiError::malformed(&error))?;
    let payload = envelope
        .verify(report::PAYLOAD_TYPE, &key)
        .map_err(|error| ApiError::forbidden("bad_signature", error.to_string()))?;
    let report = Report::parse(&payload).map_err(|error| ApiError::malformed(&error))?;
    let said = (&report.realm, &report.host, &report.name);
    if said != (&certificate.realm, &certificate.host, &certificate.name) {
        let what = "the report is of another host than its certificate";
        return Err(ApiError::forbidden("other_host", what));
    }
    let mut nonce = [0; 16];
    SysRng.try_fill_bytes(&mut nonce).map_err(|error| ApiError::internal(&error))?;
    let signed = String::from_utf8_lossy(body).into_owned();
    Ok(Incoming { certificate, report, payload, signed, nonce: HEXLOWER.encode(&nonce) })
}

/// Checks a certificate: by this server's own key, or by one that the policy of each of its groups
/// names.
fn verify_certificate(
    realm: &Realm,
    own: Option<PublicKey>,
    envelope: &Envelope,
    now: Time,
) -> Result<Certificate, ApiError> {
    let payload = envelope.unverified_payload().map_err(|error| ApiError::malformed(&error))?;
    let certificate = Certificate::parse(&payload).map_err(|error| ApiError::malformed(&error))?;
    certificate
        .check(realm.name(), now)
        .map_err(|error| ApiError::forbidden("certificate", error.to_string()))?;
    let signed_by = |key: &PublicKey| envelope.verify(certificate::PAYLOAD_TYPE, key).is_ok();
    let named = || {
        let by_policy = |group| {
            let policy = realm.policy(group);
            policy.is_some_and(|policy| {
                let mut keys = policy.enrolment.iter();
                keys.any(|key| PublicKey::from_bytes(key.0).is_ok_and(|key| signed_by(&key)))
            })
        };
        !certificate.groups.is_empty() && certificate.groups.iter().all(by_policy)
    };
    if own.as_ref().is_some_and(signed_by) || named() {
        return Ok(certificate);
    }
    let what = "the certificate is not by an enrolment key of its groups";
    Err(ApiError::forbidden("certificate", what).fix("enrol the host again"))
}
