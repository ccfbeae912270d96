//! Lists of hosts, filtered and sorted: along an index, and never further than is bounded.
//!
//! Where one index has both order and filter, all that is looked at is told. Where a filter must be
//! looked up for each host, a page ends after so many, told or not, and the next one goes on there.

use rusqlite::{Connection, OptionalExtension as _, params};
use shared::{id::GroupName, state_word::StateWord};

use super::{DbError, host, lists};
use crate::db::hosts::{HostPage, HostQuery, Place, Sort};

/// The most hosts that are looked at for one page.
const LOOK: usize = 20_000;

/// The list of all hosts; no group has this name.
const ALL: &str = "";

/// Lists hosts.
pub(super) fn list(db: &Connection, query: &HostQuery) -> Result<HostPage, DbError> {
    let mut walk = Walk::new(db, query);
    match (query.sort, &query.label) {
        (Sort::Name, None) => walk.by_name()?,
        (Sort::Name, Some(_)) => walk.by_label()?,
        (Sort::State, _) => walk.by_state()?,
        (Sort::Seen, _) => walk.by_silence()?,
    }
    if query.sort == Sort::Name {
        // Several states are several runs, each in order.
        walk.found.sort();
    }
    let mut next = walk.stopped;
    if walk.found.len() > query.limit {
        walk.found.truncate(query.limit);
        next = walk.found.last().cloned();
    }
    let mut rows = Vec::new();
    for place in &walk.found {
        rows.extend(host::by_key(db, place.key)?);
    }
    Ok(HostPage { rows, next })
}

/// A walk along an index.
struct Walk<'a> {
    db: &'a Connection,
    query: &'a HostQuery,
    list: &'a str,
    /// What names begin with.
    begin: &'a str,
    /// In their order, one more than fits at most; by name several runs that are merged.
    found: Vec<Place>,
    looked: usize,
    /// Where it ended before its time.
    stopped: Option<Place>,
}

impl<'a> Walk<'a> {
    fn new(db: &'a Connection, query: &'a HostQuery) -> Self {
        let list = query.group.as_ref().map_or(ALL, GroupName::as_str);
        let begin = query.begin.as_deref().unwrap_or_default();
        Self { db, query, list, begin, found: Vec::new(), looked: 0, stopped: None }
    }

