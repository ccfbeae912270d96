//! Deletes: leftovers, dead paths, links that nothing shares any more.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{FlockOperation, OFlags};
use shared::nix::{StorePath, store_path::HASH_PART_LEN};

use super::{Collected, Event, Options, listener::Listener};
use crate::{
    archive::{Freed, remove_and_count},
    local::{
        LocalStore, LocalStoreError,
        garbage::{Dead, Row},
        layout::io_error,
    },
    lock::try_lock,
};

/// Paths that become invalid in one transaction, where the disk has room for it.
///
/// Each transaction waits for the disk: no file may go before it is certain that its row is gone,
/// also after a power cut. A process that wants one of these waits for that path alone.
const BATCH: usize = 64;

/// Names that are looked up at once.
const CHUNK: usize = 1000;

/// What the smallest file takes on most disks; to guess how much a path will free.
const BLOCK: u64 = 4096;

/// The file names that optimised stores share, which are nobody's path.
const LINKS: &str = ".links";

/// Whether there may be more to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    MayBe,
    No,
}

/// One sweep of a store.
pub(super) struct Sweep<'a> {
    store: &'a LocalStore,
    listener: &'a Listener,
    options: &'a Options,
    observer: &'a mut dyn FnMut(Event<'_>),
    pub(super) collected: Collected,
    /// Bytes that are free once [`Sweep::links`] has removed their last name, if it is that.
    shared: u64,
    /// Whether anything was deleted since [`Sweep::links`] looked.
    unshares: bool,
    /// How many paths become invalid next in one transaction.
    batch_size: usize,
    /// The first dead path of the current batch.
    first: usize,
    /// The dead path that comes next.
    next: usize,
    /// Dead paths that somebody came to want.
    live: HashSet<usize>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(
        store: &'a LocalStore,
        listener: &'a Listener,
        options: &'a Options,
        observer: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        Self {
            store,
            listener,
            options,
            observer,
            collected: Collected::default(),
            shared: 0,
            unshares: true,
            batch_size: BATCH,
            first: 0,
            next: 0,
            live: HashSet::new(),
        }
    }

    /// Sweeps what belongs to no valid path.
    pub(super) fn leftovers(&mut self) -> Result<(), LocalStoreError> {
        let kept = self.listener.agreed().kept.clone();
        for name in leftovers(self.store, &kept)? {
            if self.enough() {
                break;
            }
            self.leftover(&name)?;
        }
        Ok(())
    }

    fn leftover(&mut self, name: &OsStr) -> Result<(), LocalStoreError> {
        let Some(path) = store_path(name) else {
            self.remove(name);
            return Ok(());
        };
        let hash_part = path.hash_part();
        if !self.claim(hash_part) {
            return Ok(());
        }
        // It may have become valid before it was claimed, and its owner have gone.
        let valid = self.store.valid(&[path.clone()].into());
        if valid.as_ref().is_ok_and(|valid| valid.is_empty()) {
            self.remove(name);
        }
        self.listener.deleted(hash_part);
        valid.map(|_| ())
    }

    /// Begins a deletion, unless somebody wants the path.
    fn claim(&self, hash_part: &str) -> bool {
        let mut agreed = self.listener.agreed();
        let free = !agreed.kept.contains(hash_part);
        if free {
            agreed.pending.insert(hash_part.to_owned());
        }
        free
    }

    /// Removes an entry of the store directory, if nobody holds it.
    fn remove(&mut self, name: &OsStr) {
        let path = self.store.layout().store_dir.join(name);
        let mut hold = match hold(name, &path) {
            Ok(Hold::Busy) => return,
            Ok(Hold::Free(hold)) => hold,
            Err(error) => return self.stuck(&path, &error),
        };
        match self.remove_files(&path) {
            Ok(freed) => {
                // Whoever waits for a lock sees by this that its file is not there any more.
                if let Some(lock) = &mut hold
                    && let Err(error) = lock.write_all(b"d")
                {
                    tracing::debug!(path = %path.display(), %error, "cannot mark a removed lock");
                }
                self.collected.leftovers += 1;
                self.deleted(&name.to_string_lossy(), freed);
            }
            Err(error) => self.stuck(&path, &error),
        }
    }

    /// Deletes dead paths, which come referrers first, until there are no more or enough seems to
    /// be free.
    pub(super) fn dead(&mut self, dead: &[Dead]) -> Result<More, LocalStoreError> {
        while self.next < dead.len() {
            if self.enough() {
                let sure = self.shared == 0 || self.options.stop.is_cancelled();
                return Ok(if sure { More::No } else { More::MayBe });
            }
            let batch = self.batch(dead);
            if batch.is_empty() {
                continue;
            }
            let rows = match self.store.invalidate(&batch) {
                Err(error) if error.is_disk_full() && (batch.len() > 1 || self.shared > 0) => {
                    self.give_back(&batch)?;
                    continue;
                }
                rows => rows?,
            };
            self.batch_size = (self.batch_size * 2).min(BATCH);
            (self.observer)(Event::Invalidated(batch.len()));
            for (dead, row) in batch.into_iter().zip(rows) {
                if row == Row::Gone {
                    self.delete(dead);
                }
                self.listener.deleted(dead.path.hash_part());
            }
        }
        Ok(More::No)
    }

    /// Lets go of a batch for which the database has no room, and tries the smallest ones next.
    fn give_back(&mut self, batch: &[&Dead]) -> Result<(), LocalStoreError> {
        for dead in batch {
            self.listener.deleted(dead.path.hash_part());
        }
        self.next = self.first;
        self.batch_size = 1;
        // What shares its files with nothing any more is the first to give room.
        if self.shared > 0 { self.links() } else { Ok(()) }
    }

    /// Claims the next paths, but none that somebody wants and nothing that those lead to.
    fn batch<'d>(&mut self, dead: &'d [Dead]) -> Vec<&'d Dead> {
        let mut agreed = self.listener.agreed();
        let freed = self.freed();
        let mut room = self.options.max_freed.map(|max| max.saturating_sub(freed));
        let mut batch = Vec::new();
        self.first = self.next;
        while let Some(candidate) = dead.get(self.next)
            && batch.len() < self.batch_size
            && room != Some(0)
        {
            let hash_part = candidate.path.hash_part();
            if agreed.kept.contains(hash_part) {
                revive(dead, self.next, &mut self.live);
            } else if !self.live.contains(&self.next) {
                agreed.pending.insert(hash_part.to_owned());
                let size = candidate.nar_size.next_multiple_of(BLOCK);
                room = room.map(|room| room.saturating_sub(size));
                batch.push(candidate);
            }
            self.next += 1;
        }
        batch
    }

    fn delete(&mut self, dead: &Dead) {
        let path = self.store.real_path(&dead.path);
        match self.remove_files(&path) {
            Ok(freed) => {
                self.collected.paths += 1;
                self.deleted(dead.path.base_name(), freed);
            }
            Err(error) => self.stuck(&path, &error),
        }
    }

    /// Removes a tree and returns how much that frees by itself, or will with `.links`.
    fn remove_files(&mut self, path: &Path) -> io::Result<u64> {
        let mut freed = Freed::default();
        let removed = remove_and_count(path, &mut freed);
        self.unshares = true;
        self.collected.freed = self.collected.freed.saturating_add(freed.freed);
        self.shared = self.shared.saturating_add(freed.shared);
        removed.map(|()| freed.freed.saturating_add(freed.shared))
    }

    /// Removes the names in `.links` that are their file's only ones.
    pub(super) fn links(&mut self) -> Result<(), LocalStoreError> {
        if !std::mem::take(&mut self.unshares) {
            return Ok(());
        }
        (self.observer)(Event::Unsharing);
        self.shared = 0;
        let folder = self.store.layout().links_dir();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("read", &folder)(error)),
        };
        for entry in entries {
            let path = entry.map_err(io_error("read", &folder))?.path();
            match remove_only_name(&path) {
                Ok(freed) => self.collected.freed = self.collected.freed.saturating_add(freed),
                // Whoever makes links just now replaced or removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.stuck(&path, &error),
            }
        }
        Ok(())
    }

    fn deleted(&mut self, name: &str, freed: u64) {
        (self.observer)(Event::Deleted { name, freed });
    }

    fn stuck(&mut self, path: &Path, error: &io::Error) {
        self.collected.stuck += 1;
        (self.observer)(Event::Stuck { path: path.to_owned(), error });
    }

    /// Returns whether to stop, as far as that can be told while names in `.links` are left.
    fn enough(&mut self) -> bool {
        let freed = self.options.max_freed.is_some_and(|max| self.freed() >= max);
        self.collected.enough = freed || self.options.stop.is_cancelled();
        self.collected.enough
    }

    const fn freed(&self) -> u64 {
        self.collected.freed.saturating_add(self.shared)
    }
}

