//! What the garbage collector asks and tells Nix's database.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rusqlite::{TransactionBehavior, params};
use shared::nix::StorePath;

use super::{
    LocalStore, LocalStoreError,
    database::{Database, failed, json, nar_size, store_path},
};

const ACTION: &str = "find what is dead";

/// Whether the outputs of a live derivation are live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeepOutputs {
    /// They are, as with `keep-outputs = true` of Nix.
    Yes,
    /// Only if something else needs them, Nix's default.
    #[default]
    No,
}

/// Whether the derivation that a live path was built from is live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeepDerivations {
    /// It is, Nix's default.
    #[default]
    Yes,
    /// Only if something else needs it, as with `keep-derivations = false` of Nix.
    No,
}

/// What is live because of what it was built from, or what was built from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// From outputs to derivations.
    pub derivations: KeepDerivations,
    /// From derivations to outputs.
    pub outputs: KeepOutputs,
}

/// A valid path that no root leads to.
#[derive(Debug, Clone)]
pub(crate) struct Dead {
    pub(crate) path: StorePath,
    pub(crate) nar_size: u64,
    /// Its row.
    id: i64,
    /// Which others, by index, are live if it is.
    pub(crate) keeps: Vec<usize>,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// It is gone, now or before.
    Gone,
    /// Something refers to it that was not there before.
    InUse,
}

impl LocalStore {
    /// Returns all valid paths that are dead given the roots: referrers before what they refer to.
    pub(crate) fn dead(
        &self,
        roots: &BTreeSet<StorePath>,
        keep: Keep,
    ) -> Result<Vec<Dead>, LocalStoreError> {
        self.ask(|database| database.dead(roots, keep))
    }

    /// Makes paths invalid, all that nothing refers to, in one transaction that is on disk when it
    /// returns. Their order must be that of [`LocalStore::dead`].
    pub(crate) fn invalidate(&self, paths: &[&Dead]) -> Result<Vec<Row>, LocalStoreError> {
        self.ask(|database| database.invalidate(paths))
    }
}

impl Database {
    fn dead(&self, roots: &BTreeSet<StorePath>, keep: Keep) -> Result<Vec<Dead>, LocalStoreError> {
        // One transaction, so that all is of one moment. What becomes valid later is not dead.
        let transaction = self.connection.unchecked_transaction().map_err(failed(ACTION))?;
        let live = self.live(roots, keep)?;
        let (mut dead, derivers) = self.all_but(&live)?;
        let index: HashMap<i64, usize> =
            dead.iter().enumerate().map(|(index, dead)| (dead.id, index)).collect();
        let mut references = vec![Vec::new(); dead.len()];
        self.edges(|referrer, reference| {
            let pair = (index.get(&referrer), index.get(&reference));
            if let (Some(referrer), Some(reference)) = pair
                && referrer != reference
                && let Some(references) = references.get_mut(*referrer)
            {
                references.push(*reference);
            }
        })?;
        transaction.finish().map_err(failed(ACTION))?;
        let order = referrers_first(&references);
        let by_path: BTreeMap<&StorePath, usize> =
            dead.iter().enumerate().map(|(index, dead)| (&dead.path, index)).collect();
        let derivers: Vec<Option<usize>> = derivers
            .iter()
            .map(|deriver| deriver.as_ref().and_then(|path| by_path.get(path).copied()))
            .collect();
        for ((dead, references), deriver) in dead.iter_mut().zip(references).zip(derivers) {
            dead.keeps = references;
            dead.keeps.extend(deriver);
        }
        Ok(arranged(&dead, &order))
    }

    /// Returns the rows that the roots lead to, with derivers and outputs as asked for.
    fn live(
        &self,
        roots: &BTreeSet<StorePath>,
        keep: Keep,
    ) -> Result<HashSet<i64>, LocalStoreError> {
        let derivations = match keep.derivations {
            KeepDerivations::No => "",
            KeepDerivations::Yes => {
                "UNION SELECT deriver.id FROM live JOIN ValidPaths known ON known.id = live.id
                 JOIN ValidPaths deriver ON deriver.path = known.deriver"
            }
        };
        let outputs = match keep.outputs {
            KeepOutputs::No => "",
            KeepOutputs::Yes => {
                "UNION SELECT built.id FROM live
                 JOIN DerivationOutputs output ON output.drv = live.id
                 JOIN ValidPaths built ON built.path = output.path"
            }
        };
        let sql = format!(
            "WITH RECURSIVE live(id) AS (
                 SELECT id FROM ValidPaths WHERE path IN (SELECT value FROM json_each(?1))
                 UNION SELECT reference FROM live JOIN Refs ON referrer = live.id
                 {derivations}
                 {outputs}
             ) SELECT id FROM live"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed(ACTION))?;
        let rows = statement.query_map([json(roots)], |row| row.get(0)).map_err(failed(ACTION))?;
        rows.collect::<Result<_, _>>().map_err(failed(ACTION))
    }

