//! The lists of hosts, and how many are in which state: kept, so that nothing is ever scanned.
//!
//! A host is a member of the list of each of its groups and of the list of all, under its state. A
//! host whose state stays what it was changes nothing here, and that is nearly every report.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use shared::{
    certificate::Certificate,
    id::{GroupName, RealmName},
    state_word::StateWord,
    time::Time,
};

use super::DbError;

/// The list of all hosts; no group has this name.
const ALL: &str = "";

/// Hosts that become silent in one transaction.
const SOME: usize = 500;

/// Returns the number that stands for a state: its place among the words.
pub(super) fn rank(state: StateWord) -> i64 {
    StateWord::ALL.iter().zip(0..).find(|(word, _)| **word == state).map_or(0, |(_, rank)| rank)
}

/// Returns the state that a number stands for.
pub(super) fn word(rank: i64) -> Result<StateWord, DbError> {
    let word = usize::try_from(rank).ok().and_then(|rank| StateWord::ALL.get(rank));
    word.copied().ok_or_else(|| DbError::damaged(format!("state {rank}")))
}

/// Puts a host into the lists that its certificate names, and into no other.
pub(super) fn enter(db: &Connection, id: i64, certificate: &Certificate) -> Result<(), DbError> {
    leave(db, id)?;
    let mut insert = db.prepare_cached(
        "INSERT OR IGNORE INTO members (realm, list, name, id, shown)
         SELECT realm, ?2, name, id, shown FROM hosts WHERE id = ?1",
    )?;
    let groups = certificate.groups.iter().map(GroupName::as_str);
    for list in groups.chain([ALL]) {
        insert.execute(params![id, list])?;
    }
    let mut label = db.prepare_cached(
        "INSERT INTO labels (realm, label, value, name, id)
         SELECT realm, ?2, ?3, name, id FROM hosts WHERE id = ?1",
    )?;
    for (name, value) in &certificate.labels {
        label.execute(params![id, name.as_str(), value.as_str()])?;
    }
    Ok(())
}

/// Takes a host out of all lists.
pub(super) fn leave(db: &Connection, id: i64) -> Result<(), DbError> {
    db.prepare_cached("DELETE FROM members WHERE id = ?1")?.execute([id])?;
    db.prepare_cached("DELETE FROM labels WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Shows a host under another state.
pub(super) fn show(db: &Connection, id: i64, state: StateWord) -> Result<(), DbError> {
    let params = params![id, rank(state)];
    db.prepare_cached("UPDATE hosts SET shown = ?2 WHERE id = ?1")?.execute(params)?;
    db.prepare_cached("UPDATE members SET shown = ?2 WHERE id = ?1")?.execute(params)?;
    Ok(())
}

/// Returns whether a host that was heard has said nothing since `before`.
pub(super) fn is_somebody_silent(db: &Connection, before: Time) -> Result<bool, DbError> {
    let mut select =
        db.prepare_cached("SELECT 1 FROM reports WHERE heard = 1 AND at < ?1 LIMIT 1")?;
    Ok(select.exists([before.as_second()])?)
}

/// Makes hosts `stale` that have said nothing since `before`, unless what they said last is worse.
pub(super) fn mark_silent(db: &Connection, before: Time) -> Result<usize, DbError> {
    let mut select = db.prepare_cached(
        "SELECT reports.id, hosts.shown FROM reports JOIN hosts USING (id)
         WHERE heard = 1 AND at < ?1 LIMIT ?2",
    )?;
    let rows = select.query_map(params![before.as_second(), SOME], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    })?;
    let silent: Vec<(i64, i64)> = rows.collect::<Result<_, _>>()?;
    for (id, shown) in &silent {
        db.prepare_cached("UPDATE reports SET heard = 0 WHERE id = ?1")?.execute([id])?;
        if word(*shown)? > StateWord::Stale {
            show(db, *id, StateWord::Stale)?;
        }
    }
    Ok(silent.len())
}

/// Counts the members of a list by their states.
pub(super) fn counts(
    db: &Connection,
    realm: &RealmName,
    group: Option<&GroupName>,
) -> Result<BTreeMap<StateWord, u64>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT shown, hosts FROM counts WHERE realm = ?1 AND list = ?2 AND hosts > 0",
    )?;
    let mut rows = select.query(params![realm.as_str(), group.map_or(ALL, GroupName::as_str)])?;
    let mut counts = BTreeMap::new();
    while let Some(row) = rows.next()? {
        counts.insert(word(row.get(0)?)?, row.get(1)?);
    }
    Ok(counts)
}
