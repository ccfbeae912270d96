//! Caches made to harm: each case of `cache-hostile` ends as its table requires.

use std::{fs, path::Path};

use tests::{Nix, Server, fixture, run, scratch, shoal};

/// What a substitution may write and keep, in bytes: the cases are small, the bombs are not.
const BOUND: u64 = 1024 * 1024;

struct Case {
    name: String,
    path: String,
    required: String,
}

fn cases() -> Vec<Case> {
    let table = fs::read_to_string(fixture("nix/cache-hostile/expect.tsv")).unwrap();
    let cases: Vec<Case> = table
        .lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut field = || fields.next().unwrap();
            Case { name: field(), path: field(), required: field() }
        })
        .collect();
    assert!(cases.len() > 70, "{} cases", cases.len());
    cases
}

/// Substitutes the case from `cache`; returns what was wrong about it, if anything was.
fn try_case(case: &Case, cache: &str) -> Result<(), String> {
    let folder = scratch();
    let root = folder.path().join("inside/root");
    let key = fs::read_to_string(fixture("nix/keys/cache.test-1.public")).unwrap();
    let mut agent = shoal("agent");
    agent.args(["copy-closure", "--from", cache, "--trusted-public-key", key.trim(), "--root"]);
    let ran = run(agent.arg(&root).arg(&case.path));
    let nix = Nix::at(&root);
    nix.verify();
    let valid = nix.valid_paths();
    let accepted = valid.contains(&case.path);
    let complain = |what: &str| Err(format!("{} from {cache}: {what}\n{ran}", case.name));
    if accepted != (ran.code == Some(0)) {
        return complain("exit code and store disagree");
    }
    if !accepted && !matches!(ran.code, Some(4 | 6)) {
        return complain("the exit code is not that of a refusal");
    }
    if !accepted && !ran.stderr.contains("error[") {
        return complain("the refusal has no words");
    }
    if accepted && case.required == "reject" || !accepted && case.required == "accept" {
        return complain(&format!("required is {}", case.required));
    }
    if let Some(leftover) = leftover(&nix, &valid) {
        return complain(&format!("left {leftover} behind"));
    }
    let outside = fs::read_dir(folder.path()).unwrap().count() - 1;
    let beside = fs::read_dir(root.parent().unwrap()).unwrap().count() - 1;
    if outside + beside > 0 {
        return complain("wrote outside of its store");
    }
    match size(&nix.real("/nix/store")) {
        size if size > BOUND => complain(&format!("{size} bytes are in the store")),
        _ => Ok(()),
    }
}

/// Returns a name in the store directory that belongs to no valid path.
fn leftover(nix: &Nix, valid: &[String]) -> Option<String> {
    let names = fs::read_dir(nix.real("/nix/store")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_known =
        |name: &String| name == ".links" || valid.contains(&format!("/nix/store/{name}"));
    names.into_iter().find(|name| !is_known(name))
}

fn size(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).unwrap();
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum()
}

#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} cases:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_hostile_folder_ends_as_required() {
    let caches = fixture("nix/cache-hostile");
    let complaints: Vec<_> = cases()
        .iter()
        .filter_map(|case| {
            let cache = format!("file://{}", caches.join(&case.name).display());
            try_case(case, &cache).err()
        })
        .collect();
    assert_none(&complaints);
}

#[test]
fn every_hostile_server_ends_as_required() {
    let server = Server::new(&fixture("nix/cache-hostile"));
    let complaints: Vec<_> = cases()
        .iter()
        .filter_map(|case| try_case(case, &format!("{}/{}", server.url(), case.name)).err())
        .collect();
    assert_none(&complaints);
    // An absolute URL in a narinfo is not followed, wherever it leads, nor one that leads up.
    let asked = server.take_requests();
    assert!(!asked.iter().any(|request| request.target.contains("sibling-store")));
}
