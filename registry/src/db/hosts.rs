//! Hosts: who is enrolled, and what each last said.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use shared::{
    certificate::Certificate,
    id::{GroupName, HostId, HostName, RealmName},
    nix::Sha256,
    report::Report,
    time::Time,
};

use super::DbError;

/// A host as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct HostRow {
    pub(crate) certificate: Certificate,
    pub(crate) enrolled_at: Time,
    pub(crate) reported_at: Option<Time>,
    pub(crate) report: Option<Report>,
}

/// How a host comes to be known.
#[derive(Debug)]
pub(crate) struct Enrolment {
    pub(crate) certificate: Certificate,
    /// The signed certificate, in its envelope.
    pub(crate) envelope: String,
    /// The hash of the token that it showed.
    pub(crate) token: [u8; 32],
}

/// Returns the certificate that this host got for this token, in its envelope.
pub(crate) fn issued(
    connection: &Connection,
    realm: &RealmName,
    host: &HostId,
    token: &[u8; 32],
) -> Result<Option<String>, DbError> {
    let select = "SELECT envelope FROM hosts WHERE realm = ?1 AND host = ?2 AND token = ?3";
    let found =
        connection.query_row(select, params![realm.as_str(), host.to_string(), token], |row| {
            row.get::<_, Option<String>>(0)
        });
    Ok(found.optional()?.flatten())
}

/// Returns the groups of the host that has this name, unless it is this one.
pub(crate) fn groups_of_name(
    connection: &Connection,
    realm: &RealmName,
    name: &HostName,
    host: &HostId,
) -> Result<Vec<GroupName>, DbError> {
    let found = find_named(connection, realm, name)?;
    let other = found.map(|row| row.certificate).filter(|certificate| certificate.host != *host);
    Ok(other.map(|certificate| certificate.groups).unwrap_or_default())
}

/// Stores a host that enrols; its reports count from the next one on.
pub(crate) fn enrol(
    connection: &Connection,
    enrolment: &Enrolment,
    now: Time,
) -> Result<(), DbError> {
    let Enrolment { certificate, envelope, token } = enrolment;
    let (realm, host) = (certificate.realm.as_str(), certificate.host.to_string());
    connection.execute(
        "INSERT INTO hosts (realm, host, name, certificate, envelope, token, enrolled_at, counter)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)
         ON CONFLICT (realm, host) DO UPDATE SET name = excluded.name, replaced = 0,
             certificate = excluded.certificate, envelope = excluded.envelope,
             token = excluded.token, enrolled_at = excluded.enrolled_at",
        params![
            realm,
            host,
            certificate.name.as_str(),
            json(certificate)?,
            envelope,
            token,
            now.as_second()
        ],
    )?;
    // A machine that was made anew has a new key under its old name.
    connection.execute(
        "UPDATE hosts SET replaced = 1 WHERE realm = ?1 AND name = ?2 AND host <> ?3",
        params![realm, certificate.name.as_str(), host],
    )?;
    Ok(())
}

/// A verified report on its way into the database.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) certificate: Certificate,
    pub(crate) report: Report,
    /// The payload of the envelope.
    pub(crate) payload: Vec<u8>,
    /// The envelope.
    pub(crate) signed: String,
    /// A fresh nonce, in case the host has to be challenged.
    pub(crate) nonce: String,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is stored, now or before.
    Yes,
    /// Its counter does not count; the next one must repeat this nonce, best with a counter above
    /// the highest that was seen.
    Challenge { nonce: String, highest: Option<u64> },
}

/// Stores a report if it is newer than the last one of its host.
///
/// A counter that grows proves that, and so does a nonce that was given out and not used yet. A host that the
/// database does not know, because it was lost, is challenged, so that no old report is replayed.
pub(crate) fn report(
    connection: &Connection,
    incoming: &Incoming,
    now: Time,
) -> Result<Stored, DbError> {
    let Incoming { certificate, report, payload, signed, nonce } = incoming;
    let (realm, host) = (certificate.realm.as_str(), certificate.host.to_string());
    connection.execute(
        "INSERT INTO hosts (realm, host, name, certificate, enrolled_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (realm, host) DO NOTHING",
        params![realm, host, certificate.name.as_str(), json(certificate)?, now.as_second()],
    )?;
    let digest = Sha256::of(payload).0;
    let Last { counter, highest, boot_id, nonce: expected, digest: last } =
        last(connection, realm, &host)?;
    // A host that lost our answer sends the same report again.
    if last == Some(digest) {
        return Ok(Stored::Yes);
    }
    // After a restart of the counter, reports from before it have higher ones: those of another
    // boot must be beyond all that were ever stored.
    let same_boot = boot_id.as_deref() == Some(report.boot_id.as_str());
    let grows = counter
        .is_some_and(|counter| report.counter > counter && (same_boot || report.counter > highest));
    let answers = report.nonce.is_some() && report.nonce == expected;
    if !grows && !answers {
        let nonce = expected.unwrap_or_else(|| nonce.clone());
        connection.execute(
            "UPDATE hosts SET nonce = ?3 WHERE realm = ?1 AND host = ?2",
            params![realm, host, nonce],
        )?;
        return Ok(Stored::Challenge { nonce, highest: counter.map(|_| highest) });
    }
    connection.execute(
        "UPDATE hosts SET counter = ?3, nonce = NULL, reported_at = ?4, digest = ?5, report = ?6,
             signed = ?7, certificate = ?8, boot_id = ?9, highest = max(highest, ?3)
         WHERE realm = ?1 AND host = ?2",
        params![
            realm,
            host,
            report.counter,
            now.as_second(),
            digest,
            json(report)?,
            signed,
            json(certificate)?,
            report.boot_id,
        ],
    )?;
    Ok(Stored::Yes)
}

