//! Enrolment tokens: who has one may enrol hosts into its groups.

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{
    id::{GroupName, RealmName},
    nix::Sha256,
    time::Time,
};

use super::DbError;

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) realm: RealmName,
    pub(crate) groups: Vec<GroupName>,
    /// How many hosts may enrol with it.
    pub(crate) uses: u32,
    pub(crate) expires_at: Time,
}

/// Why a token allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is unknown")]
    Unknown,
    #[error("the token ended at {0}")]
    Expired(Time),
    #[error("the token has been used as often as it may")]
    Used,
    #[error("the token is not for group `{0}`")]
    Group(GroupName),
    #[error("another host has this name, and the token is not for its group `{0}`")]
    Name(GroupName),
}

/// What a host wants of a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) groups: &'a [GroupName],
    /// The groups of the host whose name it takes: only who could enrol that one may.
    pub(crate) replaced: &'a [GroupName],
}

/// Stores a token by its hash.
pub(crate) fn create(
    connection: &Connection,
    token: &str,
    grant: &Grant,
    now: Time,
) -> Result<(), DbError> {
    let groups = serde_json::to_string(&grant.groups)
        .map_err(|error| DbError::Damaged(error.to_string()))?;
    connection.execute(
        "INSERT INTO tokens (hash, realm, groups, uses, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            hash(token),
            grant.realm.as_str(),
            groups,
            grant.uses,
            now.as_second(),
            grant.expires_at.as_second()
        ],
    )?;
    Ok(())
}

/// Whether a host has enrolled with a token before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visit {
    /// It takes a use of the token.
    First,
    /// It lost our answer, or changes its groups: it takes none.
    Again,
}

/// Takes one use of a token; a refusal takes none.
pub(crate) fn redeem(
    connection: &Connection,
    realm: &RealmName,
    token: &str,
    wanted: Wanted<'_>,
    visit: Visit,
    now: Time,
) -> Result<Result<(), TokenError>, DbError> {
    let hash = hash(token);
    let select = "SELECT groups, uses, expires_at FROM tokens WHERE hash = ?1 AND realm = ?2";
    let found = connection
        .query_row(select, params![hash, realm.as_str()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((groups, uses, expires_at)) = found else { return Ok(Err(TokenError::Unknown)) };
    let groups: Vec<GroupName> =
        serde_json::from_str(&groups).map_err(|_| DbError::Damaged(groups))?;
    let foreign =
        |wanted: &[GroupName]| wanted.iter().find(|group| !groups.contains(group)).cloned();
    if let Some(group) = foreign(wanted.groups) {
        return Ok(Err(TokenError::Group(group)));
    }
    if let Some(group) = foreign(wanted.replaced) {
        return Ok(Err(TokenError::Name(group)));
    }
    if visit == Visit::Again {
        return Ok(Ok(()));
    }
    if expires_at <= now.as_second() {
        return Ok(Err(TokenError::Expired(super::hosts::time(expires_at)?)));
    }
    if uses == 0 {
        return Ok(Err(TokenError::Used));
    }
    connection.execute("UPDATE tokens SET uses = uses - 1 WHERE hash = ?1", [hash])?;
    Ok(Ok(()))
}

/// Returns the hash by which a token is stored. A token has 256 random bits: no salt is needed.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::of(token.as_bytes()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        Time::parse(text).unwrap()
    }

    #[test]
    fn a_token_works_as_often_and_as_long_as_it_may() {
        let data = tempfile::tempdir().unwrap();
        let connection = super::super::connect(data.path()).unwrap();
        let realm = RealmName::parse("main").unwrap();
        let groups = vec![GroupName::parse("eu-prod").unwrap()];
        let expires_at = time("2026-01-02T00:00:00Z");
        let grant = Grant { realm: realm.clone(), groups: groups.clone(), uses: 1, expires_at };
        let now = time("2026-01-01T00:00:00Z");
        create(&connection, "secret", &grant, now).unwrap();

        let redeem = |realm: &RealmName, token: &str, visit, now| {
            let wanted = Wanted { groups: &groups, replaced: &[] };
            redeem(&connection, realm, token, wanted, visit, now).unwrap()
        };
        let other = RealmName::parse("other").unwrap();
        assert_eq!(redeem(&realm, "guess", Visit::First, now), Err(TokenError::Unknown));
        assert_eq!(redeem(&other, "secret", Visit::First, now), Err(TokenError::Unknown));
        let late = redeem(&realm, "secret", Visit::First, expires_at);
        assert_eq!(late, Err(TokenError::Expired(expires_at)));
        assert_eq!(redeem(&realm, "secret", Visit::First, now), Ok(()));
        assert_eq!(redeem(&realm, "secret", Visit::First, now), Err(TokenError::Used));
        assert_eq!(redeem(&realm, "secret", Visit::Again, now), Ok(()));
    }
}
