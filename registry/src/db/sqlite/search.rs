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

/// Up to how many hosts of the wanted states are all looked at and sorted, instead of looking among
/// all hosts of the realm for them.
const FEW: i64 = 5000;

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
        let mut count = self.db.prepare_cached(
            "SELECT hosts FROM counts WHERE realm = ?1 AND list = ?2 AND shown = ?3",
        )?;
        let mut wanted = 0;
        for state in StateWord::ALL.into_iter().filter(|state| self.wants(*state)) {
            let params = params![self.query.realm.as_str(), self.list, lists::rank(state)];
            wanted += count.query_row(params, |row| row.get::<_, i64>(0)).optional()?.unwrap_or(0);
        }
        if wanted <= FEW { self.sort_by_silence() } else { self.walk_by_silence() }
    }

    /// Sorts the few that are wanted.
    fn sort_by_silence(&mut self) -> Result<(), DbError> {
        let after = &self.query.after;
        let order = |place: &Place| (place.part, place.at, place.key);
        let mut select = self.db.prepare_cached(
            "SELECT name, id, CASE WHEN heard = 1 THEN 2 ELSE at IS NOT NULL END, coalesce(at, 0)
             FROM members JOIN reports USING (id) WHERE realm = ?1 AND list = ?2 AND shown = ?3",
        )?;
        let mut found = Vec::new();
        for state in StateWord::ALL.into_iter().filter(|state| self.wants(*state)) {
            let params = params![self.query.realm.as_str(), self.list, lists::rank(state)];
            let mut rows = select.query(params)?;
            while let Some(row) = rows.next()? {
                let (name, key, part, at) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
                let place = Place { part, at, name, key };
                if order(&place) > order(after)
                    && place.name.starts_with(self.begin)
                    && self.has_label(key, &place.name)?
                {
                    found.push(place);
                }
            }
        }
        found.sort_by_key(order);
        found.truncate(self.query.limit + 1);
        self.found = found;
        Ok(())
    }

    /// Looks along all hosts of the realm for those that are wanted.
    fn walk_by_silence(&mut self) -> Result<(), DbError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages through a list in one of the two ways, and returns the names.
    fn names(
        db: &Connection,
        mut query: HostQuery,
        by_silence: impl Fn(&mut Walk<'_>) -> Result<(), DbError>,
    ) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let mut walk = Walk::new(db, &query);
            by_silence(&mut walk).unwrap();
            let mut found = walk.found;
            let more = found.len() > query.limit;
            found.truncate(query.limit);
            names.extend(found.iter().map(|place| place.name.clone()));
            let Some(last) = found.pop().filter(|_| more) else { return names };
            query.after = last;
        }
    }

    #[test]
    fn the_few_that_are_wanted_are_found_in_the_order_in_which_all_are_looked_through() {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = super::super::connect(folder.path()).unwrap();
        for number in 0..60i64 {
            let (name, shown) =
                (format!("{}-{number}", ["db", "web"][(number % 2) as usize]), number % 3);
            let at = (number % 5 != 0).then_some(number * 7 % 11);
            let heard = at.map_or(0, |_| number % 2);
            db.execute(
                "INSERT INTO hosts (id, realm, host, name, certificate, enrolled_at, shown)
                 VALUES (?1, 'main', ?1, ?2, '{}', 0, ?3)",
                params![number + 1, name, shown],
            )
            .unwrap();
            let report = "INSERT INTO reports (id, at, heard) VALUES (?1, ?2, ?3)";
            db.execute(report, params![number + 1, at, heard]).unwrap();
            for list in ["", "eu-prod"].into_iter().take(1 + usize::from(number % 4 == 0)) {
                let member = "INSERT INTO members VALUES ('main', ?1, ?2, ?3, ?4)";
                db.execute(member, params![list, name, number + 1, shown]).unwrap();
            }
        }
        let two = vec![lists::word(0).unwrap(), lists::word(2).unwrap()];
        let (eu, web) = (GroupName::parse("eu-prod").unwrap(), "web".to_owned());
        for limit in [1, 7, 100] {
            for (group, states, begin, count) in [
                (None, None, None, 60),
                (None, Some(two.clone()), None, 40),
                (Some(eu.clone()), None, None, 15),
                (Some(eu.clone()), Some(two.clone()), None, 10),
                (None, Some(two.clone()), Some(web.clone()), 20),
                (Some(eu.clone()), Some(vec![]), None, 0),
            ] {
                let realm = shared::id::RealmName::parse("main").unwrap();
                let first = HostQuery { sort: Sort::Seen, ..HostQuery::first(realm, limit) };
                let query = HostQuery { group, states, begin, ..first };
                let sorted = names(&db, query.clone(), |it| it.sort_by_silence());
                assert_eq!(sorted, names(&db, query, |it| it.walk_by_silence()));
                assert_eq!(sorted.len(), count);
            }
        }
    }
}
