//! Reads the fixtures.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use shared::nix::{NarInfo, PublicKey, SecretKey, TrustedKeys};

fn fixtures() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/nix"))
}

/// Reads one fixture.
#[expect(clippy::disallowed_methods, reason = "tests read their fixtures")]
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads one fixture as text.
pub(crate) fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).unwrap()
}

/// Returns the names of the fixtures in `folder` that end in `suffix`, each with its folder.
#[expect(clippy::disallowed_methods, reason = "tests read their fixtures")]
pub(crate) fn names(folder: &str, suffix: &str) -> BTreeSet<String> {
    let found: BTreeSet<_> = std::fs::read_dir(fixtures().join(folder))
        .unwrap()
        .map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap()))
        .filter(|name| name.ends_with(suffix))
        .collect();
    assert!(!found.is_empty(), "no {suffix} in {folder}");
    found
}

/// Reads a table: each line with its cells by the names in the first line.
pub(crate) fn table(name: &str) -> Vec<BTreeMap<String, String>> {
    let text = text(name);
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let rows: Vec<_> = lines
        .map(|line| {
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells.len(), header.len(), "{line}");
            header.iter().zip(cells).map(|(k, v)| ((*k).to_owned(), v.to_owned())).collect()
        })
        .collect();
    assert!(!rows.is_empty());
    rows
}

/// Reads every narinfo of a cache.
pub(crate) fn cache(folder: &str) -> Vec<(String, NarInfo)> {
    names(folder, ".narinfo")
        .into_iter()
        .map(|name| {
            let narinfo = NarInfo::parse(&bytes(&name));
            (name.clone(), narinfo.unwrap_or_else(|error| panic!("{name}: {error:?}")))
        })
        .collect()
}

/// Reads the NAR that a narinfo of `folder` names.
pub(crate) fn nar_of(folder: &str, narinfo: &NarInfo) -> Vec<u8> {
    use std::io::Read as _;

    use shared::nix::narinfo::Compression;

    let file = bytes(&format!("{folder}/{}", narinfo.url));
    match narinfo.compression {
        Compression::None => file,
        Compression::Zstd => zstd::decode_all(file.as_slice()).unwrap(),
        Compression::Xz => {
            let mut nar = Vec::new();
            liblzma::read::XzDecoder::new(file.as_slice()).read_to_end(&mut nar).unwrap();
            nar
        }
        Compression::Bzip2 | Compression::Gzip | Compression::Brotli | Compression::Lz4 => {
            panic!("no fixture is read with this: {}", narinfo.compression.name())
        }
    }
}

pub(crate) fn secret_key(name: &str) -> SecretKey {
    SecretKey::parse(&text(&format!("keys/{name}.secret"))).unwrap()
}

pub(crate) fn public_key(name: &str) -> PublicKey {
    PublicKey::parse(&text(&format!("keys/{name}.public"))).unwrap()
}

/// The keys that the fixtures trust: `cache.test-1` alone.
pub(crate) fn trusted() -> TrustedKeys {
    [public_key("cache.test-1")].into_iter().collect()
}

/// Returns `usual`, or 50 times as many with `SHOAL_LONG=1`.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment to run long")]
pub(crate) fn count(usual: u32) -> u32 {
    if std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1") {
        usual * 50
    } else {
        usual
    }
}