/// What the next report of a host is held against.
struct Last {
    counter: Option<u64>,
    highest: u64,
    boot_id: Option<String>,
    nonce: Option<String>,
    digest: Option<[u8; 32]>,
}

fn last(connection: &Connection, realm: &str, host: &str) -> Result<Last, DbError> {
    let mut select = connection.prepare_cached(
        "SELECT counter, highest, boot_id, nonce, digest FROM hosts
         WHERE realm = ?1 AND host = ?2",
    )?;
    let found = select.query_row(params![realm, host], |row| {
        Ok(Last {
            counter: row.get(0)?,
            highest: row.get(1)?,
            boot_id: row.get(2)?,
            nonce: row.get(3)?,
            digest: row.get(4)?,
        })
    });
    Ok(found?)
}

/// Lists the hosts of a realm by name, from behind the name and id `after`; hosts that were made
/// anew once.
pub(crate) fn list(
    connection: &Connection,
    realm: &RealmName,
    after: (&str, &str),
    limit: usize,
) -> Result<Vec<HostRow>, DbError> {
    let mut select = connection.prepare_cached(
        "SELECT certificate, enrolled_at, reported_at, report FROM hosts
         WHERE realm = ?1 AND replaced = 0 AND (name, host) > (?2, ?3)
         ORDER BY name, host LIMIT ?4",
    )?;
    let rows =
        select.query_map(params![realm.as_str(), after.0, after.1, limit], |row| Ok(host(row)))?;
    rows.map(|row| row?).collect()
}

/// Finds a host by its name or id.
pub(crate) fn find(
    connection: &Connection,
    realm: &RealmName,
    name_or_id: &str,
) -> Result<Option<HostRow>, DbError> {
    let mut select = connection.prepare_cached(
        "SELECT certificate, enrolled_at, reported_at, report FROM hosts
         WHERE realm = ?1 AND (host = ?2 OR (name = ?2 AND replaced = 0))
         ORDER BY enrolled_at DESC LIMIT 1",
    )?;
    let found = select.query_row(params![realm.as_str(), name_or_id], |row| Ok(host(row)));
    found.optional()?.transpose()
}

fn find_named(
    connection: &Connection,
    realm: &RealmName,
    name: &HostName,
) -> Result<Option<HostRow>, DbError> {
    let mut select = connection.prepare_cached(
        "SELECT certificate, enrolled_at, reported_at, report FROM hosts
         WHERE realm = ?1 AND name = ?2 AND replaced = 0 LIMIT 1",
    )?;
    let found = select.query_row(params![realm.as_str(), name.as_str()], |row| Ok(host(row)));
    found.optional()?.transpose()
}

/// Reads a time that was stored as seconds since 1970.
pub(super) fn time(second: i64) -> Result<Time, DbError> {
    let time = jiff::Timestamp::from_second(second).map(Time::of);
    time.map_err(|_| DbError::Damaged(second.to_string()))
}

fn host(row: &Row<'_>) -> Result<HostRow, DbError> {
    let certificate: String = row.get(0)?;
    let reported_at: Option<i64> = row.get(2)?;
    let report: Option<String> = row.get(3)?;
    let report = report.map(|text| serde_json::from_str(&text).map_err(|_| DbError::Damaged(text)));
    Ok(HostRow {
        certificate: serde_json::from_str(&certificate)
            .map_err(|_| DbError::Damaged(certificate))?,
        enrolled_at: time(row.get(1)?)?,
        reported_at: reported_at.map(time).transpose()?,
        report: report.transpose()?,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Damaged(error.to_string()))
}