    /// Returns all rows but these, and the derivers.
    fn all_but(
        &self,
        live: &HashSet<i64>,
    ) -> Result<(Vec<Dead>, Vec<Option<StorePath>>), LocalStoreError> {
        let sql = "SELECT path, id, narSize, deriver FROM ValidPaths ORDER BY path";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(ACTION))?;
        let mut rows = statement.query([]).map_err(failed(ACTION))?;
        let (mut dead, mut derivers) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next().map_err(failed(ACTION))? {
            let id = row.get(1).map_err(failed(ACTION))?;
            if live.contains(&id) {
                continue;
            }
            let (path, nar_size) = (store_path(row, 0)?, nar_size(row, 2)?);
            let deriver: Option<String> = row.get(3).map_err(failed(ACTION))?;
            dead.push(Dead { path, nar_size, id, keeps: Vec::new() });
            derivers.push(deriver.and_then(|deriver| StorePath::parse(&deriver).ok()));
        }
        Ok((dead, derivers))
    }

    fn edges(&self, mut hear: impl FnMut(i64, i64)) -> Result<(), LocalStoreError> {
        let sql = "SELECT referrer, reference FROM Refs";
        let mut statement = self.connection.prepare_cached(sql).map_err(failed(ACTION))?;
        let mut rows = statement.query([]).map_err(failed(ACTION))?;
        while let Some(row) = rows.next().map_err(failed(ACTION))? {
            hear(row.get(0).map_err(failed(ACTION))?, row.get(1).map_err(failed(ACTION))?);
        }
        Ok(())
    }

    fn invalidate(&mut self, paths: &[&Dead]) -> Result<Vec<Row>, LocalStoreError> {
        const ACTION: &str = "make paths invalid";
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed(ACTION))?;
        let mut rows = Vec::new();
        for dead in paths {
            // The condition is what a collector must never break, whatever it believes.
            let sql = "DELETE FROM ValidPaths WHERE id = ?1 AND NOT EXISTS (
                           SELECT 1 FROM Refs WHERE reference = ?1 AND referrer <> ?1)";
            let mut delete = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
            let deleted = delete.execute([dead.id]).map_err(failed(ACTION))?;
            let sql = "SELECT EXISTS (SELECT 1 FROM ValidPaths WHERE path = ?1)";
            let mut look = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
            let there = deleted == 0
                && look
                    .query_row(params![dead.path.to_string()], |row| row.get(0))
                    .map_err(failed(ACTION))?;
            rows.push(if there { Row::InUse } else { Row::Gone });
        }
        transaction.commit().map_err(failed(ACTION))?;
        Ok(rows)
    }
}

/// Orders nodes so that whatever refers to one comes before it. Nodes on a circle, which no
/// database should have, are left out.
fn referrers_first(references: &[Vec<usize>]) -> Vec<usize> {
    let mut referrers = vec![0_usize; references.len()];
    for reference in references.iter().flatten() {
        if let Some(count) = referrers.get_mut(*reference) {
            *count += 1;
        }
    }
    let mut order: Vec<usize> = referrers
        .iter()
        .enumerate()
        .filter(|(_, count)| **count == 0)
        .map(|(node, _)| node)
        .collect();
    let mut next = 0;
    while let Some(node) = order.get(next).copied() {
        next += 1;
        for reference in references.get(node).into_iter().flatten() {
            if let Some(count) = referrers.get_mut(*reference) {
                *count -= 1;
                if *count == 0 {
                    order.push(*reference);
                }
            }
        }
    }
    order
}

/// Puts nodes into an order, and what they keep with them.
fn arranged(dead: &[Dead], order: &[usize]) -> Vec<Dead> {
    let new: HashMap<usize, usize> =
        order.iter().enumerate().map(|(new, old)| (*old, new)).collect();
    let node = |old: &usize| {
        let mut node = dead.get(*old)?.clone();
        node.keeps = node.keeps.iter().filter_map(|kept| new.get(kept).copied()).collect();
        Some(node)
    };
    order.iter().filter_map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referrers_come_before_what_they_refer_to_and_circles_are_left_out() {
        // 0 → 1 → 2, 0 → 2, 3 alone, 4 ⇄ 5 → 2.
        let references = [vec![1, 2], vec![2], vec![], vec![], vec![5], vec![4, 2]];
        assert_eq!(referrers_first(&references), [0, 3, 1]);
        assert_eq!(referrers_first(&references[..4]), [0, 3, 1, 2]);
    }
}
