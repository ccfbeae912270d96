use std::{
    fs,
    io::Cursor,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use shared::nix::nar::{self, Node, Visit as _, Writer};

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/nix");

fn archives(folder: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(Path::new(FIXTURES).join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "nar"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn unpack(archive: &[u8], target: &Path) -> Result<(), nar::ReadError<UnpackError>> {
    nar::read(&mut Cursor::new(archive), &mut Unpacker::new(target).unwrap())
}

fn assert_canonical(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    assert_eq!(metadata.mtime(), 1, "{}", path.display());
    assert_eq!(metadata.mtime_nsec(), 0, "{}", path.display());
    if !metadata.is_symlink() {
        let mode = metadata.mode() & 0o7777;
        assert!([0o444, 0o555].contains(&mode), "{}: {mode:o}", path.display());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_canonical(&entry.unwrap().path());
        }
    }
}

#[test]
fn every_golden_archive_unpacks_canonically_and_dumps_to_the_same_bytes() {
    for file in archives("nar") {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let bytes = fs::read(&file).unwrap();
        unpack(&bytes, &target).unwrap();
        assert_canonical(&target);
        let mut writer = Writer::new(Vec::new());
        dump(&target, &mut writer).unwrap();
        assert!(writer.finish().unwrap() == bytes, "{}", file.display());
        let digest = (shared::nix::Sha256::of(&bytes), bytes.len() as u64);
        assert_eq!(nar_digest(&target).unwrap(), digest);
        remove_tree(&target).unwrap();
        assert!(target.symlink_metadata().is_err());
    }
}

#[test]
fn a_hostile_archive_writes_nothing_outside_its_target() {
    for file in archives("nar-hostile") {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let unpacked = unpack(&fs::read(&file).unwrap(), &target);
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(unpacked.is_ok(), name.starts_with("trailing-"), "{name}");
        for entry in fs::read_dir(folder.path()).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "out", "{name}");
        }
        remove_tree(&target).unwrap();
    }
}

#[test]
fn refuses_names_that_lead_elsewhere_even_from_another_caller() {
    let folder = tempfile::tempdir().unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"/etc", b"../x"] {
        let target = folder.path().join("out");
        let mut unpacker = Unpacker::new(&target).unwrap();
        unpacker.enter(b"", &Node::Directory).unwrap();
        assert!(unpacker.enter(name, &Node::Directory).is_err(), "{name:?}");
        remove_tree(&target).unwrap();
    }
}

#[test]
fn never_writes_through_what_is_there_already() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let target = folder.path().join("out");
    symlink(&victim, &target).unwrap();
    for node in [
        Node::Directory,
        Node::Regular { executable: false, size: 0 },
        Node::Symlink { target: b"x".to_vec() },
    ] {
        assert!(Unpacker::new(&target).unwrap().enter(b"", &node).is_err());
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}

#[test]
fn refuses_what_an_archive_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(
        matches!(nar_digest(folder.path()), Err(DumpError::Unsupported { path, .. }) if path == socket)
    );
}

#[test]
fn removes_read_only_trees_and_spares_what_links_point_to() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    fs::write(&kept, "x").unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "x").unwrap();
    symlink(&kept, tree.join("a/link")).unwrap();
    symlink(folder.path(), tree.join("a/b/up")).unwrap();
    for path in ["a/b", "a", ""] {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert!(kept.exists());
    remove_tree(&tree).unwrap();
}

#[test]
fn removes_trees_deeper_than_any_limit() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // A path of this depth cannot be named, so the tree grows from the inside out.
    let inner = folder.path().join("inner");
    for depth in 0..3_000 {
        let outer = folder.path().join("outer");
        fs::create_dir(&outer).unwrap();
        if depth > 0 {
            fs::rename(&inner, outer.join("d")).unwrap();
        }
        fs::write(outer.join("moved-up-1"), "").unwrap();
        fs::rename(&outer, &inner).unwrap();
    }
    fs::rename(&inner, tree.join("d")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
}

#[test]
fn counts_what_is_free_and_what_another_name_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let size = 64 * 1024;
    for name in ["plain", "twice", "shared", "everywhere"] {
        fs::write(tree.join(name), vec![b'x'; size]).unwrap();
    }
    fs::hard_link(tree.join("twice"), tree.join("twice-again")).unwrap();
    fs::hard_link(tree.join("shared"), folder.path().join("link")).unwrap();
    for name in ["here", "there"] {
        fs::hard_link(tree.join("everywhere"), folder.path().join(name)).unwrap();
    }
    let folder_size = fs::metadata(&tree).unwrap().blocks() * 512;
    let mut freed = super::Freed::default();
    super::remove_and_count(&tree, &mut freed).unwrap();
    let size = size as u64;
    // The first of two names tells that there is another one, wherever that is.
    assert_eq!(freed, super::Freed { freed: 2 * size + folder_size, shared: 2 * size });
}
