//! Archives: those that Nix wrote, and those that it refuses.

use std::{
    convert::Infallible,
    io::{self, BufReader, Read},
};

use shared::nix::{
    Sha256,
    nar::{self, Lister, ListingError, MAX_DEPTH, Node, ReadError, Visit, WriteError, Writer},
};

use super::{
    support::{bytes, table, text},
    tree::{Planter, Tree},
};

#[test]
fn archives_of_nix_are_read_and_written_to_the_same_bytes() {
    for row in table("nar/index.tsv") {
        let name = format!("nar/{}", row["file"]);
        let archive = bytes(&name);
        assert_eq!(archive.len().to_string(), row["narSize"], "{name}");
        assert_eq!(Sha256::of(&archive).to_string(), row["sha256_nix32"], "{name}");
        assert_eq!(Sha256::of(&archive).to_hex(), row["sha256_hex"], "{name}");

        let (tree, rest) = Tree::read(&archive).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(rest.is_empty(), "{name}");
        for piece in [1, 7, usize::MAX] {
            assert!(tree.to_nar(piece).unwrap() == archive, "{name}");
        }
        let mut writer = Writer::new(Vec::new());
        nar::read(&mut archive.as_slice(), &mut writer).unwrap();
        assert_eq!(writer.position(), archive.len() as u64);
        assert!(writer.finish().unwrap() == archive, "{name}");
    }
}

#[test]
fn the_listing_is_the_one_of_nix() {
    for row in table("nar/index.tsv") {
        let name = format!("nar/{}", row["file"]);
        let mut lister = Lister::new();
        let read = nar::read(&mut bytes(&name).as_slice(), &mut lister);
        if row["listing"].starts_with("nix nar ls fails") {
            let refused = matches!(read, Err(ReadError::Visit(ListingError::NotText(_))));
            assert!(refused, "{name}: {read:?}");
            continue;
        }
        read.unwrap_or_else(|error| panic!("{name}: {error}"));
        // The fixture was written with other white space; its order of fields is Nix's own.
        let listing = serde_json::to_string(&lister.finish().unwrap()).unwrap();
        assert_eq!(listing, without_white_space(&text(&format!("nar/{}", row["listing"]))));
    }
}

/// Removes the white space between the parts of a JSON text.
fn without_white_space(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    json.chars()
        .filter(|character| {
            let kept = inside || !character.is_whitespace();
            if *character == '"' && !escaped {
                inside = !inside;
            }
            escaped = inside && !escaped && *character == '\\';
            kept
        })
        .collect()
}

#[test]
fn archives_that_nix_refuses_are_refused() {
    for row in table("nar-hostile/expect.tsv") {
        let name = format!("nar-hostile/{}", row["file"]);
        let archive = bytes(&name);
        let outcome = Tree::read(&archive);
        match row["nix_2.34.8"].as_str() {
            "reject" => {
                let malformed = matches!(outcome, Err(ReadError::Malformed { .. }));
                assert!(malformed, "{name}: {outcome:?}");
            }
            "accept" => {
                let (tree, rest) = outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(!rest.is_empty(), "{name}: what follows the archive was taken");
                let archive = archive.strip_suffix(rest).unwrap();
                assert!(tree.to_nar(usize::MAX).unwrap() == archive, "{name}");
            }
            other => panic!("{name}: outcome {other}"),
        }
    }
}

#[test]
fn the_size_of_the_buffer_changes_nothing() {
    let all = table("nar/index.tsv").into_iter().map(|row| format!("nar/{}", row["file"]));
    let hostile = table("nar-hostile/expect.tsv");
    let hostile = hostile.into_iter().map(|row| format!("nar-hostile/{}", row["file"]));
    for name in all.chain(hostile) {
        let archive = bytes(&name);
        let whole = Tree::read(&archive).map(|(tree, _)| tree).map_err(|error| error.to_string());
        for capacity in [1, 5, 8, 24, 1000] {
            let mut planter = Planter::default();
            let mut reader = BufReader::with_capacity(capacity, archive.as_slice());
            let read = nar::read(&mut reader, &mut planter);
            let tree = read.map(|()| planter.root.unwrap()).map_err(|error| error.to_string());
            assert!(tree == whole, "{name} through {capacity} bytes");
        }
    }
}

/// Counts what it is given, and how large the pieces are.
#[derive(Default)]
struct Counter {
    bytes: u64,
    largest: usize,
}

impl Visit for Counter {
    type Error = Infallible;

    fn enter(&mut self, _name: &[u8], _node: &Node) -> Result<(), Infallible> {
        Ok(())
    }

