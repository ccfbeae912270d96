//! What became of the attempts of hosts.

use rusqlite::{Connection, params};

use super::{DbError, time};
use crate::db::attempts::{AttemptQuery, AttemptRow};

/// Lists what became of a host's attempts, the latest first.
pub(super) fn list(db: &Connection, query: &AttemptQuery) -> Result<Vec<AttemptRow>, DbError> {
    let AttemptQuery { realm, host, attempt, target, before, limit } = query;
    // Of one host, of which so many are kept: nothing beyond them is looked at.
    let mut select = db.prepare_cached(
        "SELECT attempts.rowid, attempts.profile, told_at FROM attempts JOIN hosts USING (id)
         WHERE realm = ?1 AND host = ?2 AND (?3 IS NULL OR attempt = ?3)
             AND (?4 IS NULL OR target = ?4) AND (?5 IS NULL OR attempts.rowid < ?5)
         ORDER BY attempts.rowid DESC LIMIT ?6",
    )?;
    let host = host.to_string();
    let mut rows = select.query(params![realm.as_str(), host, attempt, target, before, limit])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        let profile: String = row.get(1)?;
        attempts.push(AttemptRow {
            key: row.get(0)?,
            profile: serde_json::from_str(&profile).map_err(|_| DbError::Damaged(profile))?,
            told_at: time(row.get(2)?)?,
        });
    }
    Ok(attempts)
}
