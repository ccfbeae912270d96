//! What is missing, and whether there is space for it.

use std::collections::{BTreeSet, HashMap};

use shared::{
    closure::{ClosureEntry, ClosureIndex},
    nix::StorePath,
};

use super::SubstituteError;
use crate::{
    disk::{Disk, Guard},
    local::LocalStore,
    space::{self, Floor},
};

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

/// Checks that what is planned fits on the disk and leaves `min_free` bytes. Blocks.
///
/// # Errors
/// [`SubstituteError::NoSpace`], which says how much has to be freed.
pub fn check_space(store: &LocalStore, plan: &Plan, min_free: u64) -> Result<(), SubstituteError> {
    guard(store, plan, min_free).map(drop)
}

/// Checks the same, and returns what sees to it that the floor holds while others write, too.
pub(super) fn guard(
    store: &LocalStore,
    plan: &Plan,
    min_free: u64,
) -> Result<Guard, SubstituteError> {
    if plan.missing.is_empty() {
        return Ok(Guard::none());
    }
    let ask = SubstituteError::FreeSpace;
    let disk = Disk::of(store.store_dir()).map_err(ask)?;
    let state = Disk::of(store.state_dir()).map_err(ask)?;
    let needs = space::needs(plan.missing.len(), plan.nar_size, disk.block_size().map_err(ask)?);
    let no_space = |disk: &Disk| {
        let folder = disk.path().to_owned();
        move |lack| SubstituteError::NoSpace { folder, lack }
    };
    let mut floor = disk.floor(min_free).map_err(ask)?;
    if disk.is(&state).map_err(ask)? {
        floor = floor.promising(needs.state);
    } else {
        let free = state.free().map_err(ask)?;
        Floor::default().check(free, needs.state).map_err(no_space(&state))?;
    }
    floor.check(disk.free().map_err(ask)?, needs.store).map_err(no_space(&disk))?;
    Guard::new(disk, floor).map_err(ask)
}
