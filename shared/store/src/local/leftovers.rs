//! What processes leave behind that die while they take paths into the store.
//!
//! Before a process touches a path it writes it down as its temporary root, and with its death the
//! kernel releases the lock on that file. So whoever finds such a file unlocked knows where to look:
//! for trees that never became valid, and for lock files that nobody holds. The next garbage
//! collection would find them as well, but a host may not have one for a long time, and the next
//! run need not want these paths again.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::PoisonError,
    time::Duration,
};

use rustix::fs::FlockOperation;
use shared::nix::StorePath;

use super::{LocalStore, LocalStoreError, layout::io_error, temp_roots};
use crate::{
    archive::remove_tree,
    lock::{LockError, LockFile, try_lock},
};

/// Longest file of temporary roots that is read; one of a closure of 250 000 paths has 20 MiB.
const MAX_LEN: u64 = 64 * 1024 * 1024;

impl LocalStore {
    /// Removes what dead processes left behind: trees that never became valid, lock files that
    /// nobody holds, and their temporary roots.
    ///
    /// What somebody alive has locked is left to them. Costs one look at an almost empty folder
    /// where nobody died.
    ///
    /// # Errors
    /// When something cannot be read or removed; it is tried again next time.
    pub fn remove_leftovers(&self) -> Result<(), LocalStoreError> {
        self.writer()?;
        let folder = self.layout.temp_roots_dir();
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let entry = entry.map_err(io_error("read", &folder))?;
            // Named by processes; some package managers keep a hidden file there.
            if entry.file_name().to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
                continue;
            }
            let path = entry.path();
            let Some((file, paths)) = dead(&path).map_err(io_error("read", &path))? else {
                continue;
            };
            self.remove_leftovers_of(&paths)?;
            // Only now: whoever dies over this leaves the file to the one who comes next.
            forget(&path, &file).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    fn remove_leftovers_of(&self, paths: &BTreeSet<StorePath>) -> Result<(), LocalStoreError> {
        let valid = self.valid(paths)?;
        for path in paths {
            let (lock_file, tree) = (self.layout.lock_file(path), self.real_path(path));
            let is_there = |path: &Path| path.symlink_metadata().is_ok();
            let suspect = !valid.contains_key(path) && is_there(&tree);
            if !suspect && !is_there(&lock_file) {
                continue;
            }
            // Dropping the lock removes its file.
            let _lock = match LockFile::acquire(&lock_file, Duration::ZERO) {
                Ok(lock) => lock,
                Err(LockError::Busy { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            // Whoever had the lock before us may have made it valid.
            if suspect && self.valid(&[path.clone()].into())?.is_empty() {
                remove_tree(&tree).map_err(io_error("remove", &tree))?;
            }
        }
        Ok(())
    }
}

/// Returns the temporary roots in a file whose owner is dead, and the file, which is locked.
fn dead(path: &Path) -> io::Result<Option<(File, BTreeSet<StorePath>)>> {
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        return Ok(None);
    }
    let mut records = Vec::new();
    (&mut file).take(MAX_LEN).read_to_end(&mut records)?;
    let text = temp_roots::records(&records).filter_map(|record| std::str::from_utf8(record).ok());
    let paths = text.filter_map(|path| StorePath::parse(path).ok()).collect();
    Ok(Some((file, paths)))
}

/// Removes a dead one's file, as a collector would.
fn forget(path: &Path, mut file: &File) -> io::Result<()> {
    let _files = temp_roots::FILES.lock().unwrap_or_else(PoisonError::into_inner);
    // A new process of the same number, perhaps this one, has made a new file.
    let own = file.metadata().ok().map(|own| own.ino());
    let is_same = path.symlink_metadata().is_ok_and(|there| Some(there.ino()) == own);
    if is_same {
        // First unlink, then mark: a process that opened it meanwhile sees that it is stale.
        fs::remove_file(path)?;
    }
    file.write_all(b"d")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use shared::nix::{PathInfo, Sha256};

    use super::*;

    fn path(number: u64) -> StorePath {
        let digest = Sha256::of(&number.to_le_bytes());
        StorePath::from_digest(&digest, "x").unwrap()
    }

    struct Fixture {
        folder: tempfile::TempDir,
        store: LocalStore,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = LocalStore::open(folder.path()).unwrap();
            Self { folder, store }
        }

        /// What is there of a path: its tree, its lock.
        fn left(&self, number: u64) -> (bool, bool) {
            let is_there = |path: &Path| path.symlink_metadata().is_ok();
            let lock = self.store.layout.lock_file(&path(number));
            (is_there(&self.store.real_path(&path(number))), is_there(&lock))
        }

        fn make_tree(&self, number: u64) {
            let tree = self.store.real_path(&path(number));
            fs::create_dir_all(tree.join("bin")).unwrap();
            fs::write(tree.join("bin/run"), "half of").unwrap();
            symlink("/etc", tree.join("link")).unwrap();
        }

        fn make_lock(&self, number: u64) {
            fs::write(self.store.layout.lock_file(&path(number)), "").unwrap();
        }

        /// The temporary roots of some process.
        fn make_roots(&self, process: u32, numbers: &[u64]) -> std::path::PathBuf {
            let file = self.store.layout.temp_roots_dir().join(process.to_string());
            let records: String = numbers.iter().map(|it| format!("{}\0", path(*it))).collect();
            // It died while it wrote down a further one.
            fs::write(&file, records + "/nix/store/half-a-reco").unwrap();
            file
        }
    }

    #[test]
    fn what_a_dead_process_left_is_removed_and_nothing_else() {
        let fixture = Fixture::new();
        for number in [0, 1, 3, 4] {
            fixture.make_tree(number);
        }
        for number in [0, 1, 2] {
            fixture.make_lock(number);
        }
        let valid = PathInfo {
            path: path(0),
            nar_hash: Sha256::of(b""),
            nar_size: 1,
            references: BTreeSet::new(),
            deriver: None,
            signatures: Vec::new(),
            content_address: None,
        };
        fixture.store.register(&[valid]).unwrap();
        let file = fixture.make_roots(4_000_000_001, &[0, 1, 2, 3, 9]);
        let held = fixture.store.lock_paths(&[path(3)].into(), Duration::ZERO).unwrap();
        fixture.store.remove_leftovers().unwrap();
        assert_eq!(fixture.left(0), (true, false), "valid, so nothing but its lock is left over");
        assert_eq!(fixture.left(1), (false, false));
        assert_eq!(fixture.left(2), (false, false));
        assert_eq!(fixture.left(3), (true, true), "somebody is at work on it");
        assert_eq!(fixture.left(4), (true, false), "nobody says whose it is");
        assert!(!file.exists());
        drop(held);
        assert!(fixture.folder.path().join("nix/store").exists());
    }

    #[test]
    fn what_belongs_to_a_process_that_lives_stays() {
        let fixture = Fixture::new();
        fixture.make_tree(0);
        fixture.make_lock(0);
        let file = fixture.make_roots(4_000_000_001, &[0]);
        let alive = File::open(&file).unwrap();
        assert!(try_lock(&alive, FlockOperation::NonBlockingLockExclusive).unwrap());
        fixture.store.add_temp_roots(&[path(1)].into()).unwrap();
        fixture.store.remove_leftovers().unwrap();
        assert_eq!(fixture.left(0), (true, true));
        let roots = fs::read_dir(fixture.store.layout.temp_roots_dir()).unwrap().count();
        assert_eq!(roots, 2, "that one's and our own");
        drop(alive);
        fixture.store.remove_leftovers().unwrap();
        assert_eq!(fixture.left(0), (false, false));
        assert!(!file.exists());
    }
}
