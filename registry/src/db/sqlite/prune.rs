//! Deleting what is older than it has to be.

use rusqlite::{Connection, params};
use shared::time::Time;

use super::DbError;
use crate::db::retention::{Pruned, Retention};

/// Rows of a kind that go in one transaction.
const SOME: usize = 1000;

/// Deletes some of what is too old; nothing was when it deletes nothing.
pub(super) fn prune(db: &Connection, retention: &Retention, now: Time) -> Result<Pruned, DbError> {
    let before = |seconds: Option<u32>| seconds.map(|it| now.plus(-i64::from(it)).as_second());
    let delete = |sql: &str, before: Option<i64>| -> Result<usize, DbError> {
        match before {
            Some(before) => Ok(db.execute(sql, params![before, SOME])?),
            None => Ok(0),
        }
    };
    Ok(Pruned {
        attempts: delete(
            "DELETE FROM attempts WHERE rowid IN
             (SELECT rowid FROM attempts WHERE told_at < ?1 LIMIT ?2)",
            before(retention.attempts),
        )?,
        // A revoked key must stay known, or it would be let in again.
        hosts: delete(
            "DELETE FROM hosts WHERE id IN
             (SELECT hosts.id FROM hosts JOIN reports USING (id)
              WHERE coalesce(at, enrolled_at) < ?1 AND enrolled_at < ?1
              AND revoked_at IS NULL LIMIT ?2)",
            before(retention.hosts),
        )?,
        tokens: delete(
            "DELETE FROM tokens WHERE hash IN
             (SELECT hash FROM tokens WHERE expires_at < ?1 LIMIT ?2)",
            before(retention.tokens),
        )? + delete(
            "DELETE FROM read_tokens WHERE hash IN
             (SELECT hash FROM read_tokens WHERE expires_at < ?1 LIMIT ?2)",
            before(retention.tokens),
        )?,
    })
}
