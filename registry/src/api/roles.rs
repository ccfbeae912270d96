//! `PUT /roles/{role}`: a publication.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        Multipart, State,
        multipart::{Field, MultipartError, MultipartRejection},
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

use tokio::sync::SemaphorePermit;

use super::{blocking, error::ApiError, extract::Path};
use crate::{
    app::App,
    db::{Db as _, DbError},
    realm::{Precondition, PublishError, Realm, Rest, Submission, publications},
    router::MAX_PUBLICATION,
};

/// How long the largest publication may take to come.
const UPLOAD: Duration = Duration::from_secs(600);
/// Bytes a second that a publisher must reach, on the whole.
const RATE: u64 = 64 * 1024;

/// Takes a new version of a role, with the files that it references.
#[utoipa::path(
    put,
    path = "/api/v1/realms/{realm}/roles/{role}",
    tag = "for publishers",
    params(("realm" = String, Path), ("role" = String, Path)),
    responses((status = 201, description = "It is committed, and served from now on", body = PublishReceipt)),
    request_body(content = Object, content_type = "multipart/form-data", description = "Part `role`, then parts `blob` and `hints` that it references")
)]
pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Path((realm, role)): Path<(String, String)>,
    headers: HeaderMap,
    multipart: Result<Multipart, MultipartRejection>,
) -> Result<(StatusCode, Json<PublishReceipt>), ApiError> {
    let realm = Arc::clone(app.realm(&realm)?);
    let expected = precondition(&headers)?;
    let multipart = multipart.map_err(|rejection| form(&rejection.body_text()))?;
    let now = app.now();
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(MAX_PUBLICATION as u64);
    let deadline = UPLOAD.min(app.body_time + Duration::from_secs(length / RATE));
    let reading = read(multipart, (&app, length), &realm, (&role, expected), now);
    let (submission, _permit) = tokio::time::timeout(deadline, reading)
        .await
        .map_err(|_| ApiError::too_slow("the publication"))??;
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
) -> Result<(), DbError> {
    let (name, role) = (realm.name().clone(), role.to_owned());
    let (blobs, rules) = (realm.blobs().clone(), Rules::shoal(name.as_str()));
    let found = {
        let role = role.clone();
        let reading =
            tokio::task::spawn_blocking(move || publications(&blobs, &rules, &role, version, at));
        reading.await.map_err(|_| DbError::Closed)?
    };
    app.db.add_publications(name, (role, version), found, at).await
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

/// Reads the parts. Publishers share so much memory for their files, and only those have any who
/// may publish: the role comes first, and is checked before anything else is read.
async fn read<'a>(
    mut multipart: Multipart,
    (app, length): (&'a App, u64),
    realm: &Arc<Realm>,
    (role, expected): (&str, Precondition),
    now: jiff::Timestamp,
) -> Result<(Submission, Option<SemaphorePermit<'a>>), ApiError> {
    let mut submission = Submission::default();
    let mut rest = None;
    let mut permit = None;
    while let Some(field) = multipart.next_field().await.map_err(|error| unread(&error))? {
        let part = field.name().and_then(Part::from_name);
        let part = part.ok_or_else(|| form("a part that is not `role`, `blob` or `hints`"))?;
        match (part, rest) {
            (Part::Role, None) => {
                let max = Rules::shoal(realm.name().as_str()).max_len(role);
                submission.role = whole(field, max).await?.into();
                let (realm, role, bytes) =
                    (Arc::clone(realm), role.to_owned(), submission.role.clone());
                let checked = move || realm.may_publish(&role, expected, &bytes, now);
                rest = Some(blocking(checked).await??);
                if rest == Some(Rest::Needed) {
                    let waiting = app.publications.acquire_many(room(length)).await;
                    permit = Some(waiting.map_err(|error| ApiError::internal(&error))?);
                }
            }
            (Part::Blob, Some(Rest::Needed)) => {
                let bytes = whole(field, closure::MAX_LEN as u64).await?;
                submission.blobs.insert(Sha256::of(&bytes), bytes.into());
            }
            (Part::Hints, Some(Rest::Needed)) => {
                submission.hints.push(whole(field, hints::MAX_LEN as u64).await?.into());
            }
            // Read, so that the answer is heard, and dropped.
            (Part::Blob | Part::Hints, Some(Rest::Known)) => drain(field).await?,
            (Part::Role, Some(_)) => return Err(form("a second part `role`")),
            (Part::Blob | Part::Hints, None) => return Err(form("a part before `role`")),
        }
    }
    match rest {
        Some(_) => Ok((submission, permit)),
        None => Err(form("no part `role`")),
    }
}

/// Returns how many MiB of memory a publication of so many bytes needs.
fn room(length: u64) -> u32 {
    let bytes = length.min(MAX_PUBLICATION as u64);
    u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
}

async fn drain(mut field: Field<'_>) -> Result<(), ApiError> {
    while field.chunk().await.map_err(|error| unread(&error))?.is_some() {}
    Ok(())
}

async fn whole(mut field: Field<'_>, max: u64) -> Result<Bytes, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| unread(&error))? {
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(ApiError::too_large(format!("a part has more than {max} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

fn unread(error: &MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::too_large("the publication is too large");
    }
    form(&error.body_text())
}

fn form(what: &str) -> ApiError {
    let problem = Problem::new(
        Kind::Usage,
        "malformed",
        format!("the publication is not of its form: {what}"),
    );
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
            PublishError::Shard { source, .. } if source.is_unsupported() => unsupported(),
            PublishError::NoShard { .. } => unprocessable("missing_shard"),
            PublishError::Shard { .. } => unprocessable("shard"),
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
