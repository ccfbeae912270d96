//! `POST /reports`: what a host says of itself.

use std::sync::{Arc, atomic::Ordering};

use axum::{Json, extract::State};
use data_encoding::HEXLOWER;
use rand::{TryRng as _, rngs::SysRng};
use shared::{
    api::ReportAnswer,
    report::{self, Report},
    time::Time,
    trust::dsse::Envelope,
};

use super::{body::Whole, error::ApiError, extract::Path};
use crate::{
    app::App,
    certificates::{Signers, Verified},
    db::{
        Db as _,
        reports::{Incoming, Stored},
    },
    realm::Realm,
};

/// Stores a report, and answers when it is on the disk.
#[utoipa::path(
    post,
    path = "/api/v1/realms/{realm}/reports",
    tag = "for hosts",
    params(("realm" = String, Path)),
    responses((status = 200, description = "It is stored", body = ReportAnswer)),
    request_body = Envelope
)]
pub(crate) async fn report(
    State(app): State<Arc<App>>,
    Path(realm): Path<String>,
    Whole(body): Whole,
) -> Result<Json<ReportAnswer>, ApiError> {
    let realm = app.realm(&realm)?;
    let now = app.time();
    // Two signatures at most: less work than handing it to another thread and back would save.
    let incoming = verify(&app, realm, &body, now)?;
    drop(body);
    let counter = incoming.report.counter;
    let age = now.as_second().saturating_sub(incoming.report.time.as_second());
    if let Some(theirs) = incoming.ahead {
        warn_of_old_files(&app, realm, &incoming.report, theirs);
    }
    let stored = app.db.ingest(incoming, now).await;
    match stored.map_err(|error| ApiError::of_database(&error))? {
        Stored::Yes => {
            app.metrics.stored(age);
            Ok(Json(ReportAnswer { counter }))
        }
        Stored::Challenge { nonce, highest: Some(highest) } => {
            let what = format!("counter {counter} does not follow on what was told before");
            Err(ApiError::challenge(what, nonce, Some(highest)))
        }
        Stored::Challenge { nonce, highest: None } => {
            let what = "this registry does not know the host's counter";
            Err(ApiError::challenge(what, nonce, None))
        }
        Stored::Revoked(revocation) => {
            let what = format!("the host was revoked at {}: {}", revocation.at, revocation.why);
            let fix = "remove the host's key, and enrol with a new one";
            Err(ApiError::forbidden("revoked", what).fix(fix))
        }
        Stored::Replaced(by) => {
            let what = format!("host {by} has enrolled under this name since");
            Err(ApiError::forbidden("replaced", what).fix("enrol the host under another name"))
        }
    }
}

/// A host that has seen more than we have is the only one who can tell us that our files are old.
fn warn_of_old_files(app: &App, realm: &Realm, report: &Report, theirs: u64) {
    // A fleet that says the same is one line.
    if app.warned_of.fetch_max(theirs, Ordering::Relaxed) >= theirs {
        return;
    }
    let ours = realm.version("timestamp");
    tracing::warn!(
        realm = %realm.name(), host.name = %report.name, ours, theirs,
        "a host has seen newer files than these; they may be of an old backup: registry recover"
    );
}

fn verify(app: &App, realm: &Realm, body: &[u8], now: Time) -> Result<Incoming, ApiError> {
    let envelope =
        Envelope::parse(body, report::MAX_LEN).map_err(|error| ApiError::malformed(&error))?;
    let signed = envelope.certificate.as_deref().ok_or_else(|| {
        ApiError::forbidden("no_certificate", "the report comes without a certificate")
    })?;
    let signers = Signers { realm, own: app.enrolment_key() };
    let certified = signed.to_bytes();
    let Verified { certificate, key } =
        app.certificates.verify(signed, &certified, signers, now)?;
    let payload = envelope
        .verify(report::PAYLOAD_TYPE, &key)
        .map_err(|error| ApiError::forbidden("bad_signature", error.to_string()))?;
    let report = Report::parse(&payload).map_err(|error| ApiError::malformed(&error))?;
    let said = (&report.realm, &report.host, &report.name);
    if said != (&certificate.realm, &certificate.host, &certificate.name) {
        let what = "the report is of another host than its certificate";
        return Err(ApiError::forbidden("other_host", what));
    }
    let foreign = report.profiles.iter().find(|it| !certificate.groups.contains(&it.group));
    if let Some(foreign) = foreign {
        let what = format!("the certificate does not name group `{}`", foreign.group);
        return Err(ApiError::forbidden("foreign_group", what).fix("enrol the host for it"));
    }
    let mut nonce = [0; 16];
    SysRng.try_fill_bytes(&mut nonce).map_err(|error| ApiError::internal(&error))?;
    let seen = report.trust.timestamp.map(u64::from);
    Ok(Incoming {
        ahead: seen.filter(|seen| *seen > realm.version("timestamp")),
        envelope: String::from_utf8(certified).unwrap_or_default(),
        signatures: serde_json::to_string(&envelope.signatures).unwrap_or_default(),
        nonce: HEXLOWER.encode(&nonce),
        certificate,
        report,
        payload,
    })
}
