//! `POST /enrol`: a host shows a token and its key, and gets a certificate.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use shared::{
    api::{EnrolAnswer, EnrolRequest},
    certificate::{self, Certificate, EnrolmentRequest},
    json,
    problem::{Kind, Problem},
    trust::{PublicKey, dsse::Envelope},
};

use super::{body::Whole, error::ApiError, extract::Path};
use crate::{
    app::App,
    db::{
        Db as _,
        hosts::{Application, EnrolRefusal},
        tokens::{self, TokenError},
    },
};

/// Seconds that a certificate holds: 400 days, so that a yearly renewal is never late.
const LIFE: i64 = 400 * 24 * 3600;

const MAX_LEN: usize = 64 * 1024;

const NEW_TOKEN: &str = "ask the operator for a new token";

/// Takes a host's key into the realm, for the groups that its token allows.
#[utoipa::path(
    post,
    path = "/api/v1/realms/{realm}/enrol",
    tag = "for hosts",
    params(("realm" = String, Path)),
    responses((status = 200, description = "The certificate", body = EnrolAnswer)),
    request_body = EnrolRequest
)]
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
    // Signed before the token is looked at; it leaves the server only if the token is good.
    let signed = certificate.to_bytes().map_err(|error| ApiError::internal(&error))?;
    let signed = Envelope::sign(certificate::PAYLOAD_TYPE, &signed, &key);
    let envelope = String::from_utf8_lossy(&signed.to_bytes()).into_owned();
    let application = Application { certificate, envelope, token: tokens::hash(&token) };
    let answer = app.db.enrol(application, now).await;
    let envelope = answer
        .map_err(|error| ApiError::of_database(&error))?
        .map_err(|refusal| refuse(&refusal))?;
    let certificate =
        serde_json::from_str(&envelope).map_err(|error| ApiError::internal(&error))?;
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

fn refuse(refusal: &EnrolRefusal) -> ApiError {
    let (code, fix) = match refusal {
        EnrolRefusal::Revoked { .. } => {
            ("revoked", "remove the host's key, and enrol with a new one")
        }
        EnrolRefusal::Token(TokenError::Group(_)) => ("token_group", NEW_TOKEN),
        EnrolRefusal::Token(TokenError::Label(..)) => {
            ("token_label", "set the label in the host's configuration, or ask for another token")
        }
        EnrolRefusal::Token(TokenError::Name(_)) => {
            ("name_taken", "choose another name, or ask for a token for both groups")
        }
        EnrolRefusal::Token(TokenError::Expired(_)) => ("token_expired", NEW_TOKEN),
        EnrolRefusal::Token(TokenError::Used) => ("token_used", NEW_TOKEN),
        EnrolRefusal::Token(TokenError::Unknown) => ("token", NEW_TOKEN),
    };
    let problem = Problem::new(Kind::Trust, code, refusal.to_string())
        .leaves("the host is not enrolled")
        .fix(fix)
        .next("registry host enroll-token");
    ApiError::new(StatusCode::FORBIDDEN, problem)
}
