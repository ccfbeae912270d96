//! Tokens, hosts that show them, and the end of a host.

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{
    certificate::Certificate,
    id::{GroupName, HostId, RealmName},
    time::Time,
    trust::dsse::Envelope,
};

use super::{DbError, host, json, lists, time};
use crate::db::{
    events::{Event, What},
    hosts::{Application, EnrolRefusal, Revocation, Standing},
    tokens::{Grant, TokenError},
};

/// Keeps a token by its hash.
pub(super) fn add_token(
    db: &Connection,
    hash: &[u8; 32],
    grant: &Grant,
    now: Time,
) -> Result<(), DbError> {
    let Grant { realm, groups, labels, uses, expires_at } = grant;
    db.execute(
        "INSERT INTO tokens (hash, realm, groups, labels, uses, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            hash,
            realm.as_str(),
            json(groups)?,
            json(labels)?,
            uses,
            now.as_second(),
            expires_at.as_second()
        ],
    )?;
    let names: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
    super::event::note(
        db,
        &Event {
            realm: realm.clone(),
            at: now,
            what: What::TokenMade,
            subject: names.join(","),
            detail: format!("for {uses} hosts, until {expires_at}"),
        },
    )
}

/// Takes a host in; its reports count from the next one on.
pub(super) fn enrol(
    db: &Connection,
    application: Application,
    now: Time,
) -> Result<Result<String, EnrolRefusal>, DbError> {
    let realm = application.certificate.realm.clone();
    let known = host::find(db, &realm, &application.certificate.host.to_string())?;
    if let Some(Standing::Revoked(Revocation { at, why })) = known.map(|known| known.standing) {
        return Ok(Err(EnrolRefusal::Revoked { at, why }));
    }
    let issued = issued(db, &application)?;
    let grant = match redeem(db, &application, issued.is_some(), now)? {
        Ok(grant) => grant,
        Err(refusal) => return Ok(Err(refusal.into())),
    };
    // A host that lost our answer asks again with the same token and the same key.
    if let Some((envelope, _)) = issued.filter(|(_, it)| application.is_answered_by(it)) {
        return Ok(Ok(envelope));
    }
    let Application { certificate, envelope, token } = application;
    let id = host::put(db, &certificate, Some(&envelope), now)?;
    db.execute(
        "UPDATE hosts SET token = ?2, enrolled_at = ?3, replaced = NULL WHERE id = ?1",
        params![id, token, now.as_second()],
    )?;
    db.execute("UPDATE reports SET counter = coalesce(counter, 0) WHERE id = ?1", [id])?;
    lists::enter(db, id, &certificate)?;
    host::replace_others(db, &certificate)?;
    let groups: Vec<&str> = certificate.groups.iter().map(GroupName::as_str).collect();
    super::event::note(
        db,
        &Event {
            realm: grant.realm,
            at: now,
            what: What::Enrolled,
            subject: certificate.name.to_string(),
            detail: format!("as {} into {}", certificate.host, groups.join(", ")),
        },
    )?;
    Ok(Ok(envelope))
}

/// Returns the certificate that this host got for this token, if it did.
fn issued(
    db: &Connection,
    application: &Application,
) -> Result<Option<(String, Certificate)>, DbError> {
    let Application { certificate, token, .. } = application;
    let select = "SELECT envelope FROM hosts WHERE realm = ?1 AND host = ?2 AND token = ?3";
    let params = params![certificate.realm.as_str(), certificate.host.to_string(), token];
    let found: Option<Option<String>> =
        db.query_row(select, params, |row| row.get(0)).optional()?;
    let Some(envelope) = found.flatten() else { return Ok(None) };
    let read = |text: &str| {
        let envelope: Envelope = serde_json::from_str(text).ok()?;
        Certificate::parse(&envelope.unverified_payload().ok()?).ok()
    };
    let certificate = read(&envelope).ok_or_else(|| DbError::damaged(&envelope))?;
    Ok(Some((envelope, certificate)))
}

/// Takes one use of a token; a refusal takes none, nor does a host that has enrolled with it.
fn redeem(
    db: &Connection,
    application: &Application,
    again: bool,
    now: Time,
) -> Result<Result<Grant, TokenError>, DbError> {
    let Application { certificate, token, .. } = application;
    let realm = &certificate.realm;
    let select =
        "SELECT groups, labels, uses, expires_at FROM tokens WHERE hash = ?1 AND realm = ?2";
    let found = db
        .query_row(select, params![token, realm.as_str()], |row| {
            let text = |column| row.get::<_, String>(column);
            Ok((text(0)?, text(1)?, row.get::<_, u32>(2)?, row.get::<_, i64>(3)?))
        })
        .optional()?;
    let Some((groups, labels, uses, expires_at)) = found else {
        return Ok(Err(TokenError::Unknown));
    };
    let grant = Grant {
        realm: realm.clone(),
        groups: serde_json::from_str(&groups).map_err(|_| DbError::Damaged(groups))?,
        labels: serde_json::from_str(&labels).map_err(|_| DbError::Damaged(labels))?,
        uses,
        expires_at: time(expires_at)?,
    };
    let replaced = host::groups_of_others(db, certificate)?;
    if let Err(refusal) = grant.check(&certificate.groups, &certificate.labels, &replaced) {
        return Ok(Err(refusal));
    }
    if again {
        return Ok(Ok(grant));
    }
    if grant.expires_at <= now {
        return Ok(Err(TokenError::Expired(grant.expires_at)));
    }
    if uses == 0 {
        return Ok(Err(TokenError::Used));
    }
    db.execute("UPDATE tokens SET uses = uses - 1 WHERE hash = ?1", [token])?;
    Ok(Ok(grant))
}

/// Takes no more reports of a host, and leaves it out of every list.
pub(super) fn revoke(
    db: &Connection,
    realm: &RealmName,
    host: &HostId,
    revocation: &Revocation,
) -> Result<bool, DbError> {
    let Revocation { at, why } = revocation;
    let update = "UPDATE hosts SET revoked_at = ?3, revoked_why = ?4
         WHERE realm = ?1 AND host = ?2 RETURNING id, name";
    let params = params![realm.as_str(), host.to_string(), at.as_second(), why];
    let found: Option<(i64, String)> =
        db.query_row(update, params, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((id, name)) = found else { return Ok(false) };
    lists::leave(db, id)?;
    db.execute("UPDATE reports SET heard = 0 WHERE id = ?1", [id])?;
    // Nor is its word on what it has seen worth anything.
    let forget = "DELETE FROM ahead WHERE realm = ?1 AND host = ?2";
    db.execute(forget, params![realm.as_str(), host.to_string()])?;
    super::event::note(
        db,
        &Event {
            realm: realm.clone(),
            at: *at,
            what: What::Revoked,
            subject: name,
            detail: format!("key {host}: {why}"),
        },
    )?;
    Ok(true)
}
