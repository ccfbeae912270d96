//! A report on its way into the database.

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{
    certificate::Certificate, id::RealmName, nix::Sha256, report::Report, state_word::StateWord,
    time::Time,
};

use super::{DbError, host, json, lists};
use crate::db::{
    Ahead,
    hosts::{Revocation, Standing},
    reports::{Incoming, Stored, ended},
};

/// Attempts that are kept of one host: none can fill the disk by making them up.
const MOST_ATTEMPTS: u32 = 500;

/// What the next report of a host is held against.
struct Last {
    id: i64,
    standing: Standing,
    replaced: Option<String>,
    shown: i64,
    not_after: Time,
    counter: Option<u64>,
    highest: u64,
    boot_id: Option<String>,
    nonce: Option<String>,
    digest: Option<[u8; 32]>,
}

/// Stores a report if it is newer than the last one of its host.
pub(super) fn ingest(db: &Connection, incoming: &Incoming, now: Time) -> Result<Stored, DbError> {
    let Incoming { certificate, report, payload, signatures, nonce, .. } = incoming;
    let last = match last(db, certificate)? {
        Some(last) => last,
        None => first(db, incoming, now)?,
    };
    match (last.standing, last.replaced) {
        (Standing::Revoked(Revocation { at, why }), _) => {
            return Ok(Stored::Revoked(Revocation { at, why }));
        }
        (Standing::Replaced, by) => {
            let by = by.unwrap_or_default();
            return Ok(Stored::Replaced(by.parse().unwrap_or(certificate.host)));
        }
        (Standing::Good, _) => {}
    }
    let digest = Sha256::of(payload).0;
    // A host that lost our answer sends the same report again.
    if last.digest == Some(digest) {
        return Ok(Stored::Yes);
    }
    // After a restart of the counter, reports from before it have higher ones: those of another
    // boot must be beyond all that were ever stored.
    let same_boot = last.boot_id.as_deref() == Some(report.boot_id.as_str());
    let grows = last.counter.is_some_and(|counter| {
        report.counter > counter && (same_boot || report.counter > last.highest)
    });
    let answers = report.nonce.is_some() && report.nonce == last.nonce;
    if !grows && !answers {
        let nonce = last.nonce.unwrap_or_else(|| nonce.clone());
        let mut update = db.prepare_cached("UPDATE reports SET nonce = ?2 WHERE id = ?1")?;
        update.execute(params![last.id, nonce])?;
        return Ok(Stored::Challenge { nonce, highest: last.counter.map(|_| last.highest) });
    }
    let mut update = db.prepare_cached(
        "UPDATE reports SET counter = ?2, highest = max(highest, ?2), boot_id = ?3, nonce = NULL,
             at = ?4, heard = 1, digest = ?5, payload = ?6, signatures = ?7
         WHERE id = ?1",
    )?;
    let at = now.as_second();
    update.execute(params![
        last.id,
        report.counter,
        report.boot_id,
        at,
        digest,
        payload,
        signatures
    ])?;
    // An older certificate still proves the host, but says nothing new of it.
    if last.not_after < certificate.not_after {
        host::put(db, certificate, Some(&incoming.envelope), now)?;
        lists::enter(db, last.id, certificate)?;
        host::replace_others(db, certificate)?;
    }
    let state = report.state().unwrap_or(StateWord::Converged);
    if last.shown != lists::rank(state) {
        lists::show(db, last.id, state)?;
    }
    keep_attempts(db, last.id, report, now)?;
    note_ahead(db, incoming)?;
    Ok(Stored::Yes)
}

