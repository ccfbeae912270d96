//! Finding out what a closure is, by asking caches for one narinfo after the other.
//!
//! What comes out is an index like one that a registry publishes: every narinfo in it was
//! vouched for by a trusted key or by its own content address.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use shared::{
    closure::{ClosureIndex, MAX_PATHS},
    hints::{Hints, NarHint},
    nix::{NarInfo, PathInfo, StorePath, TrustedKeys},
};

use super::{
    Event, Fault, FaultCause, Observer, Sources, SubstituteError, blocking, unpinned::Disbelieved,
};
use crate::{
    cache::{BinaryCache, Candidates, Verdict},
    local::LocalStore,
};

/// Narinfos that are asked for at the same time.
const REQUESTS: usize = 24;

/// What caches say of the closures of some roots.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// One closure for each root, in the order of the roots.
    pub closures: Vec<ClosureIndex>,
    /// Where the NARs are.
    pub hints: Hints,
}

/// Finds the closures of `roots`.
///
/// With a store, what is valid there is believed as it is, and its closure not asked for again;
/// all that is needed is kept from any garbage collector as long as this process lives.
///
/// # Errors
/// When no cache has a path that somebody we trust vouches for, or the store fails.
pub async fn discover(
    roots: &[StorePath],
    store: Option<&Arc<LocalStore>>,
    sources: &Sources,
    observer: &Observer,
) -> Result<Discovered, SubstituteError> {
    discover_without(&Disbelieved::new(), roots, store, sources, observer).await
}

/// Does what [`discover`] does, and does not ask some caches for some paths.
pub(super) async fn discover_without(
    disbelieved: &Disbelieved,
    roots: &[StorePath],
    store: Option<&Arc<LocalStore>>,
    sources: &Sources,
    observer: &Observer,
) -> Result<Discovered, SubstituteError> {
    let mut walk = Walk::default();
    let mut level: BTreeSet<StorePath> = roots.iter().cloned().collect();
    while !level.is_empty() {
        if let Some(store) = store {
            walk.take_valid(store, &mut level).await?;
        }
        walk.ask(&level, sources, disbelieved, observer).await?;
        observer(Event::Discovered { paths: walk.infos.len() });
        level = walk.unknown(&level);
    }
    let closures = roots.iter().map(|root| walk.closure(root)).collect::<Result<_, _>>()?;
    Ok(Discovered { closures, hints: walk.hints })
}

#[derive(Default)]
struct Walk {
    infos: BTreeMap<StorePath, PathInfo>,
    hints: Hints,
}

impl Walk {
    /// Takes from `level` what the store has, with all that it refers to.
    async fn take_valid(
        &mut self,
        store: &Arc<LocalStore>,
        level: &mut BTreeSet<StorePath>,
    ) -> Result<(), SubstituteError> {
        let (store, asked) = (Arc::clone(store), level.clone());
        let present = blocking(move || {
            // Else what is there now may be gone when the rest has come.
            store.add_temp_roots(&asked)?;
            let valid = store.valid(&asked)?.into_keys().collect();
            Ok(store.closure(&valid)?)
        });
        for (path, info) in present.await? {
            level.remove(&path);
            self.infos.insert(path, info);
        }
        Ok(())
    }

    /// Asks the caches for the paths of one level, many at a time.
    async fn ask(
        &mut self,
        level: &BTreeSet<StorePath>,
        sources: &Sources,
        disbelieved: &Disbelieved,
        observer: &Observer,
    ) -> Result<(), SubstituteError> {
        let mut waiting = level.iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < REQUESTS {
                let Some(path) = waiting.next() else { break };
                running.push(ask_caches(path, sources, disbelieved, observer));
            }
            let Some(answer) = running.next().await else { return Ok(()) };
            let (cache, narinfo) = answer?;
            self.note(cache, narinfo);
        }
    }

    fn note(&mut self, cache: &BinaryCache, narinfo: NarInfo) {
        let info = narinfo.info;
        let number = self.hints.add_cache(cache.name());
        let told = self.hints.entry(&info.path);
        told.nars.push(NarHint {
            cache: number,
            compression: narinfo.compression,
            file_size: narinfo.file_size.unwrap_or(info.nar_size),
            url: narinfo.url,
        });
        told.signatures.clone_from(&info.signatures);
        told.content_address.clone_from(&info.content_address);
        told.deriver.clone_from(&info.deriver);
        self.infos.insert(info.path.clone(), info);
    }

    /// Returns what the paths of `level` refer to and nobody has told of yet.
    fn unknown(&self, level: &BTreeSet<StorePath>) -> BTreeSet<StorePath> {
        if self.infos.len() > MAX_PATHS {
            // Making the closure will say so.
            return BTreeSet::new();
        }
        let references = level.iter().filter_map(|path| self.infos.get(path));
        let references = references.flat_map(|info| &info.references);
        references.filter(|path| !self.infos.contains_key(*path)).cloned().collect()
    }

    /// Makes the index of what one root needs.
    fn closure(&self, root: &StorePath) -> Result<ClosureIndex, SubstituteError> {
        let mut needed = BTreeSet::from([root]);
        let mut waiting = vec![root];
        while let Some(info) = waiting.pop().and_then(|path| self.infos.get(path)) {
            waiting.extend(info.references.iter().filter(|path| needed.insert(path)));
        }
        let infos = needed.into_iter().filter_map(|path| self.infos.get(path));
        ClosureIndex::from_paths(root, infos)
            .map_err(|source| SubstituteError::Closure { root: root.clone(), source })
    }
}

/// Returns the first narinfo of a path that somebody we trust vouches for.
async fn ask_caches<'a>(
    path: &StorePath,
    sources: &'a Sources,
    disbelieved: &Disbelieved,
    observer: &Observer,
) -> Result<(&'a BinaryCache, NarInfo), SubstituteError> {
    let mut faults = Vec::new();
    let mut candidates = Candidates::new(&sources.caches);
    while let Some(asked) = candidates.next() {
        if disbelieved.contains(&(asked.cache.name().to_owned(), path.clone())) {
            continue;
        }
        match ask_cache(path, &asked.cache, &sources.trusted).await {
            Ok(narinfo) => {
                asked.went(Verdict::Answered);
                // Named now: fetching may well leave them out.
                for fault in faults.iter().filter(|fault: &&Fault| fault.cause.is_blame()) {
                    observer(Event::Faulty(fault));
                }
                return Ok((asked.original, narinfo));
            }
            Err(cause) => {
                asked.went(cause.verdict());
                let (cache, path) = (asked.cache.name().to_owned(), path.clone());
                faults.push(Fault { cache, path, cause });
            }
        }
    }
    Err(SubstituteError::Path { path: path.clone(), faults })
}

async fn ask_cache(
    path: &StorePath,
    cache: &BinaryCache,
    trusted: &TrustedKeys,
) -> Result<NarInfo, FaultCause> {
    let narinfo = cache.narinfo(path).await.map_err(FaultCause::Cache)?;
    let narinfo = narinfo.ok_or(FaultCause::Absent)?;
    narinfo.info.voucher(trusted).map_err(|why| FaultCause::untrusted(why, trusted))?;
    Ok(narinfo)
}
