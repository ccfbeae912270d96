//! Tokens with which a realm can be read.

use rusqlite::{Connection, params};
use shared::{
    id::{RealmName, TokenName},
    time::Time,
};

use super::{DbError, time};
use crate::db::{
    events::{Event, What},
    tokens::ReadToken,
};

/// Keeps a token by its hash, unless another one has its name.
pub(super) fn add(db: &Connection, hash: &[u8; 32], token: &ReadToken) -> Result<bool, DbError> {
    let ReadToken { realm, name, created_at, expires_at } = token;
    let added = db.execute(
        "INSERT INTO read_tokens (hash, realm, name, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (realm, name) DO NOTHING",
        params![
            hash,
            realm.as_str(),
            name.as_str(),
            created_at.as_second(),
            expires_at.as_second()
        ],
    )?;
    if added == 0 {
        return Ok(false);
    }
    let detail = format!("until {expires_at}");
    note(db, (realm, name), What::ReadTokenMade, &detail, *created_at)?;
    Ok(true)
}

/// Lists all of a realm by name.
pub(super) fn list(db: &Connection, realm: &RealmName) -> Result<Vec<ReadToken>, DbError> {
    let select = "SELECT name, created_at, expires_at FROM read_tokens
         WHERE realm = ?1 ORDER BY name";
    let mut select = db.prepare_cached(select)?;
    let rows = select.query_map([realm.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    })?;
    rows.map(|row| {
        let (name, created_at, expires_at) = row?;
        Ok(ReadToken {
            realm: realm.clone(),
            name: TokenName::parse(&name).map_err(|_| DbError::Damaged(name))?,
            created_at: time(created_at)?,
            expires_at: time(expires_at)?,
        })
    })
    .collect()
}

/// Forgets one.
pub(super) fn revoke(
    db: &Connection,
    realm: &RealmName,
    name: &TokenName,
    now: Time,
) -> Result<bool, DbError> {
    let delete = "DELETE FROM read_tokens WHERE realm = ?1 AND name = ?2";
    if db.execute(delete, [realm.as_str(), name.as_str()])? == 0 {
        return Ok(false);
    }
    note(db, (realm, name), What::ReadTokenRevoked, "nobody reads with it any more", now)?;
    Ok(true)
}

/// Tells whether one of this hash is good for this realm, or for any.
pub(super) fn is_good(
    db: &Connection,
    hash: &[u8; 32],
    realm: Option<&RealmName>,
    now: Time,
) -> Result<bool, DbError> {
    let select = "SELECT EXISTS (SELECT 1 FROM read_tokens
         WHERE hash = ?1 AND realm = coalesce(?2, realm) AND expires_at > ?3)";
    let params = params![hash, realm.map(RealmName::as_str), now.as_second()];
    Ok(db.prepare_cached(select)?.query_row(params, |row| row.get(0))?)
}

fn note(
    db: &Connection,
    (realm, name): (&RealmName, &TokenName),
    what: What,
    detail: &str,
    at: Time,
) -> Result<(), DbError> {
    let (realm, subject, detail) = (realm.clone(), name.to_string(), detail.to_owned());
    super::event::note(db, &Event { realm, at, what, subject, detail })
}
