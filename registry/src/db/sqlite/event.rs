//! What happened.

use rusqlite::{Connection, params};
use shared::id::RealmName;

use super::{DbError, time};
use crate::db::events::{Event, Noted, What};

/// Appends an event.
pub(super) fn note(db: &Connection, event: &Event) -> Result<(), DbError> {
    let Event { realm, at, what, subject, detail } = event;
    let mut insert = db.prepare_cached(
        "INSERT INTO events (realm, at, what, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    insert.execute(params![realm.as_str(), at.as_second(), what.word(), subject, detail])?;
    Ok(())
}

/// Lists events, oldest first, from behind the number `after`.
pub(super) fn list(
    db: &Connection,
    realm: &RealmName,
    after: u64,
    limit: usize,
) -> Result<Vec<Noted>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT number, at, what, subject, detail FROM events
         WHERE realm = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
    )?;
    let mut rows = select.query(params![realm.as_str(), after, limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let what: String = row.get(2)?;
        events.push(Noted {
            number: row.get(0)?,
            event: Event {
                realm: realm.clone(),
                at: time(row.get(1)?)?,
                what: What::from_word(&what).ok_or(DbError::Damaged(what))?,
                subject: row.get(3)?,
                detail: row.get(4)?,
            },
        });
    }
    Ok(events)
}
