use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
    thread,
};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use shared::nix::{
    ContentAddress, Hash, SecretKey,
    content_address::{Method, SelfReference},
    hash::{Algorithm, Hasher},
    nar::{Node, Visit as _, Writer},
};
use tempfile::TempDir;

use super::*;
use crate::lock::LockError;

struct Fixture {
    folder: TempDir,
    store: LocalStore,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    Fixture { folder, store }
}

/// Returns an input-addressed path; nobody can check that its name is right.
fn path(number: usize) -> StorePath {
    let digest = Sha256::of(&number.to_le_bytes());
    StorePath::from_digest(&digest, &format!("path-{number}")).unwrap()
}

/// Returns the archive of one file.
fn file(contents: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let node = Node::Regular { executable: false, size: contents.len() as u64 };
    writer.enter(b"", &node).unwrap();
    if !contents.is_empty() {
        writer.contents(contents).unwrap();
    }
    writer.leave().unwrap();
    writer.finish().unwrap()
}

fn directory() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.enter(b"", &Node::Directory).unwrap();
    writer.enter(b"link", &Node::Symlink { target: b"/etc".to_vec() }).unwrap();
    writer.leave().unwrap();
    writer.leave().unwrap();
    writer.finish().unwrap()
}

fn info(path: StorePath, nar: &[u8], references: &[StorePath]) -> PathInfo {
    PathInfo {
        path,
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references: references.iter().cloned().collect(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    }
}

impl Fixture {
    fn import(&self, info: &PathInfo, mut nar: &[u8]) -> Result<(), ImportError> {
        let paths = [info.path.clone()].into();
        self.store.add_temp_roots(&paths).unwrap();
        let locks = self.store.lock_paths(&paths, Duration::ZERO).unwrap();
        self.store.import(info, &mut nar, &locks)
    }

    /// Imports one file for each number, and returns what to register.
    fn files(&self, numbers: std::ops::Range<usize>) -> Vec<PathInfo> {
        let one = |number: usize| {
            let nar = file(&number.to_le_bytes());
            let info = info(path(number), &nar, &[]);
            self.import(&info, &nar).unwrap();
            info
        };
        numbers.map(one).collect()
    }

    fn valid(&self) -> usize {
        self.store.verify(CheckContents::Yes, &mut |damage| panic!("{damage}")).unwrap()
    }

    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("nix/store")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".links").collect()
    }

    fn database(&self) -> Connection {
        Connection::open(self.folder.path().join("nix/var/nix/db/db.sqlite")).unwrap()
    }
}

#[test]
fn a_store_that_was_made_is_opened_again() {
    let Fixture { folder, store } = fixture();
    drop(store);
    let schema = folder.path().join("nix/var/nix/db/schema");
    assert_eq!(fs::read(&schema).unwrap(), b"10");
    LocalStore::open(folder.path()).unwrap();
    for unknown in ["9", "11", "10.1", "x"] {
        fs::write(&schema, unknown).unwrap();
        let refused = LocalStore::open(folder.path()).unwrap_err();
        assert!(matches!(refused, LocalStoreError::Schema { .. }), "{unknown}: {refused}");
    }
}