fn last(db: &Connection, certificate: &Certificate) -> Result<Option<Last>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT hosts.id, replaced, revoked_at, revoked_why, hosts.shown,
             certificate ->> '$.not_after', counter, highest, boot_id, nonce, digest
         FROM hosts JOIN reports USING (id) WHERE realm = ?1 AND host = ?2",
    )?;
    let mut rows =
        select.query(params![certificate.realm.as_str(), certificate.host.to_string()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let replaced: Option<String> = row.get(1)?;
    let not_after: String = row.get(5)?;
    Ok(Some(Last {
        id: row.get(0)?,
        standing: host::standing(replaced.clone(), row.get(2)?, row.get(3)?)?,
        replaced,
        shown: row.get(4)?,
        not_after: not_after.parse().map_err(|_| DbError::Damaged(not_after))?,
        counter: row.get(6)?,
        highest: row.get(7)?,
        boot_id: row.get(8)?,
        nonce: row.get(9)?,
        digest: row.get(10)?,
    }))
}

/// Notes a host that is not known: its certificate is from elsewhere, or the database was lost.
///
/// Of two that have one name the later certificate counts, whichever of them reports first.
fn first(db: &Connection, incoming: &Incoming, now: Time) -> Result<Last, DbError> {
    let Incoming { certificate, envelope, .. } = incoming;
    let Certificate { realm, name, .. } = certificate.as_ref();
    let other = host::find(db, realm, name.as_str())?;
    let other = other.filter(|other| other.standing == Standing::Good);
    let id = host::put(db, certificate, Some(envelope), now)?;
    match other {
        Some(other) if other.certificate.not_after > certificate.not_after => {
            let by = other.certificate.host.to_string();
            db.execute("UPDATE hosts SET replaced = ?2 WHERE id = ?1", params![id, by])?;
        }
        Some(_) | None => {
            lists::enter(db, id, certificate)?;
            host::replace_others(db, certificate)?;
        }
    }
    last(db, certificate)?.ok_or_else(|| DbError::damaged("a host that was just noted"))
}

fn keep_attempts(db: &Connection, id: i64, report: &Report, now: Time) -> Result<(), DbError> {
    for profile in ended(report) {
        let Some(attempt) = &profile.attempt else { continue };
        let target = format!("{}/{}", profile.group, profile.profile);
        let phases = attempt.phases.len() as u64;
        let mut known = db.prepare_cached(
            "SELECT phases FROM attempts WHERE id = ?1 AND target = ?2 AND attempt = ?3",
        )?;
        let known: Option<u64> =
            known.query_row(params![id, target, attempt.id], |row| row.get(0)).optional()?;
        if known.is_some_and(|known| known >= phases) {
            continue;
        }
        let mut insert = db.prepare_cached(
            "INSERT INTO attempts (id, target, attempt, phases, told_at, profile)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET phases = excluded.phases, profile = excluded.profile",
        )?;
        insert.execute(params![id, target, attempt.id, phases, now.as_second(), json(profile)?])?;
        let mut drop_oldest = db.prepare_cached(
            "DELETE FROM attempts WHERE id = ?1 AND rowid <=
             (SELECT rowid FROM attempts WHERE id = ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2)",
        )?;
        drop_oldest.execute(params![id, MOST_ATTEMPTS])?;
    }
    Ok(())
}

fn note_ahead(db: &Connection, incoming: &Incoming) -> Result<(), DbError> {
    let Some(timestamp) = incoming.ahead else { return Ok(()) };
    let Certificate { realm, host, .. } = incoming.certificate.as_ref();
    let mut note = db.prepare_cached(
        "INSERT INTO ahead (realm, host, timestamp) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET timestamp = max(timestamp, excluded.timestamp)",
    )?;
    note.execute(params![realm.as_str(), host.to_string(), timestamp])?;
    Ok(())
}

/// Returns the highest version of a timestamp beyond our own that a host has told of.
pub(super) fn seen_ahead(db: &Connection, realm: &RealmName) -> Result<Option<Ahead>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT timestamp, host, count(*) OVER () FROM ahead WHERE realm = ?1
         ORDER BY timestamp DESC LIMIT 1",
    )?;
    let found = select.query_row([realm.as_str()], |row| {
        Ok((row.get::<_, u64>(0)?, row.get::<_, String>(1)?, row.get::<_, u64>(2)?))
    });
    let Some((timestamp, host, hosts)) = found.optional()? else { return Ok(None) };
    let host = host.parse().map_err(|_| DbError::Damaged(host))?;
    Ok(Some(Ahead { timestamp, host, hosts }))
}
