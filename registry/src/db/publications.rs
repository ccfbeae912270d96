//! The index of what was published, rebuilt from the signed files where it lacks something.

use rusqlite::{Connection, params};
use shared::{
    api::Publication,
    id::{GroupName, ProfileName, RealmName},
};

use super::{DbError, hosts::time};

/// Returns the roles' versions that are not in the index yet, of those given.
pub(crate) fn missing(
    connection: &Connection,
    realm: &RealmName,
    roles: Vec<(String, u64)>,
) -> Result<Vec<(String, u64)>, DbError> {
    let select =
        "SELECT count(*) FROM indexed_roles WHERE realm = ?1 AND role = ?2 AND role_version = ?3";
    let mut statement = connection.prepare_cached(select)?;
    let mut missing = Vec::new();
    for (role, version) in roles {
        let known: u32 =
            statement.query_row(params![realm.as_str(), role, version], |row| row.get(0))?;
        if known == 0 {
            missing.push((role, version));
        }
    }
    Ok(missing)
}

/// Adds what one version of a role brought; what is known already stays as it was first noted,
/// because anybody may send a published role again.
pub(crate) fn add(
    connection: &Connection,
    realm: &RealmName,
    role: &str,
    role_version: u64,
    publications: &[Publication],
) -> Result<(), DbError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO publications
         (realm, role, role_version, target, epoch, version, digest, signers, published_at, note)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO NOTHING",
    )?;
    for publication in publications {
        let signers = serde_json::to_string(&publication.signers)
            .map_err(|error| DbError::Damaged(error.to_string()))?;
        insert.execute(params![
            realm.as_str(),
            role,
            role_version,
            publication.target.to_string(),
            publication.epoch,
            publication.version.get(),
            publication.digest.to_string(),
            signers,
            publication.published_at.as_second(),
            publication.note,
        ])?;
    }
    connection.execute(
        "INSERT OR IGNORE INTO indexed_roles (realm, role, role_version) VALUES (?1, ?2, ?3)",
        params![realm.as_str(), role, role_version],
    )?;
    Ok(())
}

/// Which publications are asked for.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) realm: RealmName,
    pub(crate) group: GroupName,
    pub(crate) profile: Option<ProfileName>,
    pub(crate) limit: usize,
    /// How many of the latest to pass over.
    pub(crate) skip: usize,
}

/// Lists what was published for a group, the latest first.
pub(crate) fn list(connection: &Connection, query: &Query) -> Result<Vec<Publication>, DbError> {
    let mut select = connection.prepare_cached(
        "SELECT target, epoch, version, digest, role, role_version, signers, published_at, note
         FROM publications
         WHERE realm = ?1 AND substr(target, 1, length(?2)) = ?2
           AND (?3 IS NULL OR target = ?3)
         ORDER BY published_at DESC, target, role_version DESC LIMIT ?4 OFFSET ?5",
    )?;
    let folder = format!("{}/", query.group);
    let exact = query.profile.as_ref().map(|profile| format!("{folder}{profile}"));
    let mut rows =
        select.query(params![query.realm.as_str(), folder, exact, query.limit, query.skip])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column| row.get::<_, String>(column);
        let damaged = |text: String| DbError::Damaged(text);
        let (target, digest, signers) = (text(0)?, text(3)?, text(6)?);
        found.push(Publication {
            target: target.parse().map_err(|_| damaged(target))?,
            epoch: row.get(1)?,
            version: shared::version::VersionNumber::new(row.get(2)?)
                .ok_or_else(|| damaged("version 0".to_owned()))?,
            digest: digest.parse().map_err(|_| damaged(digest))?,
            role: text(4)?,
            role_version: row.get(5)?,
            signers: serde_json::from_str(&signers).map_err(|_| damaged(signers))?,
            published_at: time(row.get(7)?)?,
            note: text(8)?,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use shared::{id::Digest, time::Time, version::VersionNumber};

    use super::*;

    #[test]
    fn a_role_that_is_sent_again_does_not_change_when_it_was_published() {
        let data = tempfile::tempdir().unwrap();
        let connection = super::super::connect(data.path()).unwrap();
        let realm = RealmName::parse("main").unwrap();
        let first = Publication {
            target: "eu-prod/web".parse().unwrap(),
            epoch: 0,
            version: VersionNumber::new(1).unwrap(),
            digest: Digest::of(b"manifest"),
            role: "webteam".to_owned(),
            role_version: 1,
            signers: Vec::new(),
            published_at: Time::parse("2026-01-01T00:00:00Z").unwrap(),
            note: String::new(),
        };
        let again = Publication {
            published_at: Time::parse("2026-02-01T00:00:00Z").unwrap(),
            ..first.clone()
        };
        for publication in [first.clone(), again] {
            add(&connection, &realm, "webteam", 1, &[publication]).unwrap();
        }
        let group = GroupName::parse("eu-prod").unwrap();
        let query = Query { realm, group, profile: None, limit: 9, skip: 0 };
        let found = list(&connection, &query).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].published_at, first.published_at);
    }
}
