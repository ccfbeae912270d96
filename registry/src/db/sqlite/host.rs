//! One host: who it is, and what it said.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use shared::{
    certificate::Certificate,
    id::{GroupName, HostId, RealmName},
    state_word::StateWord,
    time::Time,
};

use super::{DbError, json, lists, time};
use crate::db::hosts::{HostRow, Revocation, Roster, Standing};

/// What [`row`] reads.
pub(super) const COLUMNS: &str = "hosts.id, certificate, enrolled_at, replaced, revoked_at, \
     revoked_why, hosts.shown, reports.at, reports.payload";

/// Finds a host by its id, or the one that has this name now.
pub(super) fn find(
    db: &Connection,
    realm: &RealmName,
    name_or_id: &str,
) -> Result<Option<HostRow>, DbError> {
    // No name is as long as an id, and each has an index of its own; with `OR` neither is used.
    let by = if HostId::parse(name_or_id).is_ok() { "host" } else { "name" };
    // Those in good standing before the others, the latest before those of its name.
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM hosts LEFT JOIN reports USING (id)
         WHERE realm = ?1 AND {by} = ?2
         ORDER BY replaced IS NULL AND revoked_at IS NULL DESC, enrolled_at DESC LIMIT 1"
    ))?;
    let found = select.query_row(params![realm.as_str(), name_or_id], |found| Ok(row(found)));
    found.optional()?.transpose()
}

/// Returns the host with this key.
pub(super) fn by_key(db: &Connection, key: i64) -> Result<Option<HostRow>, DbError> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM hosts LEFT JOIN reports USING (id) WHERE hosts.id = ?1"
    ))?;
    select.query_row([key], |found| Ok(row(found))).optional()?.transpose()
}

/// Reads a host from a row of [`COLUMNS`].
pub(super) fn row(row: &Row<'_>) -> Result<HostRow, DbError> {
    let certificate: String = row.get(1)?;
    let reported_at: Option<i64> = row.get(7)?;
    let payload: Option<Vec<u8>> = row.get(8)?;
    let report = payload.map(|bytes| serde_json::from_slice(&bytes).map_err(DbError::damaged));
    Ok(HostRow {
        key: row.get(0)?,
        certificate: serde_json::from_str(&certificate)
            .map_err(|_| DbError::Damaged(certificate))?,
        enrolled_at: time(row.get(2)?)?,
        standing: standing(row.get(3)?, row.get(4)?, row.get(5)?)?,
        shown: lists::word(row.get(6)?)?,
        reported_at: reported_at.map(time).transpose()?,
        report: report.transpose()?,
    })
}

/// Puts the columns of a host's standing together.
pub(super) fn standing(
    replaced: Option<String>,
    revoked_at: Option<i64>,
    why: Option<String>,
) -> Result<Standing, DbError> {
    Ok(match (revoked_at, replaced) {
        (Some(at), _) => {
            Standing::Revoked(Revocation { at: time(at)?, why: why.unwrap_or_default() })
        }
        (None, Some(_)) => Standing::Replaced,
        (None, None) => Standing::Good,
    })
}

/// Lists every key that ever enrolled, by name, from behind `after`.
pub(super) fn roster(
    db: &Connection,
    realm: &RealmName,
    after: &str,
    limit: usize,
) -> Result<Vec<Roster>, DbError> {
    // The cursor is what the rows are sorted by: name, space, id.
    let (name, host) = after.split_once(' ').unwrap_or((after, ""));
    let mut select = db.prepare_cached(
        "SELECT certificate, enrolled_at, replaced, revoked_at, revoked_why, reports.at
         FROM hosts LEFT JOIN reports USING (id)
         WHERE realm = ?1 AND (name, host) > (?2, ?3) ORDER BY name, host LIMIT ?4",
    )?;
    let mut rows = select.query(params![realm.as_str(), name, host, limit])?;
    let mut roster = Vec::new();
    while let Some(row) = rows.next()? {
        let certificate: String = row.get(0)?;
        let reported_at: Option<i64> = row.get(5)?;
        roster.push(Roster {
            certificate: serde_json::from_str(&certificate)
                .map_err(|_| DbError::Damaged(certificate))?,
            enrolled_at: time(row.get(1)?)?,
            standing: standing(row.get(2)?, row.get(3)?, row.get(4)?)?,
            reported_at: reported_at.map(time).transpose()?,
        });
    }
    Ok(roster)
}

/// Notes a host by its certificate, and returns its key; its lists are another matter.
pub(super) fn put(
    db: &Connection,
    certificate: &Certificate,
    envelope: Option<&str>,
    now: Time,
) -> Result<i64, DbError> {
    let put = "INSERT INTO hosts (realm, host, name, certificate, envelope, enrolled_at, shown)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (realm, host) DO UPDATE SET name = excluded.name,
             certificate = excluded.certificate, envelope = excluded.envelope
         RETURNING id";
    let id: i64 = db.query_row(
        put,
        params![
            certificate.realm.as_str(),
            certificate.host.to_string(),
            certificate.name.as_str(),
            json(certificate)?,
            envelope,
            now.as_second(),
            lists::rank(StateWord::Stale),
        ],
        |row| row.get(0),
    )?;
    db.execute("INSERT INTO reports (id) VALUES (?1) ON CONFLICT DO NOTHING", [id])?;
    Ok(id)
}

/// Returns the groups of the other host that has this name.
pub(super) fn groups_of_others(
    db: &Connection,
    certificate: &Certificate,
) -> Result<Vec<GroupName>, DbError> {
    let Certificate { realm, name, host, .. } = certificate;
    let found = find(db, realm, name.as_str())?;
    let other = found.filter(|found| {
        found.certificate.host != *host && !matches!(found.standing, Standing::Replaced)
    });
    Ok(other.map(|other| other.certificate.groups).unwrap_or_default())
}

/// A machine that was made anew has a new key under its old name.
pub(super) fn replace_others(db: &Connection, certificate: &Certificate) -> Result<(), DbError> {
    let Certificate { realm, name, host, .. } = certificate;
    let mut update = db.prepare_cached(
        "UPDATE hosts SET replaced = ?3
         WHERE realm = ?1 AND name = ?2 AND host <> ?3 AND replaced IS NULL RETURNING id",
    )?;
    let params = params![realm.as_str(), name.as_str(), host.to_string()];
    let others: Vec<i64> = update.query_map(params, |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in others {
        lists::leave(db, id)?;
        db.execute("UPDATE reports SET heard = 0 WHERE id = ?1", [id])?;
    }
    Ok(())
}
