//! A closure of every shape, in a binary cache.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use shared::nix::StorePath;
use store::local::LocalStore;
use tests::{Builder, Random, run, shoal};

/// Paths that are one small file.
const FILES: u64 = 80;
/// Paths that are a package: programs, links, folders.
const PACKAGES: u64 = 40;
/// Paths with a great many files.
const CROWDS: u64 = 3;

/// A closure of more than a hundred paths, and whoever built it.
pub(super) struct Closure {
    pub(super) builder: Builder,
    pub(super) root: StorePath,
    /// How many paths it is.
    pub(super) paths: usize,
    /// What `registry closure-index` says of it.
    pub(super) index: PathBuf,
}

impl Closure {
    /// Builds it, and puts it into the builder's cache.
    pub(super) fn new() -> Self {
        let builder = Builder::new();
        let store = LocalStore::open(&builder.root()).unwrap();
        let mut made: Vec<StorePath> = Vec::new();
        let mut random = Random::seeded(1);
        let scratch = tests::scratch();
        for number in 0..FILES + PACKAGES + CROWDS + 1 {
            let source = scratch.path().join(number.to_string());
            let name = match number {
                _ if number < FILES => file(&source, number * 97),
                _ if number < FILES + PACKAGES => package(&source, number),
                _ if number < FILES + PACKAGES + CROWDS => crowd(&source, number),
                _ => large(&source, &mut random),
            };
            // Two of those that were there before, as closures have it.
            let before = (0..made.len().min(2)).map(|_| {
                let index = random.below(made.len() as u64);
                made[usize::try_from(index).unwrap()].clone()
            });
            let references: BTreeSet<StorePath> = before.collect();
            made.push(store.add(&source, name, &references).unwrap().path);
        }
        let top = scratch.path().join("top");
        fs::write(&top, "all of it").unwrap();
        let paths = made.len() + 1;
        let root = store.add(&top, "top", &made.into_iter().collect()).unwrap().path;
        drop(store);
        builder.push(&root.to_string()).ok();

        let index = builder.root().join("index");
        let mut registry = shoal("registry");
        registry.env("HOME", "/nonexistent").args(["closure-index", "--cache"]);
        let text = run(registry.arg(builder.cache_url()).arg(root.to_string())).ok();
        fs::write(&index, text).unwrap();
        Self { builder, root, paths, index }
    }
}

fn file(at: &Path, length: u64) -> &'static str {
    fs::write(at, vec![b'x'; usize::try_from(length).unwrap()]).unwrap();
    "file"
}

fn package(at: &Path, number: u64) -> &'static str {
    for folder in ["bin", "lib/deep/er/still", "empty"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    for program in ["run", "stop"] {
        let program = at.join("bin").join(program);
        fs::write(&program, format!("#!/bin/sh\necho {number}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(at.join("lib/deep/er/still/library"), vec![b'y'; 40_000]).unwrap();
    symlink("../lib/deep", at.join("bin/link")).unwrap();
    symlink("/nowhere", at.join("dangling")).unwrap();
    "package"
}

fn crowd(at: &Path, number: u64) -> &'static str {
    for folder in 0..6 {
        let folder = at.join(format!("share/{folder}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..20 {
            fs::write(folder.join(file.to_string()), format!("{number} {file}")).unwrap();
        }
    }
    "crowd"
}

/// Some MiB that do not compress, so that this one path takes a while.
fn large(at: &Path, random: &mut Random) -> &'static str {
    fs::write(at, random.bytes(4 << 20)).unwrap();
    "large"
}
