//! Closures from caches that real Nix wrote, into stores that real Nix reads, and back.

use std::{collections::BTreeMap, path::Path};

use shared::nix::NarInfo;
use tests::{Nix, Ran, Server, fixture, run, scratch, shoal};

const SYSTEM_1: &str = "/nix/store/8z53hvy6z9j309dj7laj128c6fsckzcg-nixos-system-testhost-1";
const SYSTEM_2: &str = "/nix/store/sl2xkj3173msizl69v2fhrj3jm7401hl-nixos-system-testhost-2";

/// Runs `agent copy-closure`.
#[track_caller]
fn copy(cache: &str, root: &Path, keys: &[&str], paths: &[&str]) -> Ran {
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", cache, "--root"]).arg(root);
    for key in keys {
        agent.args(["--trusted-public-key", key]);
    }
    run(agent.args(paths))
}

fn key(name: &str) -> String {
    std::fs::read_to_string(fixture("nix/keys").join(format!("{name}.public"))).unwrap()
}

/// Returns what the narinfos of a cache say: each path and its NAR hash.
fn told(cache: &str) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(fixture(cache)).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "narinfo"))
        .map(|file| NarInfo::parse(&std::fs::read(file).unwrap()).unwrap().info)
        .map(|info| (info.path.to_string(), info.nar_hash.to_string()))
        .collect()
}

/// Substitutes everything in a cache, and has real Nix look at what came of it.
#[track_caller]
fn check(cache: &str, url: &str, keys: &[&str]) {
    let folder = scratch();
    let expected = told(cache);
    let paths: Vec<&str> = expected.keys().map(String::as_str).collect();
    copy(url, folder.path(), keys, &paths).ok();
    let nix = Nix::at(folder.path());
    nix.verify();
    assert_eq!(nix.valid_paths(), paths, "{url}");
    for (path, hash) in &expected {
        assert_eq!(nix.dump_hash(path), *hash, "{path} from {url}");
    }
}

/// Does the same by folder and over HTTP.
#[track_caller]
fn check_both_ways(cache: &str, keys: &[&str]) {
    check(cache, &format!("file://{}", fixture(cache).display()), keys);
    let server = Server::new(&fixture(cache));
    check(cache, &server.url(), keys);
}

#[test]
fn every_path_of_the_xz_cache_arrives() {
    check_both_ways("nix/cache-xz", &[&key("cache.test-1")]);
}

#[test]
fn every_path_of_the_zstd_cache_arrives() {
    check_both_ways("nix/cache-zstd", &[&key("cache.test-1")]);
}

#[test]
fn every_path_of_the_plain_cache_arrives() {
    check_both_ways("nix/cache-none", &[&key("cache.test-1")]);
}

#[test]
fn every_path_of_the_bzip2_cache_of_nix_2_8_arrives() {
    check_both_ways("nix/cache-bzip2-2.8", &[&key("legacy-2.8.test-1")]);
}

#[test]
fn content_addressed_paths_arrive_without_any_key() {
    check_both_ways("nix/cache-ca", &[]);
}

#[test]
fn a_content_address_under_the_rule_until_nix_2_16_is_refused() {
    let folder = scratch();
    let paths = told("nix/cache-ca-2.8");
    let paths: Vec<&str> = paths.keys().map(String::as_str).collect();
    let cache = fixture("nix/cache-ca-2.8");
    copy(cache.to_str().unwrap(), folder.path(), &[], &paths).fails(4);
    assert_eq!(Nix::at(folder.path()).valid_paths(), Vec::<String>::new());
}

#[test]
fn a_path_that_no_cache_has_is_named() {
    let folder = scratch();
    let missing = "/nix/store/00000000000000000000000000000000-missing";
    let cache = fixture("nix/cache-xz");
    let said = copy(cache.to_str().unwrap(), folder.path(), &[], &[missing]).fails(6);
    assert!(said.contains(missing) && said.contains("does not have the path"), "{said}");
}

#[test]
fn without_the_right_key_nothing_arrives() {
    let folder = scratch();
    let cache = fixture("nix/cache-xz");
    for keys in [vec![], vec![key("other.test-1")], vec![key("untrusted.test-1")]] {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let said = copy(cache.to_str().unwrap(), folder.path(), &keys, &[SYSTEM_1]).fails(4);
        assert!(said.contains("is signed by `cache.test-1`"), "{said}");
    }
    assert_eq!(Nix::at(folder.path()).valid_paths(), Vec::<String>::new());
}

