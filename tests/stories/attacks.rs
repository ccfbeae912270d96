//! Attacks on a host's trust, as python-tuf wrote them: what a host takes, and why it refuses.
//!
//! `fixtures/attacks/make.py` says how to read the folders. A host begins with the sound realm,
//! keeps its state from step to step, and is fed by the very code that agents run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::Timestamp;
use shared::trust::{Clock, Error, Folder, Need, Refresh, Rules, Stored, StoredTarget, Trusted};
use tests::{fixture, python, run, scratch};

/// A mirror under an attacker's hand: the latest file of each name, by step.
#[derive(Default)]
struct Mirror {
    files: BTreeMap<String, Vec<u8>>,
}

impl Mirror {
    /// Replaces what it serves by the files below a folder.
    fn overlay(&mut self, folder: &Path) {
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for entry in inner.read_dir().into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    self.files.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
    }

    fn fetch(&self, need: &Need) -> Option<Vec<u8>> {
        let folder = match need.folder {
            Folder::Metadata => "metadata",
            Folder::Targets => "targets",
        };
        self.files.get(&format!("{folder}/{}", need.name)).cloned()
    }
}

struct Host {
    pinned: Vec<u8>,
    stored: Stored,
    targets: BTreeMap<String, StoredTarget>,
}

impl Host {
    /// Refreshes and looks up, and saves what a host would save.
    fn take(&mut self, mirror: &Mirror, now: Timestamp, path: &str) -> Result<Vec<u8>, Error> {
        let trusted = self.refresh(mirror, now)?;
        let known = self.targets.get(path).cloned().unwrap_or_default();
        let mut lookup = trusted.lookup(path, known)?;
        while let Some(need) = lookup.need() {
            lookup.feed(&need.name, mirror.fetch(&need))?;
        }
        let found = lookup.finish()?;
        self.targets.insert(path.to_owned(), found.stored);
        Ok(found.target.into_inner())
    }

    fn refresh(&mut self, mirror: &Mirror, now: Timestamp) -> Result<Trusted, Error> {
        let (rules, clock) = (Rules::shoal("main"), Clock::synchronised(now));
        let mut refresh = Refresh::new(rules, &self.pinned, self.stored.clone(), clock)?;
        while let Some(need) = refresh.need() {
            refresh.feed(&need.name, mirror.fetch(&need))?;
        }
        let trusted = refresh.finish()?;
        self.stored = trusted.stored().clone();
        Ok(trusted)
    }
}

fn play(folder: &Path) -> Vec<String> {
    let mut mirror = Mirror::default();
    mirror.overlay(&fixture("attacks/start"));
    let pinned = mirror.files["metadata/1.root.json"].clone();
    let mut host = Host { pinned, stored: Stored::default(), targets: BTreeMap::new() };
    let mut step = "0";
    let mut wrong = Vec::new();
    let expect = std::fs::read_to_string(folder.join("expect")).unwrap();
    for line in expect.lines().skip(1) {
        let (number, order) = line.split_once(' ').unwrap();
        if number != step {
            step = number;
            mirror.overlay(&folder.join(step));
        }
        let words: Vec<&str> = order.splitn(3, ' ').collect();
        match words[..] {
            ["gone", file] => drop(mirror.files.remove(file)),
            ["pad", file, size] => {
                mirror.files.get_mut(file).unwrap().resize(size.parse().unwrap(), b' ');
            }
            [now, path, expected] => {
                let found = match host.take(&mirror, now.parse().unwrap(), path) {
                    Ok(bytes) => format!("takes {}", String::from_utf8(bytes).unwrap()),
                    Err(error) => error.code().to_owned(),
                };
                if found != expected {
                    wrong.push(format!("{}: {line}\n    found: {found}", folder.display()));
                }
            }
            _ => panic!("{line}"),
        }
    }
    wrong
}

fn attacks() -> BTreeSet<std::path::PathBuf> {
    let entries = fixture("attacks").read_dir().unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.join("expect").exists()).collect()
}

#[test]
fn every_attack_ends_as_it_must() {
    let attacks = attacks();
    assert!(attacks.len() > 40, "{}", attacks.len());
    let wrong: Vec<String> = attacks.iter().flat_map(|folder| play(folder)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_attacks_are_what_python_tuf_writes() {
    let folder = scratch();
    let script = fixture("attacks/make.py");
    run(std::process::Command::new(python()).arg(&script).arg(folder.path())).ok();
    let read = |root: &Path| {
        let mut mirror = Mirror::default();
        mirror.overlay(root);
        mirror.files.retain(|name, _| name != "make.py" && !name.contains("__pycache__"));
        mirror.files
    };
    let (made, kept) = (read(folder.path()), read(&fixture("attacks")));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&made), names(&kept));
    let differ: Vec<_> = made.iter().filter(|(name, bytes)| kept[*name] != **bytes).collect();
    assert!(differ.is_empty(), "{:?}", differ.iter().map(|(name, _)| name).collect::<Vec<_>>());
}