#[test]
fn nobody_changes_the_schema_while_a_store_is_open() {
    let Fixture { folder, store } = fixture();
    let lock = fs::File::open(folder.path().join("nix/var/nix/db/big-lock")).unwrap();
    assert!(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err());
    drop(store);
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn a_store_that_was_half_made_is_completed() {
    let Fixture { folder, store } = fixture();
    drop(store);
    fs::remove_file(folder.path().join("nix/var/nix/db/schema")).unwrap();
    LocalStore::open(folder.path()).unwrap();
}

#[test]
fn refuses_a_store_behind_a_symlink() {
    let Fixture { folder, store } = fixture();
    drop(store);
    let link = folder.path().join("link");
    symlink(folder.path(), &link).unwrap();
    assert!(matches!(LocalStore::open(&link), Err(LocalStoreError::Symlink(path)) if path == link));
    fs::rename(folder.path().join("nix"), folder.path().join("elsewhere")).unwrap();
    symlink("elsewhere", folder.path().join("nix")).unwrap();
    assert!(matches!(LocalStore::open(folder.path()), Err(LocalStoreError::Symlink(_))));
}

#[test]
fn six_hundred_paths_are_recognised_at_once() {
    let fixture = fixture();
    let infos = fixture.files(0..600);
    let wanted: BTreeSet<StorePath> = (300..900).map(path).collect();
    assert!(fixture.store.valid(&wanted).unwrap().is_empty());
    fixture.store.register(&infos).unwrap();
    let valid = fixture.store.valid(&wanted).unwrap();
    assert_eq!(valid.len(), 300);
    assert_eq!(valid[&path(599)].nar_hash, infos[599].nar_hash);
    assert_eq!(valid[&path(599)].nar_size, infos[599].nar_size);
    assert_eq!(fixture.store.by_hash_part(path(7).hash_part()).unwrap(), Some(path(7)));
    assert_eq!(fixture.store.by_hash_part(path(700).hash_part()).unwrap(), None);
    assert_eq!(fixture.valid(), 600);
}

#[test]
fn a_closure_is_what_the_roots_refer_to() {
    let fixture = fixture();
    let mut infos = fixture.files(0..4);
    infos[1].references = [path(0), path(1)].into();
    infos[2].references = [path(1)].into();
    fixture.store.register(&infos).unwrap();
    let closure = fixture.store.closure(&[path(2)].into()).unwrap();
    assert_eq!(closure.len(), 3);
    assert_eq!(closure[&path(1)], infos[1]);
    assert_eq!(fixture.store.path_info(&path(2)).unwrap().unwrap(), infos[2]);
    let absent = fixture.store.closure(&[path(2), path(9)].into());
    assert!(matches!(absent, Err(LocalStoreError::NotValid(missing)) if missing == path(9)));
}

#[test]
fn all_become_valid_or_none() {
    let fixture = fixture();
    let mut infos = fixture.files(0..3);
    infos[2].references = [path(7)].into();
    let refused = fixture.store.register(&infos).unwrap_err();
    assert!(matches!(refused, LocalStoreError::MissingReference { .. }), "{refused}");
    infos[2].references = [path(1)].into();
    infos[1].references = [path(2)].into();
    let refused = fixture.store.register(&infos).unwrap_err();
    assert!(matches!(refused, LocalStoreError::Cycle(_)), "{refused}");
    infos.push(info(path(3), b"", &[]));
    infos[1].references.clear();
    let refused = fixture.store.register(&infos).unwrap_err();
    assert!(matches!(refused, LocalStoreError::Io { .. }), "not on disk: {refused}");
    assert_eq!(fixture.valid(), 0);
}

#[test]
fn a_valid_path_cannot_come_to_refer_to_what_refers_to_it() {
    let fixture = fixture();
    let mut infos = fixture.files(0..3);
    infos[1].references = [path(0)].into();
    infos[2].references = [path(1), path(2)].into();
    fixture.store.register(&infos).unwrap();
    fixture.store.register(&infos).unwrap();
    infos[0].references = [path(2)].into();
    let refused = fixture.store.register(&infos[..1]).unwrap_err();
    assert!(matches!(refused, LocalStoreError::Cycle(_)), "{refused}");
    infos[2].references.insert(path(0));
    fixture.store.register(&infos[2..]).unwrap();
    let references = fixture.store.path_info(&path(2)).unwrap().unwrap().references;
    assert_eq!(references, [path(0), path(1), path(2)].into());
}

#[test]
fn a_path_that_is_valid_with_another_hash_is_a_conflict() {
    let fixture = fixture();
    let infos = fixture.files(0..2);
    fixture.store.register(&infos[..1]).unwrap();
    let other = info(path(0), b"other", &[]);
    let refused = fixture.store.register(&[infos[1].clone(), other.clone()]).unwrap_err();
    assert!(matches!(refused, LocalStoreError::Conflict { .. }), "{refused}");
    assert_eq!(fixture.valid(), 1);
    let refused = fixture.import(&other, b"").unwrap_err();
    assert!(matches!(refused, ImportError::AlreadyValid { .. }), "{refused}");
    assert_eq!(fixture.valid(), 1);
}

#[test]
fn a_path_that_is_valid_already_gains_and_never_loses() {
    let fixture = fixture();
    let mut infos = fixture.files(0..1);
    infos[0].sign(&SecretKey::from_seed("a", &[1; 32]).unwrap());
    fixture.store.register(&infos).unwrap();
    let built_here = "UPDATE ValidPaths SET ultimate = 1, registrationTime = 7";
    fixture.database().execute_batch(built_here).unwrap();
    infos[0].signatures.clear();
    infos[0].sign(&SecretKey::from_seed("b", &[2; 32]).unwrap());
    fixture.store.register(&infos).unwrap();
    let known = fixture.store.path_info(&path(0)).unwrap().unwrap();
    let names: Vec<&str> = known.signatures.iter().map(|each| each.key_name()).collect();
    assert_eq!(names, ["a", "b"]);
    let kept = "SELECT count(*) FROM ValidPaths WHERE ultimate = 1 AND registrationTime = 7";
    let kept: i64 = fixture.database().query_row(kept, [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 1);
}

#[test]
fn an_archive_that_is_not_what_it_should_be_leaves_nothing() {
    let fixture = fixture();
    let nar = file(b"some contents");
    let good = info(path(0), &nar, &[]);
    let import = |change: &dyn Fn(&mut PathInfo), nar: &[u8]| {
        let mut info = good.clone();
        change(&mut info);
        let error = fixture.import(&info, nar).unwrap_err();
        assert_eq!(fixture.left(), [""; 0], "{error}");
        error
    };
    assert!(matches!(import(&|i| i.nar_hash = Sha256::of(b""), &nar), ImportError::Hash { .. }));
    let size = |size| move |info: &mut PathInfo| info.nar_size = size;
    let length = nar.len() as u64;
    for wanted in [0, 1, 40, length - 1] {
        let error = import(&size(wanted), &nar);
        assert!(matches!(error, ImportError::Size { found: "larger", .. }), "{error}");
    }
    let error = import(&size(length + 1), &[&nar[..], b"x"].concat());
    assert!(matches!(error, ImportError::Size { found: "smaller", .. }), "{error}");
    let error = import(&size(length + 1), &nar);
    assert!(matches!(error, ImportError::Size { found: "smaller", .. }), "{error}");
    for length in 0..nar.len() {
        assert!(matches!(import(&|_| {}, &nar[..length]), ImportError::Malformed { .. }));
    }
    fixture.import(&good, &nar).unwrap();
}

#[test]
fn a_source_that_breaks_off_is_told_from_a_bad_archive() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let fixture = fixture();
    let paths = [path(0)].into();
    let locks = fixture.store.lock_paths(&paths, Duration::ZERO).unwrap();
    let nar = file(b"x");
    let mut source = nar[..50].chain(Broken);
    let error = fixture.store.import(&info(path(0), &nar, &[]), &mut source, &locks).unwrap_err();
    assert!(matches!(error, ImportError::Source { .. }), "{error}");
}

#[test]
fn what_follows_an_archive_is_not_read() {
    let fixture = fixture();
    let nar = file(b"x");
    let info = info(path(0), &nar, &[]);
    let paths = [path(0)].into();
    let locks = fixture.store.lock_paths(&paths, Duration::ZERO).unwrap();
    let both = [&nar[..], b"rest"].concat();
    let mut source = &both[..];
    fixture.store.import(&info, &mut source, &locks).unwrap();
    assert_eq!(source, b"rest");
}

#[test]
fn contents_must_have_their_content_address() {
    let fixture = fixture();
    let contents = b"hello";
    let hash = |algorithm: Algorithm, bytes: &[u8]| -> Hash {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    };
    let check = |method, hash: Hash, nar: &[u8]| {
        let address = ContentAddress { method, hash };
        let path = address.store_path("x", &BTreeSet::new(), SelfReference::No).unwrap();
        let info = PathInfo { content_address: Some(address), ..info(path, nar, &[]) };
        fixture.import(&info, nar)
    };
    let nar = file(contents);
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Sha1, Algorithm::Md5] {
        for (method, good) in [(Method::Flat, &contents[..]), (Method::Recursive, &nar)] {
            check(method, hash(algorithm, good), &nar).unwrap();
            let error = check(method, hash(algorithm, b"other"), &nar).unwrap_err();
            assert!(matches!(error, ImportError::ContentAddress { .. }), "{error}");
        }
    }
    check(Method::Text, hash(Algorithm::Sha256, contents), &nar).unwrap();
    let error = check(Method::Flat, hash(Algorithm::Sha256, b""), &directory()).unwrap_err();
    assert!(matches!(error, ImportError::NotOneFile { .. }), "{error}");
}