    fn contents(&mut self, piece: &[u8]) -> Result<(), Infallible> {
        self.bytes += piece.len() as u64;
        self.largest = self.largest.max(piece.len());
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Returns the most address space that this process ever had, in KiB.
#[expect(clippy::disallowed_methods, reason = "the kernel tells it in a file")]
fn peak_of_address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn nothing_is_allocated_because_an_archive_claims_a_length() {
    const CAPACITY: usize = 64 * 1024;
    const GIVEN: u64 = 8 * 1024 * 1024;
    for name in ["contents-length-1TiB", "contents-length-2p63", "contents-length-max"] {
        let head = bytes(&format!("nar-hostile/{name}.nar"));
        // The claimed contents do begin, and end long before what was claimed.
        let mut input =
            BufReader::with_capacity(CAPACITY, head.as_slice().chain(io::repeat(0).take(GIVEN)));
        let mut counter = Counter::default();
        let before = peak_of_address_space();
        let outcome = nar::read(&mut input, &mut counter);
        let grown = peak_of_address_space() - before;
        assert!(matches!(outcome, Err(ReadError::Malformed { .. })), "{name}: {outcome:?}");
        assert!(counter.bytes >= GIVEN && counter.bytes < GIVEN + 4096, "{}", counter.bytes);
        assert!(counter.largest <= CAPACITY, "{}", counter.largest);
        // Other tests of this program run meanwhile, each thread with an arena of its own,
        // therefore not 0 but 1/64 of the smallest claim.
        assert!(grown < 16 << 20, "{name} made the address space grow by {grown} KiB");
    }
}

/// A directory in a directory, `depth` of them, around `inner`.
fn nested(depth: usize, inner: Tree) -> Tree {
    (0..depth).fold(inner, |tree, _| Tree::Directory([(b"d".to_vec(), tree)].into()))
}

fn file(contents: &[u8]) -> Tree {
    Tree::Regular { executable: false, contents: contents.to_vec() }
}

#[test]
fn the_writer_writes_nothing_that_the_reader_refuses() {
    let tree = |name: &[u8]| Tree::Directory([(name.to_vec(), file(b""))].into());
    let link = |target: &[u8]| Tree::Symlink { target: target.to_vec() };
    assert!(nested(MAX_DEPTH, file(b"")).to_nar(1).is_ok());
    assert!(tree(&[b'n'; 255]).to_nar(1).is_ok());
    assert!(link(&[b't'; 4095]).to_nar(1).is_ok());
    for refused in [
        nested(MAX_DEPTH + 1, file(b"")),
        tree(&[b'n'; 256]),
        tree(b""),
        tree(b"."),
        tree(b".."),
        tree(b"a/b"),
        tree(b"a\0b"),
        link(b""),
        link(b"a\0b"),
        link(&[b't'; 4096]),
    ] {
        let written = refused.to_nar(1);
        assert!(matches!(written, Err(WriteError::Tree(_))), "{refused:?}");
    }
}

#[test]
fn the_writer_refuses_calls_in_a_wrong_order() {
    fn check(calls: impl FnOnce(&mut Writer<Vec<u8>>) -> Result<(), WriteError>) {
        let mut writer = Writer::new(Vec::new());
        let refused = calls(&mut writer).and_then(|()| writer.finish().map(drop));
        assert!(matches!(refused, Err(WriteError::Tree(_))), "{refused:?}");
    }
    let file = Node::Regular { executable: false, size: 1 };
    let link = Node::Symlink { target: b"t".to_vec() };

    check(|_| Ok(()));
    check(Visit::leave);
    check(|writer| writer.contents(b"x"));
    check(|writer| writer.enter(b"name", &link));
    check(|writer| writer.enter(b"", &Node::Directory));
    check(|writer| writer.enter(b"", &file).and_then(|()| writer.leave()));
    check(|writer| writer.enter(b"", &file).and_then(|()| writer.contents(b"xy")));
    check(|writer| writer.enter(b"", &link).and_then(|()| writer.contents(b"x")));
    check(|writer| writer.enter(b"", &link).and_then(|()| writer.enter(b"a", &link)));
    check(|writer| {
        writer.enter(b"", &link)?;
        writer.leave()?;
        writer.enter(b"", &link)
    });
    for (first, second) in [(b"b", b"a"), (b"a", b"a"), (b"a", b"B")] {
        check(|writer| {
            writer.enter(b"", &Node::Directory)?;
            writer.enter(first, &link)?;
            writer.leave()?;
            writer.enter(second, &link)
        });
    }
}

#[test]
fn an_error_of_the_input_is_no_malformed_archive() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the cable is cut"))
        }
    }
    let archive = bytes("nar/base-1.0.nar");
    let mut input = BufReader::new(archive[..100].chain(Broken));
    let outcome = nar::read(&mut input, &mut Planter::default());
    assert!(matches!(outcome, Err(ReadError::Io(_))), "{outcome:?}");
}