/// Removes a file if this is its only name; returns how many bytes that frees.
fn remove_only_name(path: &Path) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    if metadata.nlink() > 1 {
        return Ok(0);
    }
    // Were it linked this very moment, no more than the chance to share it would be lost.
    fs::remove_file(path)?;
    Ok(metadata.blocks().saturating_mul(512))
}

/// Returns the names in the store directory that belong to no valid path and to no hash part that
/// is kept.
pub(super) fn leftovers(
    store: &LocalStore,
    kept: &HashSet<String>,
) -> Result<Vec<OsString>, LocalStoreError> {
    let folder = &store.layout().store_dir;
    let mut found = Vec::new();
    let mut named = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
        let name = entry.map_err(io_error("read", folder))?.file_name();
        match store_path(&name) {
            _ if name == LINKS => {}
            Some(path) if kept.contains(path.hash_part()) => {}
            Some(path) => named.push(path),
            None => found.push(name),
        }
    }
    for chunk in named.chunks(CHUNK) {
        let chunk: BTreeSet<StorePath> = chunk.iter().cloned().collect();
        let valid = store.valid(&chunk)?;
        let invalid = chunk.iter().filter(|path| !valid.contains_key(*path));
        found.extend(invalid.map(|path| OsString::from(path.base_name())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Takes an entry's name for a store path, which names of locks and other leftovers can be too.
fn store_path(name: &OsStr) -> Option<StorePath> {
    let name = name.to_str().filter(|name| name.len() > HASH_PART_LEN)?;
    StorePath::from_base_name(name).ok()
}

enum Hold {
    /// Somebody is at work with it.
    Busy,
    /// Nobody is, or nobody could; a lock that is held so has to be marked once it is removed.
    Free(Option<File>),
}

/// Locks an entry that others would lock if they used it: lock files, temporary folders of Nix.
fn hold(name: &OsStr, path: &Path) -> io::Result<Hold> {
    let name = name.as_encoded_bytes();
    let lock = name.ends_with(b".lock") && path.symlink_metadata()?.is_file();
    if !lock && !name.starts_with(b"tmp-") {
        return Ok(Hold::Free(None));
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .write(lock)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Hold::Busy),
        // Not a file or a folder, so nobody can have locked it.
        Err(_) if path.symlink_metadata().is_ok_and(|m| !m.is_file() && !m.is_dir()) => {
            return Ok(Hold::Free(None));
        }
        Err(error) => return Err(error),
    };
    if try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        return Ok(Hold::Free(lock.then_some(file)));
    }
    Ok(Hold::Busy)
}

/// Marks a path live, and all that it keeps.
fn revive(dead: &[Dead], index: usize, live: &mut HashSet<usize>) {
    let mut waiting = vec![index];
    while let Some(index) = waiting.pop() {
        if live.insert(index) {
            waiting.extend(dead.get(index).into_iter().flat_map(|dead| &dead.keeps));
        }
    }
}