#[test]
fn leftovers_are_replaced_and_locks_are_needed() {
    let fixture = fixture();
    let nar = file(b"x");
    let info = info(path(0), &nar, &[]);
    let real = fixture.store.real_path(&path(0));
    fs::create_dir_all(real.join("a/b")).unwrap();
    fs::set_permissions(real.join("a"), fs::Permissions::from_mode(0o555)).unwrap();
    let other = fixture.store.lock_paths(&[path(1)].into(), Duration::ZERO).unwrap();
    let error = fixture.store.import(&info, &mut &nar[..], &other).unwrap_err();
    assert!(matches!(error, ImportError::Store(LocalStoreError::NotLocked(_))), "{error}");
    fixture.import(&info, &nar).unwrap();
    assert_eq!(fs::read(&real).unwrap(), b"x");
    let locks = fixture.store.lock_paths(&[path(0)].into(), Duration::ZERO).unwrap();
    let again = LocalStore::open(fixture.folder.path()).unwrap();
    let busy = again.lock_paths(&[path(0)].into(), Duration::ZERO).unwrap_err();
    assert!(matches!(busy, LocalStoreError::Lock(LockError::Busy { .. })), "{busy}");
    drop((locks, other));
    assert_eq!(fixture.left(), [path(0).base_name()], "no lock file stays");
}

