//! `POST /enrol`: a host shows a token and its key, and gets a certificate.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use shared::{
    api::{EnrolAnswer, EnrolRequest},
    certificate::{self, Certificate, EnrolmentRequest},
    json,
    problem::{Kind, Problem},
    trust::{PublicKey, SigningKey, dsse::Envelope},
};

use super::{body::Whole, error::ApiError};
use crate::{
    app::App,
    db::{
        DbError,
        hosts::{self, Enrolment},
        tokens::{self, TokenError, Visit, Wanted},
    },
};

/// Seconds that a certificate holds: 400 days, so that a yearly renewal is never late.
const LIFE: i64 = 400 * 24 * 3600;

const MAX_LEN: usize = 64 * 1024;

/// Takes a host's key into the realm, for the groups that its token allows.
pub(crate) async fn enrol(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Whole(body): Whole,
) -> Result<Json<EnrolAnswer>, ApiError> {
    let realm = app.realm(&realm)?.name().clone();
    let Some(key) = app.enrolment.clone() else {
        let what = "this server holds no enrolment key";
        let problem = Problem::new(Kind::Usage, "no_enrolment", what)
            .fix("enrol where the key is, or put it into the server's data as keys/enrolment.pem");
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, problem));
    };
    let EnrolRequest { token, request: envelope } =
        json::read(&body, MAX_LEN).map_err(|error| ApiError::malformed(&error))?;
    let request = verify(&envelope)?;
    if request.realm != realm {
        let what = format!("the request is for realm `{}`", request.realm);
        return Err(ApiError::forbidden("realm", what));
    }
    let now = app.time();
    let host = request.key.host_id();
    let answer = app.db.write(move |db| {
        let hash = tokens::hash(&token);
        let issued = hosts::issued(db, &realm, &host, &hash)?;
        let visit = if issued.is_some() { Visit::Again } else { Visit::First };
        let replaced = hosts::groups_of_name(db, &realm, &request.name, &host)?;
        let wanted = Wanted { groups: &request.groups, replaced: &replaced };
        let allowed = tokens::redeem(db, &realm, &token, wanted, visit, now)?;
        if let Err(error) = allowed {
            return Ok(Err(refuse(&error)));
        }
        // A host that lost our answer asks again with the same token and the same key.
        if let Some(known) = issued.as_deref().and_then(|text| same(text, &request)) {
            return Ok(Ok(known));
        }
        let certificate = Certificate {
            format: certificate::FORMAT,
            realm,
            host,
            key: request.key,
            name: request.name,
            groups: request.groups,
            labels: request.labels,
            not_after: now.plus(LIFE),
        };
        let signed = sign(&certificate, &key)?;
        let envelope = String::from_utf8_lossy(&signed.to_bytes()).into_owned();
        hosts::enrol(db, &Enrolment { certificate, envelope, token: hash }, now)?;
        Ok(Ok(signed))
    });
    let certificate = answer.await.map_err(|error| ApiError::internal(&error))??;
    tracing::info!(host.id = %host, "a host enrolled");
    Ok(Json(EnrolAnswer { certificate }))
}

/// Checks that the request is signed with the key that it names.
fn verify(envelope: &Envelope) -> Result<EnrolmentRequest, ApiError> {
    let payload = envelope.unverified_payload().map_err(|error| ApiError::malformed(&error))?;
    let request = EnrolmentRequest::parse(&payload).map_err(|error| ApiError::malformed(&error))?;
    let key = PublicKey::from_bytes(request.key.0).map_err(|error| ApiError::malformed(&error))?;
    let signed = envelope.verify(certificate::REQUEST_PAYLOAD_TYPE, &key);
    signed.map_err(|error| ApiError::forbidden("bad_signature", error.to_string()))?;
    Ok(request)
}

fn sign(certificate: &Certificate, key: &SigningKey) -> Result<Envelope, DbError> {
    let bytes = certificate.to_bytes().map_err(|error| DbError::Damaged(error.to_string()))?;
    Ok(Envelope::sign(certificate::PAYLOAD_TYPE, &bytes, key))
}

/// Returns a certificate issued before, if it says what is asked for now.
fn same(issued: &str, request: &EnrolmentRequest) -> Option<Envelope> {
    let envelope: Envelope = serde_json::from_str(issued).ok()?;
    let certificate = Certificate::parse(&envelope.unverified_payload().ok()?).ok()?;
    let same = (&certificate.name, &certificate.groups, &certificate.labels)
        == (&request.name, &request.groups, &request.labels);
    same.then_some(envelope)
}

fn refuse(error: &TokenError) -> ApiError {
    let code = match error {
        TokenError::Group(_) => "token_group",
        TokenError::Name(_) => "name_taken",
        TokenError::Unknown | TokenError::Expired(_) | TokenError::Used => "token",
    };
    let fix = match error {
        TokenError::Name(_) => "choose another name, or ask for a token for both groups",
        TokenError::Group(_) | TokenError::Unknown | TokenError::Expired(_) | TokenError::Used => {
            "ask the operator for a new token"
        }
    };
    let problem = Problem::new(Kind::Trust, code, error.to_string())
        .leaves("the host is not enrolled")
        .fix(fix)
        .next("registry host enroll-token");
    ApiError::new(StatusCode::FORBIDDEN, problem)
}
