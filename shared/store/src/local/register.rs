//! Makes paths valid: the one place that writes to Nix's database.
//!
//! # Durability
//!
//! After a power cut the disk holds what it was told to flush, and of everything later any part, in
//! any order. What must hold then is: *a row in the database means that its files are whole*. For
//! that a closure takes one sync and one commit, however many paths and files it has:
//!
//! 1. Trees are written without any sync that counts. They are not valid, so whatever a cut leaves
//!    of them is nobody's; the next import of the path, or a collector, sweeps it. What
//!    [`WriteBack`](super::WriteBack) syncs meanwhile is only no longer to do at the next step.
//! 2. One `syncfs` when all trees are complete. It writes each block once, lets the file system
//!    commit its journal and flushes the disk's cache. An fsync per file would wait for a commit
//!    and a flush each time, and says nothing of the name: every directory needs its own as well.
//!    A closure of 150 paths has 11 000 of them. The price is that what others wrote is waited for
//!    too. Since Linux 5.8 it tells of errors of writing back as fsync does.
//! 3. One transaction for all rows, begun only now: a row that were written before could reach the
//!    disk before its files. `synchronous=full` makes SQLite wait for its log at the commit (and
//!    for the log's name, when it is new), so what a caller does next may rely on it. A log that
//!    was cut off fails its checksums and counts as never written, with all its rows.
//!
//! Deleting goes the other way: a collector commits that rows are gone before it touches a file.
//! What leads to a path, such as roots and generations, is made after it is valid and put on disk
//! by an fsync of its folder; so a link never leads to what is not there.
//!
//! The stories in `tests/stories/power` cut the power of a machine that does this.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior, named_params, params};
use shared::nix::{PathInfo, Sha256, Signature, StorePath};

use super::{
    LocalStore, LocalStoreError, Step,
    database::failed,
    derivation::{self, Output},
    layout::io_error,
};

const ACTION: &str = "register paths";

impl LocalStore {
    /// Makes `infos` valid, all or none, once their contents are on disk.
    ///
    /// A path that is valid already with the same hash gains the signatures that it lacks.
    ///
    /// # Errors
    /// When a path is valid with another hash, a reference is missing or circular, or the database
    /// or disk fails; nothing is changed then.
    pub fn register(&self, infos: &[PathInfo]) -> Result<(), LocalStoreError> {
        self.register_in_steps(infos, &|_| ())
    }

    /// Does what [`register`](Self::register) does, and says how far it is.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub fn register_in_steps(
        &self,
        infos: &[PathInfo],
        hear: &dyn Fn(Step),
    ) -> Result<(), LocalStoreError> {
        let writer = self.writer()?;
        if infos.is_empty() {
            return Ok(());
        }
        check_acyclic(infos)?;
        let mut outputs = BTreeMap::new();
        for info in infos {
            let real = self.real_path(&info.path);
            real.symlink_metadata().map_err(io_error("find", &real))?;
            if info.path.is_derivation() {
                outputs.insert(&info.path, derivation::outputs(&info.path, &real)?);
            }
        }
        // Before the first row, and once for all: see above.
        rustix::fs::syncfs(&writer.store_dir)
            .map_err(|errno| io_error("sync", &self.layout.store_dir)(errno.into()))?;
        hear(Step::Synced);
        self.ask(|database| {
            let transaction = database
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(failed(ACTION))?;
            insert(&transaction, infos, &outputs)?;
            hear(Step::Inserted);
            transaction.commit().map_err(failed(ACTION))
        })?;
        hear(Step::Committed);
        Ok(())
    }
}

/// Inserts first all paths, then what is between them.
fn insert(
    transaction: &Transaction<'_>,
    infos: &[PathInfo],
    outputs: &BTreeMap<&StorePath, Vec<Output>>,
) -> Result<(), LocalStoreError> {
    let mut ids = BTreeMap::new();
    let mut known = Vec::new();
    for info in infos {
        let id = match complete_path(transaction, info)? {
            Some(id) => {
                known.push((&info.path, id));
                id
            }
            None => add_path(transaction, info)?,
        };
        ids.insert(info.path.clone(), id);
    }
    for info in infos {
        add_references(transaction, info, &mut ids)?;
        if let Some(outputs) = outputs.get(&info.path) {
            add_outputs(transaction, &info.path, outputs, &ids)?;
        }
    }
    for (path, id) in known {
        check_known(transaction, path, id)?;
    }
    Ok(())
}

/// Adds one row; returns its id.
fn add_path(transaction: &Transaction<'_>, info: &PathInfo) -> Result<i64, LocalStoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let sql = "INSERT INTO ValidPaths (path, hash, registrationTime, deriver, narSize, sigs, ca)
               VALUES (:path, :hash, :time, :deriver, :size, :sigs, :ca)";
    let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
    statement
        .insert(named_params! {
            ":path": info.path.to_string(),
            ":hash": format!("sha256:{}", info.nar_hash.to_hex()),
            ":time": i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            ":deriver": info.deriver.as_ref().map(StorePath::to_string),
            ":size": i64::try_from(info.nar_size).unwrap_or(i64::MAX),
            ":sigs": join(info.signatures.iter().map(Signature::to_string).collect()),
            ":ca": info.content_address.as_ref().map(ToString::to_string),
        })
        .map_err(failed(ACTION))
}