#[test]
fn a_reader_needs_no_right_to_write_and_gets_none() {
    let fixture = fixture();
    fixture.store.register(&fixture.files(0..1)).unwrap();
    let reader = LocalStore::open_for_reading(fixture.folder.path()).unwrap();
    assert_eq!(reader.valid(&[path(0)].into()).unwrap().len(), 1);
    let none: &[PathInfo] = &[];
    assert!(matches!(reader.register(none), Err(LocalStoreError::ReadOnly)));
    let roots = reader.add_temp_roots(&[path(0)].into());
    assert!(matches!(roots, Err(LocalStoreError::ReadOnly)));
    let empty = tempfile::tempdir().unwrap();
    assert!(LocalStore::open_for_reading(empty.path()).is_err());
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

#[test]
fn damage_is_found() {
    let fixture = fixture();
    fixture.store.register(&fixture.files(0..3)).unwrap();
    fs::remove_file(fixture.store.real_path(&path(0))).unwrap();
    let real = fixture.store.real_path(&path(1));
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    let writable = fs::OpenOptions::new().write(true).open(&real).unwrap();
    writable.write_at(b"!", 0).unwrap();
    let bad = |check| {
        let mut bad = Vec::new();
        fixture
            .store
            .verify(check, &mut |damage| bad.push(damage.path().cloned().unwrap()))
            .unwrap();
        bad.sort();
        bad
    };
    assert_eq!(bad(CheckContents::No), [path(0)]);
    let mut both = [path(0), path(1)];
    both.sort();
    assert_eq!(bad(CheckContents::Yes), both);
}

#[test]
fn temp_roots_are_one_locked_file_a_process() {
    let fixture = fixture();
    let again = LocalStore::open(fixture.folder.path()).unwrap();
    fixture.store.add_temp_roots(&[path(0), path(1)].into()).unwrap();
    again.add_temp_roots(&[path(1), path(2)].into()).unwrap();
    let folder = fixture.folder.path().join("nix/var/nix/temproots");
    let file = folder.join(std::process::id().to_string());
    let written = fs::read_to_string(&file).unwrap();
    let mut paths: Vec<&str> = written.split_terminator('\0').collect();
    paths.sort_unstable();
    let mut wanted: Vec<String> = (0..3).map(|number| path(number).to_string()).collect();
    wanted.sort_unstable();
    assert_eq!(paths, wanted);
    let opened = fs::File::open(&file).unwrap();
    assert!(flock(&opened, FlockOperation::NonBlockingLockShared).is_err(), "it is locked");
    drop(fixture.store);
    assert!(file.exists());
    drop(again);
    assert!(!file.exists());
}

#[test]
fn a_running_collector_is_told_of_roots() {
    let fixture = fixture();
    let state = fixture.folder.path().join("nix/var/nix");
    let gc_lock = fs::File::create(state.join("gc.lock")).unwrap();
    flock(&gc_lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    fs::create_dir(state.join("gc-socket")).unwrap();
    let listener = UnixListener::bind(state.join("gc-socket/socket")).unwrap();
    let collector = thread::spawn(move || {
        let mut told = Vec::new();
        // The first connection breaks off, as it does when a collector ends.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for _ in 0..2 {
            told.push(lines.next().unwrap().unwrap());
            stream.write_all(b"1").unwrap();
        }
        told
    });
    let paths: BTreeSet<StorePath> = [path(0), path(1)].into();
    fixture.store.add_temp_roots(&paths).unwrap();
    let wanted: Vec<String> = paths.iter().map(StorePath::to_string).collect();
    assert_eq!(collector.join().unwrap(), wanted);
    // What is known already needs no collector.
    fixture.store.add_temp_roots(&paths).unwrap();
}

/// The collector of Nix may die of connections that come and go.
#[test]
fn a_collector_hears_all_over_one_connection() {
    let fixture = fixture();
    let state = fixture.folder.path().join("nix/var/nix");
    let gc_lock = fs::File::create(state.join("gc.lock")).unwrap();
    flock(&gc_lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    fs::create_dir(state.join("gc-socket")).unwrap();
    let listener = UnixListener::bind(state.join("gc-socket/socket")).unwrap();
    let collector = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut told = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            told.push(line);
            stream.write_all(b"1").unwrap();
        }
        told
    });
    fixture.store.add_temp_roots(&[path(0)].into()).unwrap();
    fixture.store.add_temp_roots(&[path(1)].into()).unwrap();
    drop(fixture.store);
    let mut last = [path(0), path(1)].map(|path| path.to_string());
    let first = last.clone();
    last.sort();
    assert_eq!(collector.join().unwrap(), [first, last].concat());
}

