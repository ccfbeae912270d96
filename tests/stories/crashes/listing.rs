//! What is below a folder, to be compared with what should be.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

/// Each path below a folder, and what it is.
pub(super) type Listing = BTreeMap<String, String>;

/// Lists everything below `folder`: kinds, modes, targets, and of what is in a store path also
/// sizes and times. Reports that no registry took yet are left out: how many there are follows
/// from when it was killed.
pub(super) fn list(folder: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let told = tell(&path, &name, &metadata);
            if !is_report(&name) {
                listing.insert(name, told);
            }
            if metadata.is_dir() {
                waiting.push(path);
            }
        }
    }
    listing
}

/// Says whether this is a report in the outbox; their names are numbers.
fn is_report(name: &str) -> bool {
    let file = name.strip_prefix("state/outbox/").and_then(|file| file.split_once('.'));
    file.is_some_and(|(number, kind)| {
        number.bytes().all(|byte| byte.is_ascii_digit()) && ["state", "end"].contains(&kind)
    })
}

fn tell(path: &Path, name: &str, metadata: &Metadata) -> String {
    if metadata.is_symlink() {
        return format!("-> {}", fs::read_link(path).unwrap().display());
    }
    let kind = if metadata.is_dir() { "folder" } else { "file" };
    let mode = metadata.permissions().mode() & 0o7777;
    let in_store = name.split_once("nix/store/").is_some_and(|(_, rest)| !rest.starts_with('.'));
    if !in_store {
        return format!("{kind} {mode:o}");
    }
    let size = if metadata.is_dir() { 0 } else { metadata.size() };
    format!("{kind} {mode:o} {size} {}", metadata.mtime())
}

/// Names what one listing has and the other has not, or has otherwise.
pub(super) fn differences(found: &Listing, expected: &Listing) -> Vec<String> {
    let mut differences = Vec::new();
    for (name, told) in found {
        match expected.get(name) {
            None => differences.push(format!("{name}: {told}, where nothing should be")),
            Some(other) if other != told => {
                differences.push(format!("{name}: {told}, instead of {other}"));
            }
            Some(_) => {}
        }
    }
    let missing = expected.keys().filter(|name| !found.contains_key(*name));
    differences.extend(missing.map(|name| format!("{name} is missing")));
    differences
}