/// Gives the row of a path that is valid already what it lacks; returns its id, if it is.
///
/// Nix overwrites such a row, and so can lose that a path was built here, or who signed it. Nothing
/// is taken away here: the contents are the same, so every statement about them stays true.
fn complete_path(
    transaction: &Transaction<'_>,
    info: &PathInfo,
) -> Result<Option<i64>, LocalStoreError> {
    let sql = "SELECT id, hash, sigs FROM ValidPaths WHERE path = ?1";
    let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
    let row: Option<(i64, String, Option<String>)> = statement
        .query_row([info.path.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
        .map_err(failed(ACTION))?;
    let Some((id, hash, signatures)) = row else { return Ok(None) };
    let present = Sha256::parse(&hash).map_err(|_| LocalStoreError::Corrupt {
        path: info.path.to_string(),
        what: "hash",
        value: hash,
    })?;
    if present != info.nar_hash {
        let path = info.path.clone();
        return Err(LocalStoreError::Conflict { path, present, wanted: info.nar_hash });
    }
    let mut all: BTreeSet<String> =
        signatures.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    all.extend(info.signatures.iter().map(Signature::to_string));
    let sql = "UPDATE ValidPaths SET sigs = ?2, ca = coalesce(ca, ?3), narSize = ?4 WHERE id = ?1";
    let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
    let address = info.content_address.as_ref().map(ToString::to_string);
    let size = i64::try_from(info.nar_size).unwrap_or(i64::MAX);
    statement.execute(params![id, join(all), address, size]).map_err(failed(ACTION))?;
    Ok(Some(id))
}

fn add_references(
    transaction: &Transaction<'_>,
    info: &PathInfo,
    ids: &mut BTreeMap<StorePath, i64>,
) -> Result<(), LocalStoreError> {
    for reference in &info.references {
        if !ids.contains_key(reference) {
            let sql = "SELECT id FROM ValidPaths WHERE path = ?1";
            let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
            let found: Option<i64> = statement
                .query_row([reference.to_string()], |row| row.get(0))
                .optional()
                .map_err(failed(ACTION))?;
            let id = found.ok_or_else(|| LocalStoreError::MissingReference {
                path: info.path.clone(),
                reference: reference.clone(),
            })?;
            ids.insert(reference.clone(), id);
        }
        let sql = "INSERT OR IGNORE INTO Refs (referrer, reference) VALUES (?1, ?2)";
        let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
        statement.execute([ids.get(&info.path), ids.get(reference)]).map_err(failed(ACTION))?;
    }
    Ok(())
}

/// Refuses references that go round through a path that was valid before and gained references.
///
/// What refers to it may be valid already as well, and so be none of those that are registered.
fn check_known(
    transaction: &Transaction<'_>,
    path: &StorePath,
    id: i64,
) -> Result<(), LocalStoreError> {
    let sql = "WITH RECURSIVE below(id) AS (
                   SELECT reference FROM Refs WHERE referrer = ?1 AND reference <> ?1
                   UNION
                   SELECT reference FROM Refs JOIN below ON referrer = below.id
               ) SELECT count(*) FROM below WHERE id = ?1";
    let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
    let found: i64 = statement.query_row([id], |row| row.get(0)).map_err(failed(ACTION))?;
    if found == 0 { Ok(()) } else { Err(LocalStoreError::Cycle(path.clone())) }
}

fn add_outputs(
    transaction: &Transaction<'_>,
    path: &StorePath,
    outputs: &[Output],
    ids: &BTreeMap<StorePath, i64>,
) -> Result<(), LocalStoreError> {
    let sql = "INSERT OR REPLACE INTO DerivationOutputs (drv, id, path) VALUES (?1, ?2, ?3)";
    let mut statement = transaction.prepare_cached(sql).map_err(failed(ACTION))?;
    for output in outputs {
        statement
            .execute(params![ids.get(path), output.name, output.path.to_string()])
            .map_err(failed(ACTION))?;
    }
    Ok(())
}

/// Joins as Nix stores a set of strings: sorted, with spaces, none as NULL.
fn join(signatures: BTreeSet<String>) -> Option<String> {
    let joined = signatures.into_iter().collect::<Vec<_>>().join(" ");
    Some(joined).filter(|joined| !joined.is_empty())
}

/// Refuses references that go round among `infos`; a path may refer to itself.
///
/// References to other paths lead to what was valid before; see [`check_known`] for the way back.
fn check_acyclic(infos: &[PathInfo]) -> Result<(), LocalStoreError> {
    let mut waiting: BTreeMap<&StorePath, usize> = BTreeMap::new();
    let mut referrers: BTreeMap<&StorePath, Vec<&StorePath>> = BTreeMap::new();
    let known: BTreeSet<&StorePath> = infos.iter().map(|info| &info.path).collect();
    for info in infos {
        let others = info.references.iter().filter(|path| **path != info.path);
        let others: Vec<&StorePath> = others.filter(|path| known.contains(path)).collect();
        if waiting.insert(&info.path, others.len()).is_none() {
            for other in others {
                referrers.entry(other).or_default().push(&info.path);
            }
        }
    }
    let mut ready: Vec<&StorePath> =
        waiting.iter().filter(|(_, count)| **count == 0).map(|(path, _)| *path).collect();
    while let Some(path) = ready.pop() {
        waiting.remove(path);
        for referrer in referrers.remove(path).unwrap_or_default() {
            if let Some(count) = waiting.get_mut(referrer) {
                *count -= 1;
                if *count == 0 {
                    ready.push(referrer);
                }
            }
        }
    }
    match waiting.into_keys().next() {
        Some(path) => Err(LocalStoreError::Cycle(path.clone())),
        None => Ok(()),
    }
}