/// A collector of Nix reads the permanent roots, then the temporary ones. One that we made in
/// between is in neither if we are gone by then.
#[test]
fn a_collector_that_runs_when_we_leave_is_told_once_more() {
    let fixture = fixture();
    let state = fixture.folder.path().join("nix/var/nix");
    let file = state.join("temproots").join(std::process::id().to_string());
    fixture.store.add_root("web", &path(0)).unwrap();
    let gc_lock = fs::File::create(state.join("gc.lock")).unwrap();
    flock(&gc_lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    fs::create_dir(state.join("gc-socket")).unwrap();
    let listener = UnixListener::bind(state.join("gc-socket/socket")).unwrap();
    let leaving = thread::spawn(move || drop(fixture.store));
    let (mut stream, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), path(0).to_string());
    assert!(file.exists(), "it holds until the collector has answered");
    stream.write_all(b"1").unwrap();
    leaving.join().unwrap();
    assert!(!file.exists());
}

#[test]
fn permanent_roots_are_links_in_our_own_folder() {
    let fixture = fixture();
    let link = fixture.folder.path().join("nix/var/nix/gcroots/shoal/eu-prod/web");
    for number in [0, 1, 1] {
        fixture.store.add_root("eu-prod/web", &path(number)).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), std::path::Path::new(&path(number).to_string()));
        assert_eq!(fixture.store.root_target("eu-prod/web").unwrap(), Some(path(number)));
    }
    // What a process left that died between making the link and renaming it.
    let leftover = link.with_file_name(".tmp-web");
    symlink(path(2).to_string(), &leftover).unwrap();
    fixture.store.add_root("eu-prod/web", &path(3)).unwrap();
    assert_eq!(fixture.store.root_target("eu-prod/web").unwrap(), Some(path(3)));
    assert!(leftover.symlink_metadata().is_err());
    symlink(path(2).to_string(), &leftover).unwrap();
    fixture.store.remove_root("eu-prod/web").unwrap();
    fixture.store.remove_root("eu-prod/web").unwrap();
    assert!(link.symlink_metadata().is_err());
    assert!(leftover.symlink_metadata().is_err(), "a collector takes it for a root");
    for name in ["", "/etc/passwd", "../x", "a/../../x", "."] {
        assert!(fixture.store.add_root(name, &path(0)).is_err(), "{name}");
    }
}

