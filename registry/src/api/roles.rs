//! `PUT /roles/{role}`: a publication.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{
        Multipart, Path, State,
        multipart::{Field, MultipartError},
    },
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use shared::{
    api::{Part, PublishReceipt},
    closure, hints,
    nix::Sha256,
    problem::{Kind, Problem},
    time::Time,
    trust::Rules,
};

use super::{blocking, error::ApiError};
use crate::{
    app::App,
    realm::{Precondition, PublishError, Realm, Submission, publications},
};

/// Takes a new version of a role, with the files that it references.
pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Path((realm, role)): Path<(String, String)>,
    headers: HeaderMap,
    multipart: Multipart,
) -> Result<(StatusCode, Json<PublishReceipt>), ApiError> {
    let realm = Arc::clone(app.realm(&realm)?);
    let expected = precondition(&headers)?;
    // Only so many may hold their files in memory at once.
    let _permit = app.publications.acquire().await.map_err(|error| ApiError::internal(&error))?;
    let now = app.now();
    let submission = read(multipart, &realm, &role, expected, now).await?;
    let publishing = Arc::clone(&realm);
    let receipt = blocking(move || publishing.publish(&role, expected, &submission, now)).await??;
    tracing::info!(
        realm = %realm.name(), role = receipt.role, version = receipt.version,
        timestamp = receipt.timestamp, "published"
    );
    if let Err(error) = index(&app, &realm, &receipt.role, receipt.version, Time::of(now)).await {
        // The files are the truth; the next start completes the index.
        tracing::warn!(error = %error, role = receipt.role, "the history lacks a publication");
    }
    Ok((StatusCode::CREATED, Json(receipt)))
}

/// Adds one version of a role to the history.
pub(crate) async fn index(
    app: &App,
    realm: &Arc<Realm>,
    role: &str,
    version: u64,
    at: Time,
) -> Result<(), crate::db::DbError> {
    let (name, role) = (realm.name().clone(), role.to_owned());
    let blobs = realm.blobs().clone();
    app.db
        .write(move |db| {
            let rules = Rules::shoal(name.as_str());
            let found = publications(&blobs, &rules, &role, version, at);
            crate::db::publications::add(db, &name, &role, version, &found)
        })
        .await
}

fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let value = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match (value(header::IF_MATCH), value(header::IF_NONE_MATCH)) {
        (Some(tag), None) => {
            let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let version = version.and_then(|version| version.parse().ok());
            version.map(Precondition::Version).ok_or_else(unconditional)
        }
        (None, Some("*")) => Ok(Precondition::Absent),
        (Some(_) | None, Some(_)) | (None, None) => Err(unconditional()),
    }
}

fn unconditional() -> ApiError {
    let what = "a publication must say what it follows on";
    let problem = Problem::new(Kind::Usage, "precondition", what)
        .leaves("nothing changed")
        .fix("send `If-Match: \"<version>\"`, or `If-None-Match: *` the first time");
    ApiError::new(StatusCode::PRECONDITION_REQUIRED, problem)
}

async fn read(
    mut multipart: Multipart,
    realm: &Arc<Realm>,
    role: &str,
    expected: Precondition,
    now: jiff::Timestamp,
) -> Result<Submission, ApiError> {
    let mut submission = Submission { role: Vec::new(), blobs: BTreeMap::new(), hints: Vec::new() };
    while let Some(field) = multipart.next_field().await.map_err(|error| unread(&error))? {
        match (field.name().and_then(Part::from_name), submission.role.is_empty()) {
            (Some(Part::Role), true) => {
                let max = Rules::shoal(realm.name().as_str()).max_len(role);
                submission.role = whole(field, max).await?.into();
                // Whoever may not publish need not send the rest.
                let (realm, role, bytes) =
                    (Arc::clone(realm), role.to_owned(), submission.role.clone());
                blocking(move || realm.may_publish(&role, expected, &bytes, now)).await??;
            }
            (Some(Part::Blob), false) => {
                let bytes = whole(field, closure::MAX_LEN as u64).await?;
                submission.blobs.insert(Sha256::of(&bytes), bytes.into());
            }
            (Some(Part::Hints), false) => {
                submission.hints.push(whole(field, hints::MAX_LEN as u64).await?.into());
            }
            (Some(Part::Role), false) => return Err(form("a second part `role`")),
            (Some(Part::Blob | Part::Hints), true) => return Err(form("a part before `role`")),
            (None, _) => return Err(form("a part that is not `role`, `blob` or `hints`")),
        }
    }
    if submission.role.is_empty() {
        return Err(form("no part `role`"));
    }
    Ok(submission)
}

async fn whole(mut field: Field<'_>, max: u64) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| unread(&error))? {
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(too_large(&format!("a part has more than {max} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn unread(error: &MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large("the publication is too large");
    }
    form(&error.body_text())
}

fn too_large(what: &str) -> ApiError {
    let problem = Problem::new(Kind::Trust, "too_large", what).leaves("nothing changed");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, problem)
}

fn form(what: &str) -> ApiError {
    let problem = Problem::new(Kind::Usage, "malformed", format!("the publication has {what}"));
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, problem.leaves("nothing changed"))
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let (status, kind, code) = match &error {
            PublishError::Moved { .. } => {
                (StatusCode::PRECONDITION_FAILED, Kind::Conflict, "moved")
            }
            PublishError::Refused(refusal) => {
                let status = StatusCode::from_u16(refusal.status());
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let moved = status == StatusCode::PRECONDITION_FAILED;
                let kind = if moved { Kind::Conflict } else { Kind::Trust };
                (status, kind, refusal.code())
            }
            PublishError::Manifest { source, .. } if source.is_unsupported() => unsupported(),
            PublishError::Policy { source, .. } if source.is_unsupported() => unsupported(),
            PublishError::Unsupported { .. } => unsupported(),
            PublishError::Version { .. } => unprocessable("version"),
            PublishError::Path(_) => unprocessable("target_path"),
            PublishError::Manifest { .. } => unprocessable("manifest"),
            PublishError::Policy { .. } => unprocessable("policy"),
            PublishError::NoClosure { .. } => unprocessable("missing_closure"),
            PublishError::Closure { .. } | PublishError::OtherClosure { .. } => {
                unprocessable("closure")
            }
            PublishError::Hints(_) => unprocessable("hints"),
            PublishError::OnlineKey(_) => unprocessable("online_key"),
            PublishError::Agent(_) => unprocessable("refused_by_agents"),
            PublishError::Realm(_) => return Self::internal(&error),
        };
        let problem = Problem::from_error(kind, code, &error).leaves("nothing changed");
        Self::new(status, problem)
    }
}

fn unprocessable(code: &'static str) -> (StatusCode, Kind, &'static str) {
    (StatusCode::UNPROCESSABLE_ENTITY, Kind::Trust, code)
}

fn unsupported() -> (StatusCode, Kind, &'static str) {
    unprocessable("unsupported")
}