#[test]
fn a_path_that_is_valid_with_other_contents_is_a_conflict_and_stays() {
    let folder = scratch();
    let cache = fixture("nix/cache-xz");
    let url = cache.to_str().unwrap();
    let trusted = key("cache.test-1");
    let index = folder.path().join("index");
    let hello = "bpx56khx33fmn7fx8pcpccnxsxcbhmn8-hello.txt";
    let text = index_of(url, &trusted, SYSTEM_1);
    let other = text.lines().map(|line| {
        let hash = "0000000000000000000000000000000000000000000000000000";
        let mut words: Vec<&str> = line.split(' ').collect();
        if words[0] == hello {
            words[1] = hash;
        }
        words.join(" ") + "\n"
    });
    std::fs::write(&index, other.collect::<String>()).unwrap();

    let root = folder.path().join("root");
    copy(url, &root, &[&trusted], &[&format!("/nix/store/{hello}")]).ok();
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", url, "--trusted-public-key", &trusted, "--root"]);
    let said = run(agent.arg(&root).arg("--closure-index").arg(&index)).fails(5);
    assert!(said.contains(hello), "{said}");
    let nix = Nix::at(&root);
    nix.verify();
    assert_eq!(nix.valid_paths(), [format!("/nix/store/{hello}")]);
}

/// Returns what `registry closure-index` prints.
#[track_caller]
fn index_of(cache: &str, key: &str, path: &str) -> String {
    let mut registry = shoal("registry");
    registry.env("HOME", "/nonexistent");
    run(registry.args(["closure-index", "--cache", cache, "--trusted-public-key", key, path])).ok()
}

#[test]
fn with_an_index_and_hints_no_narinfo_is_asked_for() {
    let folder = scratch();
    let server = Server::new(&fixture("nix/cache-zstd"));
    let trusted = key("cache.test-1");
    let index = folder.path().join("index");
    let text = index_of(&server.url(), &trusted, SYSTEM_2);
    assert!(text.starts_with("shoal-closure 1 /nix/store 25 "), "{text}");
    std::fs::write(&index, &text).unwrap();
    drop(server.take_requests());

    let root = folder.path().join("root");
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", &server.url(), "--trusted-public-key", &trusted]);
    run(agent.arg("--closure-index").arg(&index).arg("--root").arg(&root)).ok();
    let asked: Vec<_> = server.take_requests().into_iter().map(|ask| ask.target).collect();
    assert!(asked.iter().all(|target| !target.ends_with(".narinfo")), "{asked:?}");
    assert_eq!(asked.len(), 25, "nothing but 25 NARs: {asked:?}");
    let nix = Nix::at(&root);
    nix.verify();
    assert_eq!(nix.valid_paths().len(), 25);

    // Without its hints the index is as good, and costs a narinfo a path.
    let (plain, _hints) = text.split_once("\n\n").unwrap();
    std::fs::write(&index, format!("{plain}\n")).unwrap();
    let root = folder.path().join("other");
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", &server.url(), "--trusted-public-key", &trusted]);
    run(agent.arg("--closure-index").arg(&index).arg("--root").arg(&root).arg(SYSTEM_2)).ok();
    assert_eq!(server.take_requests().len(), 51);
    Nix::at(&root).verify();
}