/// A collector may have looked at the profiles before a generation was made there, and looks at the
/// other roots only now.
#[test]
fn what_a_removed_root_kept_stays_as_long_as_the_store_is_open() {
    let fixture = fixture();
    fixture.store.add_root("web", &path(0)).unwrap();
    let folder = fixture.folder.path();
    drop(fixture.store);
    let store = LocalStore::open(folder).unwrap();
    store.remove_root("web").unwrap();
    let file = folder.join("nix/var/nix/temproots").join(std::process::id().to_string());
    assert_eq!(fs::read_to_string(file).unwrap(), format!("{}\0", path(0)));
}

#[test]
fn a_database_that_is_too_busy_is_asked_again() {
    let fixture = fixture();
    // What SQLite says while another process was stopped in the middle of beginning a log.
    let busy = || LocalStoreError::Database {
        action: "look up paths",
        source: rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_PROTOCOL),
            None,
        ),
    };
    let mut asked = 0;
    let answer = fixture.store.ask(|database| {
        asked += 1;
        if asked < 3 { Err(busy()) } else { database.valid(&BTreeSet::new()) }
    });
    assert_eq!((answer.unwrap().len(), asked), (0, 3));
}

#[test]
fn adding_a_tree_twice_is_adding_it_once() {
    let fixture = fixture();
    let source = fixture.folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    let added = fixture.store.add(&source, "tree", &BTreeSet::new()).unwrap();
    assert_eq!(fixture.store.add(&source, "tree", &BTreeSet::new()).unwrap(), added);
    let with = fixture.store.add(&source, "tree", &[added.path.clone()].into()).unwrap();
    assert_ne!(with.path, added.path);
    assert_eq!(fixture.store.path_info(&with.path).unwrap(), Some(with));
    let absent = fixture.store.add(&source, "tree", &[path(9)].into()).unwrap_err();
    assert!(matches!(absent, LocalStoreError::MissingReference { .. }), "{absent}");
    let named = fixture.store.add(&source, "no/name", &BTreeSet::new()).unwrap_err();
    assert!(matches!(named, LocalStoreError::Address(_)), "{named}");
    assert_eq!(fixture.valid(), 2);
    assert_eq!(fixture.left().len(), 2, "what is refused leaves nothing");
}

#[test]
fn whoever_may_not_write_a_store_is_told_whose_it_is() {
    let source = std::io::ErrorKind::PermissionDenied.into();
    let refused = LocalStoreError::Io { action: "open", path: "/nix/var/nix/db".into(), source };
    assert!(refused.problem().fix.unwrap().contains("the user that owns the store"));
    let source = std::io::ErrorKind::NotFound.into();
    let absent = LocalStoreError::Io { action: "open", path: "/nix/var/nix/db".into(), source };
    assert_eq!(absent.problem().fix, None);
}
