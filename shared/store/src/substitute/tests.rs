use shared::nix::Sha256;
use tempfile::TempDir;

use super::*;

fn path(number: u32) -> StorePath {
    StorePath::from_base_name(&format!("{}-p", format!("{number:02}").repeat(16))).unwrap()
}

/// A path that nobody has, with the given references.
fn info(number: u32, nar_size: u64, references: &[u32]) -> PathInfo {
    PathInfo {
        path: path(number),
        nar_hash: Sha256::of(&number.to_le_bytes()),
        nar_size,
        references: references.iter().map(|number| path(*number)).collect(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    }
}

fn index(infos: &[PathInfo]) -> ClosureIndex {
    ClosureIndex::from_paths(&infos[0].path, infos).unwrap()
}

fn store() -> (TempDir, LocalStore) {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    (folder, store)
}

#[test]
fn a_plan_counts_each_path_once_and_begins_with_the_largest() {
    let (_folder, store) = store();
    let shared = info(2, 500, &[]);
    let one = index(&[info(0, 100, &[0, 2]), shared.clone()]);
    let other = index(&[info(1, 200, &[2]), shared]);
    let plan = plan(&store, &[one, other]).unwrap();
    assert_eq!(plan.missing, [path(2), path(1), path(0)]);
    assert_eq!((plan.nar_size, plan.valid), (800, 0));
}

#[test]
fn a_circle_of_references_is_refused() {
    let (_folder, store) = store();
    let circle = index(&[info(0, 1, &[1]), info(1, 1, &[2, 1]), info(2, 1, &[1])]);
    let error = plan(&store, &[circle]).unwrap_err();
    assert!(matches!(&error, SubstituteError::Cycle(_)), "{error}");
    assert_eq!(error.cause(), Cause::RefusedBytes);
}

#[test]
fn two_closures_that_disagree_are_refused() {
    let (_folder, store) = store();
    let other = PathInfo { nar_hash: Sha256::of(b"other"), ..info(2, 500, &[]) };
    let one = index(&[info(0, 100, &[2]), info(2, 500, &[])]);
    let error = plan(&store, &[one, index(&[info(1, 200, &[2]), other])]).unwrap_err();
    assert!(matches!(&error, SubstituteError::Disagreement(it) if *it == path(2)), "{error}");
}

#[test]
fn a_full_disk_is_seen_through_all_wrappings() {
    let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert_eq!(SubstituteError::FreeSpace(io).cause(), Cause::DiskFull);
    let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    assert_eq!(SubstituteError::FreeSpace(io).cause(), Cause::StoreFailed);
}

/// A collector has found a path dead when somebody wants it: he must not count on what will go.
#[tokio::test]
async fn what_is_there_already_stays_there_until_the_rest_has_come() {
    let (folder, store) = store();
    let source = folder.path().join("source");
    std::fs::write(&source, "x").unwrap();
    let root = store.add(&source, "x", &BTreeSet::new()).unwrap().path;
    // Its temporary root goes, too.
    drop(store);
    let open = || LocalStore::open(folder.path()).unwrap();
    let (store, collector) = (Arc::new(open()), open());
    let (found, has_found) = tokio::sync::oneshot::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let collecting = tokio::task::spawn_blocking(move || {
        let mut found = Some(found);
        let mut hear = |event: crate::gc::Event<'_>| {
            if let crate::gc::Event::Found { paths, .. } = event {
                found.take().unwrap().send(paths).unwrap();
                goes_on.recv().unwrap();
            }
        };
        crate::gc::collect(&collector, &crate::gc::Options::default(), &mut hear).unwrap()
    });
    assert_eq!(has_found.await.unwrap(), 1);
    let observer: Observer = Arc::new(|_| {});
    let roots = [root.clone()];
    let discovered = discover(&roots, Some(&store), &Sources::default(), &observer).await.unwrap();
    go_on.send(()).unwrap();
    assert_eq!(collecting.await.unwrap().paths, 0);
    assert_eq!(plan(&store, &discovered.closures).unwrap().valid, 1);
}

#[test]
fn a_cache_lies_by_bytes_and_forged_signatures_and_not_by_what_others_signed() {
    use crate::cache::{CacheError, Verdict};
    use shared::nix::{SecretKey, TrustedKeys};
    let key = SecretKey::from_seed("a-1", &[1; 32]).unwrap();
    let stranger = SecretKey::from_seed("b-1", &[2; 32]).unwrap();
    let trusted = TrustedKeys::from_iter([key.public()]);
    let refused = |signers: &[&SecretKey], size| {
        let mut signed = info(0, size, &[]);
        signers.iter().for_each(|key| signed.sign(key));
        signed.nar_size = 7;
        FaultCause::untrusted(signed.voucher(&trusted).unwrap_err(), &trusted)
    };
    let check = |cause: FaultCause, verdict| assert_eq!(cause.verdict(), verdict, "{cause:?}");
    check(refused(&[], 7), Verdict::Answered);
    check(refused(&[&stranger], 7), Verdict::Answered);
    // A good signature, but of another size.
    check(refused(&[&key], 8), Verdict::Lied);
    let differs = |vouched| FaultCause::Differs {
        field: "NarHash",
        told: String::new(),
        wanted: String::new(),
        vouched,
    };
    check(differs(true), Verdict::Answered);
    check(differs(false), Verdict::Lied);
    check(FaultCause::Absent, Verdict::Answered);
    check(FaultCause::NarAbsent { url: "nar/x".to_owned() }, Verdict::Answered);

    let pause = Some(std::time::Duration::from_secs(7));
    let status = |status| {
        let (cache, file) = ("c".to_owned(), "f".to_owned());
        CacheError::Status { cache, file, status, pause }
    };
    check(FaultCause::Cache(status(429)), Verdict::Unreachable(pause));
    check(FaultCause::Cache(status(403)), Verdict::Answered);
    let broke_off = |error| {
        let source = std::io::Error::other(error);
        let error = crate::local::ImportError::Source { path: path(0), source };
        FaultCause::Interrupted(Box::new(error))
    };
    check(broke_off(status(503)), Verdict::Unreachable(pause));
    let (cache, file) = ("c".to_owned(), "f".to_owned());
    let too_long = CacheError::TooLong { cache, file, limit: 1 };
    check(broke_off(too_long), Verdict::Lied);
}