    /// Returns from where a run by name begins.
    fn start(&self, after: (&'a str, i64)) -> (&'a str, i64) {
        // No key is 0: nothing with that very name is passed over.
        after.max((self.begin, 0))
    }

    fn wants(&self, state: StateWord) -> bool {
        self.query.states.as_ref().is_none_or(|states| states.contains(&state))
    }

    /// Notes a host that was looked at; says whether to go on.
    fn look(&mut self, place: Place, is_wanted: bool) -> bool {
        self.looked += 1;
        if is_wanted {
            self.found.push(place.clone());
        }
        if self.found.len() > self.query.limit {
            return false;
        }
        if self.looked == LOOK {
            self.stopped = Some(place);
            return false;
        }
        true
    }

    fn by_name(&mut self) -> Result<(), DbError> {
        let after = &self.query.after;
        let (name, key) = self.start((&after.name, after.key));
        let realm = self.query.realm.as_str();
        let most = self.query.limit + 1;
        let Some(states) = &self.query.states else {
            let mut select = self.db.prepare_cached(
                "SELECT name, id FROM members WHERE realm = ?1 AND list = ?2
                 AND (name, id) > (?3, ?4) ORDER BY name, id",
            )?;
            let rows = select.query(params![realm, self.list, name, key])?;
            return self.take(rows, 0, most);
        };
        let mut select = self.db.prepare_cached(
            "SELECT name, id FROM members WHERE realm = ?1 AND list = ?2 AND shown = ?5
             AND (name, id) > (?3, ?4) ORDER BY name, id",
        )?;
        // Each state is one range of the index; together they are merged by name.
        let states: std::collections::BTreeSet<StateWord> = states.iter().copied().collect();
        for state in states {
            let rows = select.query(params![realm, self.list, name, key, lists::rank(state)])?;
            self.take(rows, 0, most)?;
        }
        Ok(())
    }

    /// Takes some rows of a run by name, all of which are wanted.
    fn take(
        &mut self,
        mut rows: rusqlite::Rows<'_>,
        part: i64,
        most: usize,
    ) -> Result<(), DbError> {
        for _ in 0..most {
            let Some(row) = rows.next()? else { break };
            let place = Place { part, at: 0, name: row.get(0)?, key: row.get(1)? };
            if !place.name.starts_with(self.begin) {
                break;
            }
            self.found.push(place);
        }
        Ok(())
    }

    fn by_label(&mut self) -> Result<(), DbError> {
        let Some((label, value)) = &self.query.label else { return Ok(()) };
        let after = &self.query.after;
        let (name, key) = self.start((&after.name, after.key));
        let realm = self.query.realm.as_str();
        let mut select = self.db.prepare_cached(
            "SELECT labels.name, labels.id, shown FROM labels
             LEFT JOIN members ON members.realm = labels.realm AND list = ?6
                 AND members.name = labels.name AND members.id = labels.id
             WHERE labels.realm = ?1 AND label = ?2 AND value = ?3
                 AND (labels.name, labels.id) > (?4, ?5)
             ORDER BY labels.name, labels.id",
        )?;
        let mut rows =
            select.query(params![realm, label.as_str(), value.as_str(), name, key, self.list])?;
        while let Some(row) = rows.next()? {
            let place = Place { part: 0, at: 0, name: row.get(0)?, key: row.get(1)? };
            let shown: Option<i64> = row.get(2)?;
            let shown = shown.map(lists::word).transpose()?;
            if !place.name.starts_with(self.begin)
                || !self.look(place, shown.is_some_and(|state| self.wants(state)))
            {
                break;
            }
        }
        Ok(())
    }

    fn by_state(&mut self) -> Result<(), DbError> {
        let after = &self.query.after;
        let realm = self.query.realm.as_str();
        let mut select = self.db.prepare_cached(
            "SELECT name, id FROM members WHERE realm = ?1 AND list = ?2 AND shown = ?3
             AND (name, id) > (?4, ?5) ORDER BY name, id",
        )?;
        for state in StateWord::ALL {
            let part = lists::rank(state);
            if part < after.part || !self.wants(state) {
                continue;
            }
            let from = if part == after.part { (after.name.as_str(), after.key) } else { ("", 0) };
            let (name, key) = self.start(from);
            let rows = select.query(params![realm, self.list, part, name, key])?;
            if self.query.label.is_none() {
                let most = self.query.limit + 1 - self.found.len();
                self.take(rows, part, most)?;
            } else {
                self.probe(rows, part)?;
            }
            if self.found.len() > self.query.limit || self.stopped.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Takes those of a run by name that have the label.
    fn probe(&mut self, mut rows: rusqlite::Rows<'_>, part: i64) -> Result<(), DbError> {
        while let Some(row) = rows.next()? {
            let place = Place { part, at: 0, name: row.get(0)?, key: row.get(1)? };
            let is_wanted = self.has_label(place.key, &place.name)?;
            if !place.name.starts_with(self.begin) || !self.look(place, is_wanted) {
                break;
            }
        }
        Ok(())
    }

    fn has_label(&self, key: i64, name: &str) -> Result<bool, DbError> {
        let Some((label, value)) = &self.query.label else { return Ok(true) };
        let mut select = self.db.prepare_cached(
            "SELECT 1 FROM labels
             WHERE realm = ?1 AND label = ?2 AND value = ?3 AND name = ?4 AND id = ?5",
        )?;
        let realm = self.query.realm.as_str();
        Ok(select.exists(params![realm, label.as_str(), value.as_str(), name, key])?)
    }

    /// Those that never spoke first, then those that count as silent, then the others.
    fn by_silence(&mut self) -> Result<(), DbError> {
        let runs = [
            "SELECT id, 0 FROM reports WHERE heard = 0 AND at IS NULL AND id > ?2 AND ?1 = 0
             ORDER BY id",
            "SELECT id, at FROM reports WHERE heard = 0 AND (at, id) > (?1, ?2) ORDER BY at, id",
            "SELECT id, at FROM reports WHERE heard = 1 AND (at, id) > (?1, ?2) ORDER BY at, id",
        ];
        let mut find = self.db.prepare_cached(
            "SELECT name, shown FROM members WHERE id = ?1 AND realm = ?2 AND list = ?3",
        )?;
        let after = &self.query.after;
        for (part, run) in (0..).zip(runs) {
            if part < after.part {
                continue;
            }
            let from = if part == after.part { (after.at, after.key) } else { (0, 0) };
            let mut select = self.db.prepare_cached(run)?;
            let mut rows = select.query(params![from.0, from.1])?;
            while let Some(row) = rows.next()? {
                let (key, at): (i64, i64) = (row.get(0)?, row.get(1)?);
                let params = params![key, self.query.realm.as_str(), self.list];
                let member = find.query_row(params, |row| Ok((row.get(0)?, row.get(1)?)));
                let member: Option<(String, i64)> = member.optional()?;
                let (name, is_wanted) = match member {
                    Some((name, shown)) => {
                        let fits = name.starts_with(self.begin)
                            && self.wants(lists::word(shown)?)
                            && self.has_label(key, &name)?;
                        (name, fits)
                    }
                    None => (String::new(), false),
                };
                if !self.look(Place { part, at, name, key }, is_wanted) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
