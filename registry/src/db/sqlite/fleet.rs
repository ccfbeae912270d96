//! What is asked of a whole fleet: kept counts and ends of indexes, so that nothing is scanned.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _};
use shared::{
    id::{GroupName, RealmName},
    state_word::StateWord,
    time::Time,
};

use super::{DbError, lists, time};

/// Counts the hosts of every group by their states.
pub(super) fn counts_by_group(
    db: &Connection,
    realm: &RealmName,
) -> Result<BTreeMap<GroupName, BTreeMap<StateWord, u64>>, DbError> {
    let mut select = db.prepare_cached(
        "SELECT list, shown, hosts FROM counts WHERE realm = ?1 AND list > '' AND hosts > 0",
    )?;
    let mut rows = select.query([realm.as_str()])?;
    let mut counts: BTreeMap<GroupName, BTreeMap<StateWord, u64>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let list: String = row.get(0)?;
        let group = GroupName::parse(&list).map_err(|_| DbError::Damaged(list))?;
        counts.entry(group).or_default().insert(lists::word(row.get(1)?)?, row.get(2)?);
    }
    Ok(counts)
}

/// Returns when the host that has been silent for longest, and is not counted as silent, was heard.
pub(super) fn oldest_report(db: &Connection) -> Result<Option<Time>, DbError> {
    let mut select =
        db.prepare_cached("SELECT at FROM reports WHERE heard = 1 ORDER BY at LIMIT 1")?;
    let at: Option<i64> = select.query_row([], |row| row.get(0)).optional()?;
    at.map(time).transpose()
}
