//! The systems of a machine that runs NixOS: the one that it booted, the one that is activated, and
//! the one that it boots next, as its boot loader's files tell.

pub(crate) mod loader;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use shared::nix::{STORE_DIR, StorePath};
use shared::report;

use self::loader::Loader;
use crate::host;

/// Where boot loaders look for their entries.
const BOOT_FOLDERS: [&str; 3] = ["boot", "efi", "boot/efi"];

/// Menus that begin with the entry that is booted by default.
const MENUS: [&str; 2] = ["boot/grub/grub.cfg", "boot/extlinux/extlinux.conf"];

/// Longest file of a boot loader.
const MAX_LEN: u64 = 4 << 20;

/// How a kernel is told what to start.
const INIT: &str = "init=";

/// The systems of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Systems {
    /// What was booted.
    pub(crate) booted: Option<StorePath>,
    /// What is activated.
    pub(crate) activated: Option<StorePath>,
    /// What is booted next, as far as the boot loaders' files tell: all of it if they do not
    /// say which is the default.
    pub(crate) boot_defaults: BTreeSet<StorePath>,
}

impl Systems {
    /// Reads them below the store's root. What is not there, or is no NixOS, has none.
    pub(crate) fn read(root: &Path) -> Self {
        let linked = |name: &str| {
            let target = fs::read_link(root.join("run").join(name)).ok()?;
            store_path(target.to_str()?)
        };
        let mut boot_defaults = BTreeSet::new();
        for folder in BOOT_FOLDERS {
            boot_defaults.extend(systemd_boot(&root.join(folder).join("loader")));
        }
        for menu in MENUS {
            boot_defaults.extend(inits(&read(&root.join(menu))).next());
        }
        Self { booted: linked("booted-system"), activated: linked("current-system"), boot_defaults }
    }

    /// Tells them to others, if this machine runs NixOS.
    pub(crate) fn told(&self, root: &Path) -> Option<report::Systems> {
        self.activated.as_ref()?;
        Some(report::Systems {
            running: self.activated.clone(),
            booted: self.booted.clone(),
            next_boot: Loader::find(root).and_then(|loader| loader.next()).or_else(|| {
                // Where nothing can be booted once, the default is what comes next.
                let mut defaults = self.boot_defaults.iter();
                defaults.next().filter(|_| defaults.next().is_none()).cloned()
            }),
        })
    }

    /// Returns all of them.
    pub(crate) fn paths(&self) -> impl Iterator<Item = StorePath> {
        let one = self.booted.iter().chain(&self.activated).chain(&self.boot_defaults);
        one.cloned().collect::<Vec<_>>().into_iter()
    }
}

/// Returns how much room there is for kernels, if they are copied out of the store.
pub(crate) fn free_for_kernels(root: &Path) -> Option<u64> {
    let folder = Loader::find(root).map(|loader| loader.folder().to_owned())?;
    (!shares_the_store(root, &folder)).then(|| host::free_space(&folder))?
}

/// Returns whether a folder is on the file system of the store, so that nothing need be copied.
pub(crate) fn shares_the_store(root: &Path, folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    device(folder) == device(&root.join(STORE_DIR.trim_start_matches('/')))
}

/// Returns what the default entries of systemd-boot start.
fn systemd_boot(loader: &Path) -> Vec<StorePath> {
    let pattern = default_pattern(&read(&loader.join("loader.conf")));
    let pattern = pattern.as_deref().unwrap_or("*");
    let mut found = Vec::new();
    for entry in entries(&loader.join("entries")) {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let plain = name.strip_suffix(".conf").unwrap_or(name);
        if matches(pattern, name) || matches(pattern, plain) {
            found.extend(inits(&read(&entry)));
        }
    }
    found
}

/// Returns which entries may be the default by systemd-boot's configuration, if that says so.
fn default_pattern(configuration: &str) -> Option<String> {
    let mut named = configuration.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("default")).then(|| words.next()).flatten()
    });
    // A pattern that is kept in a firmware variable, such as `@saved`, is not here to be read.
    let pattern = named.next_back().filter(|pattern| !pattern.starts_with('@'));
    pattern.map(ToOwned::to_owned)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn read(path: &Path) -> String {
    let small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_LEN);
    if small { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

/// Returns the systems that the kernels in a boot loader's file start, in their order.
fn inits(text: &str) -> impl Iterator<Item = StorePath> {
    let words = text.split(|c: char| c.is_whitespace() || c == '"' || c == '\'');
    words.filter_map(|word| store_path(word.strip_prefix(INIT)?))
}

/// Returns the store path that a path, of any depth, is in.
fn store_path(path: &str) -> Option<StorePath> {
    let inner = path.strip_prefix(STORE_DIR)?.strip_prefix('/')?;
    StorePath::from_base_name(inner.split('/').next()?).ok()
}

/// Matches a shell pattern of `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // The positions in the name that the pattern so far may end at.
    let mut ends = BTreeSet::from([0]);
    for wanted in pattern {
        ends = match wanted {
            '*' => (ends.first().copied().unwrap_or(usize::MAX)..=name.len()).collect(),
            wanted => ends
                .into_iter()
                .filter(|end| name.get(*end).is_some_and(|c| wanted == '?' || *c == wanted))
                .map(|end| end + 1)
                .collect(),
        };
    }
    ends.contains(&name.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn path(number: u32) -> StorePath {
        let name = format!("9a455acx720hx0zfwn0q7gn8y2jrvllr-nixos-system-{number}");
        StorePath::from_base_name(&name).unwrap()
    }

    fn machine(files: &[(&str, &str)]) -> Systems {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        fs::create_dir_all(root.path().join("run")).unwrap();
        symlink(path(8).to_string(), root.path().join("run/booted-system")).unwrap();
        symlink(path(9).to_string(), root.path().join("run/current-system")).unwrap();
        Systems::read(root.path())
    }

    fn entry(number: u32) -> String {
        format!("title NixOS\nlinux /EFI/nixos/k.efi\noptions init={}/init quiet\n", path(number))
    }

    #[track_caller]
    fn check(default: &str, expected: &[u32]) {
        let systems = machine(&[
            ("boot/loader/loader.conf", default),
            ("boot/loader/entries/nixos-generation-1.conf", &entry(1)),
            ("boot/loader/entries/nixos-generation-2.conf", &entry(2)),
            ("boot/loader/entries/memtest.conf", "title memtest\nefi /memtest.efi\n"),
        ]);
        assert_eq!(systems.boot_defaults, expected.iter().map(|n| path(*n)).collect(), "{default}");
        assert_eq!((systems.booted, systems.activated), (Some(path(8)), Some(path(9))));
    }

    #[test]
    fn the_default_entry_of_systemd_boot_counts_or_all_if_it_is_not_told() {
        check("timeout 5\ndefault nixos-generation-2.conf\n", &[2]);
        check("default nixos-generation-1\n", &[1]);
        check("default nixos-generation-?.conf\nconsole-mode keep\n", &[1, 2]);
        check("default *-2.conf\n", &[2]);
        check("default @saved\n", &[1, 2]);
        check("timeout 5\n", &[1, 2]);
    }

    #[test]
    fn the_first_entry_of_other_menus_counts() {
        let grub = format!(
            "set default=0\nmenuentry \"NixOS\" {{\n linux /k init={}/init\n}}\n\
             menuentry \"old\" {{\n linux /k init={}/init\n}}\n",
            path(3),
            path(1)
        );
        assert_eq!(machine(&[("boot/grub/grub.cfg", &grub)]).boot_defaults, [path(3)].into());
        assert_eq!(machine(&[]).boot_defaults, BTreeSet::new());
    }
}
