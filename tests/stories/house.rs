//! The shape of the house: who may use whom, and how long a file may get.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tests::run;

/// Lines that a source file may have; aim at a quarter.
const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns what each of our crates uses of the others, tests included.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.current_dir(root()).args(["metadata", "--no-deps", "--offline", "--format-version=1"]);
    let metadata: serde_json::Value = serde_json::from_str(&run(&mut metadata).ok()).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &serde_json::Value| package["name"].as_str().unwrap().to_owned();
    let ours: BTreeSet<_> = packages.iter().map(name).collect();
    let used = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter().map(name);
        all.filter(|dependency| ours.contains(dependency)).collect()
    };
    packages.iter().map(|package| (name(package), used(package))).collect()
}

#[test]
fn crates_use_each_other_in_one_direction() {
    let allowed: BTreeMap<&str, &[&str]> = [
        ("shared", &[][..]),
        ("store", &["shared"]),
        ("agent", &["shared", "store"]),
        ("registry", &["shared", "store"]),
        ("tests", &["shared", "store"]),
    ]
    .into();
    let uses = uses();
    assert!(uses.keys().eq(["agent", "registry", "shared", "store", "tests"].iter()), "{uses:?}");
    for (name, used) in uses {
        for other in used {
            assert!(allowed[&*name].contains(&&*other), "{name} must not use {other}");
        }
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_file_is_longer_than_anyone_reads() {
    let mut files = Vec::new();
    ["shared", "agent", "registry", "tests"]
        .iter()
        .for_each(|f| sources(&root().join(f), &mut files));
    assert!(files.len() > 50, "{files:?}");
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines: split it", file.display());
    }
}
