//! What is missing, and whether there is space for it.

use std::collections::{BTreeSet, HashMap};

use shared::{
    closure::{ClosureEntry, ClosureIndex},
    nix::StorePath,
};

use super::SubstituteError;
use crate::local::LocalStore;

/// What a path takes on disk beyond its NAR, roughly: its last blocks, inodes and rows.
const OVERHEAD: u64 = 8 * 1024;

/// What has to be fetched to make closures valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The paths to fetch, the largest first.
    pub missing: Vec<StorePath>,
    /// Bytes of their NARs.
    pub nar_size: u64,
    /// Number of paths that are valid already.
    pub valid: usize,
}

/// Finds out what is missing, by one statement in the database; changes nothing. Blocks.
///
/// # Errors
/// When a path is valid with another hash, or references go round in a circle.
pub fn plan(store: &LocalStore, closures: &[ClosureIndex]) -> Result<Plan, SubstituteError> {
    let mut wanted: HashMap<&StorePath, ClosureEntry<'_>> = HashMap::new();
    for entry in closures.iter().flat_map(ClosureIndex::entries) {
        let other = wanted.insert(entry.path(), entry);
        if other.is_some_and(|other| !agree(&other, &entry)) {
            return Err(SubstituteError::Disagreement(entry.path().clone()));
        }
    }
    let paths: BTreeSet<StorePath> = wanted.keys().map(|path| (*path).clone()).collect();
    let valid = store.valid(&paths)?;
    for (path, present) in &valid {
        let Some(entry) = wanted.remove(path) else { continue };
        if entry.nar_hash() != present.nar_hash {
            return Err(SubstituteError::Conflict {
                path: path.clone(),
                valid: present.nar_hash,
                wanted: entry.nar_hash(),
            });
        }
    }
    check_acyclic(&wanted)?;
    let mut missing: Vec<ClosureEntry<'_>> = wanted.into_values().collect();
    missing.sort_by(|a, b| b.nar_size().cmp(&a.nar_size()).then_with(|| a.path().cmp(b.path())));
    Ok(Plan {
        nar_size: missing.iter().map(ClosureEntry::nar_size).sum(),
        missing: missing.iter().map(|entry| entry.path().clone()).collect(),
        valid: valid.len(),
    })
}

fn agree(a: &ClosureEntry<'_>, b: &ClosureEntry<'_>) -> bool {
    a.nar_hash() == b.nar_hash()
        && a.nar_size() == b.nar_size()
        && a.references().eq(b.references())
}

/// Takes away paths that need nothing more, until none is left; a circle is never taken away.
fn check_acyclic(missing: &HashMap<&StorePath, ClosureEntry<'_>>) -> Result<(), SubstituteError> {
    let mut referrers: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
    let mut open: HashMap<&StorePath, usize> = HashMap::new();
    for (path, entry) in missing {
        let needs = |reference: &&StorePath| reference != path && missing.contains_key(*reference);
        let count = open.entry(*path).or_default();
        for reference in entry.references().filter(needs) {
            referrers.entry(reference).or_default().push(*path);
            *count += 1;
        }
    }
    let mut ready: Vec<&StorePath> =
        open.iter().filter(|(_, count)| **count == 0).map(|(path, _)| *path).collect();
    while let Some(path) = ready.pop() {
        open.remove(path);
        for referrer in referrers.remove(path).unwrap_or_default() {
            if let Some(count) = open.get_mut(referrer) {
                *count -= 1;
                if *count == 0 {
                    ready.push(referrer);
                }
            }
        }
    }
    match open.keys().min() {
        Some(path) => Err(SubstituteError::Cycle((*path).clone())),
        None => Ok(()),
    }
}

/// Checks that what is planned fits on the disk and leaves `min_free` bytes.
pub(super) fn check_space(
    store: &LocalStore,
    plan: &Plan,
    min_free: u64,
) -> Result<(), SubstituteError> {
    let Some(path) = plan.missing.first() else { return Ok(()) };
    let place = store.real_path(path);
    let folder = place.parent().unwrap_or(store.root());
    let stat = rustix::fs::statvfs(folder)
        .map_err(|error| SubstituteError::FreeSpace(std::io::Error::from(error)))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = needed(plan, min_free);
    if needed > free { Err(SubstituteError::NoSpace { needed, free }) } else { Ok(()) }
}

fn needed(plan: &Plan, min_free: u64) -> u64 {
    let overhead = OVERHEAD.saturating_mul(plan.missing.len() as u64);
    plan.nar_size.saturating_add(overhead).saturating_add(min_free)
}
