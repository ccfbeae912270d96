//! What changes, in order. Triggers write it, so that it holds for whatever changes the tables, also
//! for another process.

use rusqlite::{Connection, params};
use shared::id::RealmName;

use super::{DbError, event, history, host};
use crate::db::stream::{Change, Changed, Known};

/// Returns which numbers are known.
pub(super) fn known(db: &Connection) -> Result<Known, DbError> {
    let mut select = db.prepare_cached("SELECT min(number), max(number) FROM stream")?;
    let (oldest, newest): (Option<u64>, Option<u64>) =
        select.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let before = oldest.unwrap_or_default().saturating_sub(1);
    Ok(Known { before, newest: newest.unwrap_or_default() })
}

/// A row of the stream: it names what has changed.
struct Named {
    number: u64,
    host: Option<i64>,
    event: Option<u64>,
    target: Option<(String, String, u64)>,
}

/// Lists changes, oldest first, from behind the number `after`, and the number of the last row that
/// was looked at. A host that changed several times is told once, as it is by now.
pub(super) fn changes(
    db: &Connection,
    realm: &RealmName,
    after: u64,
    limit: usize,
) -> Result<(Vec<Change>, u64), DbError> {
    let mut select = db.prepare_cached(
        "SELECT number, host, event, target, role, role_version FROM stream
         WHERE number > ?1 AND realm = ?2 ORDER BY number LIMIT ?3",
    )?;
    let rows = select.query_map(params![after, realm.as_str(), limit], |row| {
        let target: Option<String> = row.get(3)?;
        let target = match target {
            Some(target) => Some((target, row.get(4)?, row.get(5)?)),
            None => None,
        };
        Ok(Named { number: row.get(0)?, host: row.get(1)?, event: row.get(2)?, target })
    })?;
    let rows: Vec<Named> = rows.collect::<Result<_, _>>()?;
    let last = rows.last().map_or(after, |row| row.number);
    let mut changes = Vec::new();
    let mut told = std::collections::BTreeSet::new();
    for row in rows.into_iter().rev() {
        if row.host.is_some_and(|host| !told.insert(host)) {
            continue;
        }
        let number = row.number;
        // What is gone since is told no more.
        changes.extend(find(db, realm, row)?.map(|what| Change { number, what }));
    }
    changes.reverse();
    Ok((changes, last))
}

fn find(db: &Connection, realm: &RealmName, row: Named) -> Result<Option<Changed>, DbError> {
    if let Some(id) = row.host {
        return Ok(host::by_key(db, id)?.map(|row| Changed::Host(Box::new(row))));
    }
    if let Some((target, role, version)) = row.target {
        let found = history::one(db, realm, (&target, &role, version))?;
        return Ok(found.map(|it| Changed::Published(Box::new(it))));
    }
    let Some(number) = row.event else { return Ok(None) };
    let noted = event::list(db, realm, number.saturating_sub(1), 1)?;
    Ok(noted.into_iter().find(|noted| noted.number == number).map(Changed::Noted))
}
