//! The index of what was published, rebuilt from the signed files where it lacks something.

use rusqlite::{Connection, params};
use shared::{
    api::Publication,
    id::{GroupName, RealmName},
    time::Time,
    version::VersionNumber,
};

use super::{DbError, json, time};
use crate::db::{
    events::{Event, What},
    publications::Query,
};

/// Returns the roles' versions that are not in the index yet, of those given.
pub(super) fn missing(
    db: &Connection,
    realm: &RealmName,
    roles: Vec<(String, u64)>,
) -> Result<Vec<(String, u64)>, DbError> {
    let mut known = db.prepare_cached(
        "SELECT 1 FROM indexed_roles WHERE realm = ?1 AND role = ?2 AND role_version = ?3",
    )?;
    let mut missing = Vec::new();
    for (role, version) in roles {
        if !known.exists(params![realm.as_str(), role, version])? {
            missing.push((role, version));
        }
    }
    Ok(missing)
}

/// Adds what one version of a role brought; what is known already stays as it was first noted,
/// because anybody may send a published role again.
pub(super) fn add(
    db: &Connection,
    realm: &RealmName,
    (role, role_version): (&str, u64),
    publications: &[Publication],
    at: Time,
) -> Result<(), DbError> {
    let mut insert = db.prepare_cached(
        "INSERT INTO publications
         (realm, role, role_version, target, epoch, version, digest, signers, published_at, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO NOTHING",
    )?;
    for publication in publications {
        insert.execute(params![
            realm.as_str(),
            role,
            role_version,
            publication.target.to_string(),
            publication.epoch,
            publication.version.get(),
            publication.digest.to_string(),
            json(&publication.signers)?,
            publication.published_at.as_second(),
            publication.note,
        ])?;
    }
    let mut index = db.prepare_cached(
        "INSERT OR IGNORE INTO indexed_roles (realm, role, role_version) VALUES (?1, ?2, ?3)",
    )?;
    if index.execute(params![realm.as_str(), role, role_version])? == 0 {
        return Ok(());
    }
    let targets: Vec<String> = publications
        .iter()
        .map(|publication| format!("{} version {}", publication.target, publication.version))
        .collect();
    let detail = format!("version {role_version}: {}", targets.join(", "));
    let detail = detail.trim_end_matches([':', ' ']).to_owned();
    let (what, subject) = (What::Published, role.to_owned());
    super::event::note(db, &Event { realm: realm.clone(), at, what, subject, detail })
}

/// Lists what was published for a group, the latest first.
pub(super) fn list(db: &Connection, query: &Query) -> Result<Vec<Publication>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT target, epoch, version, digest, role, role_version, signers, published_at, note
         FROM publications
         WHERE realm = ?1 AND target >= ?2 AND target < ?3 AND (?4 IS NULL OR target = ?4)
             AND (?7 IS NULL OR version = ?7)
         ORDER BY published_at DESC, target, role_version DESC LIMIT ?5 OFFSET ?6",
    )?;
    // `0` is what comes behind `/`: all that is in the folder, by the index.
    let folder = (format!("{}/", query.group), format!("{}0", query.group));
    let exact = query.profile.as_ref().map(|profile| format!("{}{profile}", folder.0));
    let realm = query.realm.as_str();
    let version = query.version.map(VersionNumber::get);
    read(select.query(params![
        realm,
        folder.0,
        folder.1,
        exact,
        query.limit,
        query.skip,
        version
    ])?)
}

/// Returns the latest publication of each target of a group.
pub(super) fn latest(
    db: &Connection,
    realm: &RealmName,
    group: &GroupName,
) -> Result<Vec<Publication>, DbError> {
    // The other columns are those of the row with the maximum; of one second, of the higher version.
    let mut select = db.prepare_cached(
        "SELECT target, epoch, version, digest, role, role_version, signers, published_at, note,
             max(published_at * 4294967296 + version)
         FROM publications WHERE realm = ?1 AND target >= ?2 AND target < ?3 GROUP BY target",
    )?;
    read(select.query(params![realm.as_str(), format!("{group}/"), format!("{group}0")])?)
}

/// Returns one publication.
pub(super) fn one(
    db: &Connection,
    realm: &RealmName,
    (target, role, role_version): (&str, &str, u64),
) -> Result<Option<Publication>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT target, epoch, version, digest, role, role_version, signers, published_at, note
         FROM publications WHERE realm = ?1 AND target = ?2 AND role = ?3 AND role_version = ?4",
    )?;
    let found = read(select.query(params![realm.as_str(), target, role, role_version])?);
    Ok(found?.pop())
}

fn read(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Publication>, DbError> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column| row.get::<_, String>(column);
        let (target, digest, signers) = (text(0)?, text(3)?, text(6)?);
        found.push(Publication {
            target: target.parse().map_err(|_| DbError::Damaged(target))?,
            epoch: row.get(1)?,
            version: VersionNumber::new(row.get(2)?)
                .ok_or_else(|| DbError::damaged("version 0"))?,
            digest: digest.parse().map_err(|_| DbError::Damaged(digest))?,
            role: text(4)?,
            role_version: row.get(5)?,
            signers: serde_json::from_str(&signers).map_err(|_| DbError::Damaged(signers))?,
            published_at: time(row.get(7)?)?,
            note: text(8)?,
        });
    }
    Ok(found)
}
