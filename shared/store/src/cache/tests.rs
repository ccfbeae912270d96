use std::{collections::BTreeSet, io};

use shared::nix::{
    PathInfo, SecretKey, Sha256, TrustedKeys,
    nar::{Node, Visit as _, Writer},
    narinfo::Compression,
};
use tempfile::TempDir;

use super::*;

/// Returns the NAR of a file.
fn nar(contents: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let file = Node::Regular { executable: false, size: contents.len() as u64 };
    writer.enter(b"", &file).unwrap();
    writer.contents(contents).unwrap();
    writer.leave().unwrap();
    writer.finish().unwrap()
}

fn path(digit: char) -> StorePath {
    StorePath::from_base_name(&format!("{}-x", digit.to_string().repeat(32))).unwrap()
}

fn info(path: StorePath, nar: &[u8], references: &[StorePath]) -> PathInfo {
    PathInfo {
        path,
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references: references.iter().cloned().collect::<BTreeSet<_>>(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    }
}

fn key() -> SecretKey {
    SecretKey::from_seed("a-1", &[1; 32]).unwrap()
}

fn writer(folder: &TempDir, key: Option<SecretKey>) -> CacheWriter {
    CacheWriter::open(&folder.path().join("cache"), Compression::Zstd, key).unwrap()
}

fn upload(writer: &CacheWriter, info: &PathInfo, nar: &[u8]) -> Result<Uploaded, UploadError> {
    writer.upload(info, |output| output.write_all(nar))
}

/// Names in the cache, those of NARs too.
fn names(folder: &TempDir) -> Vec<String> {
    let list = |folder: std::path::PathBuf| {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut names = list(folder.path().join("cache"));
    names.extend(list(folder.path().join("cache/nar")));
    names.retain(|name| name != "nar" && name != "nix-cache-info");
    names.sort();
    names
}

#[tokio::test]
async fn what_was_uploaded_is_read_back() {
    let folder = TempDir::new().unwrap();
    let nar = nar(b"hello");
    let info = info(path('0'), &nar, &[path('0')]);
    for compression in [Compression::None, Compression::Xz, Compression::Zstd] {
        let place = folder.path().join(compression.name());
        let writer = CacheWriter::open(&place, compression, Some(key())).unwrap();
        let uploaded = upload(&writer, &info, &nar).unwrap();
        let network = Network::new(&NetworkOptions::default()).unwrap();
        let cache = BinaryCache::open(&Location::File(place), &network).await.unwrap();
        let told = cache.narinfo(&info.path).await.unwrap().unwrap();
        let file_size = told.file_size.unwrap();
        assert_eq!(uploaded, Uploaded::Written { file_size });
        assert!(told.info.voucher(&TrustedKeys::from_iter([key().public()])).is_ok());
        let (mut reader, _pump) =
            cache.nar(&told.url).await.unwrap().unwrap().split(&WaitingRoom::new(0));
        let mut file = Vec::new();
        io::Read::read_to_end(&mut reader, &mut file).unwrap();
        assert_eq!(file.len() as u64, file_size);
        assert_eq!(Some(Sha256::of(&file).into()), told.file_hash);
    }
}

#[test]
fn a_path_comes_after_what_it_refers_to() {
    let folder = TempDir::new().unwrap();
    let writer = writer(&folder, None);
    let nar = nar(b"x");
    let referrer = info(path('1'), &nar, &[path('0')]);
    let error = upload(&writer, &referrer, &nar).unwrap_err();
    assert!(matches!(error, UploadError::MissingReference { .. }), "{error}");
    assert_eq!(names(&folder), Vec::<String>::new());
    upload(&writer, &info(path('0'), &nar, &[]), &nar).unwrap();
    upload(&writer, &referrer, &nar).unwrap();
    assert_eq!(names(&folder).len(), 3, "two narinfos share one NAR");
}

#[test]
fn contents_that_are_not_what_they_should_be_leave_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let writer = writer(&folder, None);
    let info = info(path('0'), &nar(b"right"), &[]);
    let error = upload(&writer, &info, &nar(b"wrong")).unwrap_err();
    assert!(matches!(error, UploadError::Corrupt { .. }), "{error}");
    let error = writer.upload(&info, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
    assert!(matches!(error, UploadError::Io { .. }), "{error}");
    assert_eq!(names(&folder), Vec::<String>::new());
}

#[test]
fn what_is_there_stays_and_gains_a_signature() {
    let folder = TempDir::new().unwrap();
    let nar = nar(b"x");
    let info = info(path('0'), &nar, &[]);
    upload(&writer(&folder, None), &info, &nar).unwrap();
    assert_eq!(upload(&writer(&folder, None), &info, &nar).unwrap(), Uploaded::Present);
    let signing = writer(&folder, Some(key()));
    assert_eq!(upload(&signing, &info, &nar).unwrap(), Uploaded::Signed);
    assert_eq!(upload(&signing, &info, &nar).unwrap(), Uploaded::Present);
    let narinfo = format!("{}.narinfo", info.path.hash_part());
    let bytes = std::fs::read(folder.path().join("cache").join(narinfo)).unwrap();
    let told = NarInfo::parse(&bytes).unwrap();
    assert!(told.info.voucher(&TrustedKeys::from_iter([key().public()])).is_ok());
}

#[test]
fn other_contents_under_the_same_path_are_a_conflict() {
    let folder = TempDir::new().unwrap();
    let writer = writer(&folder, None);
    let (one, other) = (nar(b"one"), nar(b"other"));
    upload(&writer, &info(path('0'), &one, &[]), &one).unwrap();
    let error = upload(&writer, &info(path('0'), &other, &[]), &other).unwrap_err();
    assert!(matches!(error, UploadError::OtherContents { .. }), "{error}");
}

#[test]
fn a_folder_for_another_store_directory_is_not_written_to() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
    let error = CacheWriter::open(folder.path(), Compression::Xz, None).unwrap_err();
    assert!(matches!(error, UploadError::Info { .. }), "{error}");
}

#[tokio::test]
async fn a_folder_that_is_gone_is_a_cache_that_cannot_be_reached() {
    let folder = TempDir::new().unwrap();
    let gone = folder.path().join("gone");
    let location = Location::parse(gone.to_str().unwrap()).unwrap();
    let network = Network::new(&NetworkOptions::default()).unwrap();
    let error = BinaryCache::open(&location, &network).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
}