#[test]
fn what_we_push_is_substituted_by_real_nix_and_by_us() {
    let folder = scratch();
    let trusted = key("cache.test-1");
    let ours = key("other.test-1");
    let root = folder.path().join("root");
    let source = fixture("nix/cache-xz");
    copy(source.to_str().unwrap(), &root, &[&trusted], &[SYSTEM_1, SYSTEM_2]).ok();
    for compression in ["zstd", "xz", "none"] {
        let cache = folder.path().join(compression);
        let url = format!("file://{}", cache.display());
        let push = || {
            let mut registry = shoal("registry");
            registry.env("HOME", folder.path());
            registry.args(["--json", "cache", "push", "--to", &url, "--compression", compression]);
            registry.arg("--key-file").arg(fixture("nix/keys/other.test-1.secret"));
            run(registry.arg("--root").arg(&root).args([SYSTEM_1, SYSTEM_2])).ok()
        };
        let first: serde_json::Value = serde_json::from_str(&push()).unwrap();
        assert_eq!((&first["written"], &first["present"]), (&28.into(), &0.into()));
        let second: serde_json::Value = serde_json::from_str(&push()).unwrap();
        assert_eq!((&second["written"], &second["present"]), (&0.into(), &28.into()));

        let nix = Nix::at(&folder.path().join(format!("{compression}-nix")));
        nix.substitute(&url, &ours, SYSTEM_1).ok();
        nix.verify();
        assert_eq!(nix.valid_paths().len(), 26);
        // The store that Nix made is one that we go on with, and the other way round.
        copy(&url, nix.root(), &[&ours], &[SYSTEM_2]).ok();
        nix.verify();
        assert_eq!(nix.valid_paths().len(), 28);
        assert_same_narinfos(&cache);
    }
}

/// Compares what we wrote with what Nix wrote of the same paths.
#[track_caller]
fn assert_same_narinfos(cache: &Path) {
    for path in told("nix/cache-xz").keys() {
        let file = format!("{}.narinfo", &path["/nix/store/".len()..][..32]);
        let parse = |folder: &Path| {
            let bytes = std::fs::read(folder.join(&file)).unwrap();
            NarInfo::parse(&bytes).unwrap().info
        };
        let (ours, nixes) = (parse(cache), parse(&fixture("nix/cache-xz")));
        assert_eq!(
            (ours.nar_hash, ours.nar_size, &ours.references, &ours.deriver, &ours.content_address),
            (
                nixes.nar_hash,
                nixes.nar_size,
                &nixes.references,
                &nixes.deriver,
                &nixes.content_address
            ),
            "{path}"
        );
        assert!(nixes.signatures.iter().all(|it| ours.signatures.contains(it)), "{path}");
    }
}

#[test]
fn a_store_that_real_nix_began_is_continued_and_then_collected() {
    let folder = scratch();
    let trusted = key("cache.test-1");
    let cache = format!("file://{}", fixture("nix/cache-zstd").display());
    let nix = Nix::at(&folder.path().join("root"));
    nix.substitute(&cache, &trusted, SYSTEM_1).ok();
    copy(&cache, nix.root(), &[&trusted], &[SYSTEM_2]).ok();
    nix.verify();
    assert_eq!(nix.valid_paths().len(), 28);
    let profile = nix.root().join("nix/var/nix/profiles/system");
    nix.nix_env(&profile, &["--set", SYSTEM_2]).ok();
    nix.collect_garbage();
    nix.verify();
    assert_eq!(nix.valid_paths().len(), 25);
    copy(&cache, nix.root(), &[&trusted], &[SYSTEM_1]).ok();
    nix.verify();
    assert_eq!(nix.valid_paths().len(), 28);
}

/// Runs a program and prints the most memory that it had, in KiB.
const PEAK: &str = "import resource, subprocess, sys\n\
    code = subprocess.call(sys.argv[1:])\n\
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
    sys.exit(code)";

#[test]
fn memory_stays_below_64_mib_whatever_the_closure() {
    let folder = scratch();
    let source = Nix::at(&folder.path().join("source"));
    let paths: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            let file = folder.path().join(name);
            std::fs::write(&file, name).unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().set_len(48 << 20).unwrap();
            source.nix_store(&["--add", file.to_str().unwrap()]).ok().trim().to_owned()
        })
        .collect();
    for compression in ["xz", "zstd"] {
        let cache = folder.path().join(compression);
        let mut registry = shoal("registry");
        registry.env("HOME", folder.path()).args(["cache", "push", "--compression", compression]);
        registry.arg("--to").arg(&cache).arg("--root").arg(source.root());
        run(registry.args(&paths)).ok();

        let server = Server::new(&cache);
        let root = folder.path().join(format!("{compression}-root"));
        let mut agent = tests::tool("python3");
        agent.args(["-c", PEAK]).arg(tests::bin("agent")).args(["copy-closure", "--from"]);
        let peak = run(agent.arg(server.url()).arg("--root").arg(&root).args(&paths)).ok();
        let peak: u64 = peak.trim().parse().unwrap();
        assert!(peak < 64 * 1024, "{compression}: {peak} KiB");
        Nix::at(&root).verify();
    }
}
