//! Boot loaders: which entry of theirs starts a system, and which one they start next.
//!
//! Their files are read, never written: entries are made by a system's `switch-to-configuration`, and
//! what is started once by the loader's own tool.

use std::fs;
use std::path::{Path, PathBuf};

use shared::nix::StorePath;

use super::{BOOT_FOLDERS, default_pattern, entries, inits, matches, read};

/// Where firmware shows its variables.
const VARIABLES: &str = "sys/firmware/efi/efivars";

/// The vendor of the variables that boot loaders have in common.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// File systems, by their magic numbers, that GRUB reads and never writes: Btrfs, ZFS, F2FS.
const GRUB_ONLY_READS: [Option<u64>; 3] = [Some(0x9123_683e), Some(0x2fc1_2fc1), Some(0xf2f5_2010)];

/// A boot loader that can start an entry once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loader {
    /// systemd-boot, whose entries are files, and whose choices are variables of the firmware.
    SystemdBoot {
        /// The folder `loader` of the EFI system partition.
        loader: PathBuf,
        /// Where firmware shows its variables.
        variables: PathBuf,
    },
    /// GRUB, with a menu that looks at `next_entry`.
    Grub {
        /// The folder with `grub` in it.
        boot: PathBuf,
    },
}

/// What a boot loader's own tool is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The tool.
    pub(crate) program: &'static str,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
}

impl Loader {
    /// Finds the one that this machine was started by, if it can start an entry once, by tools and files
    /// that we know.
    ///
    /// systemd-boot can also where Lanzaboote writes its entries; but those are images, of which nothing
    /// here tells which system they start. extlinux cannot, and neither can GRUB with its environment on
    /// a file system that it does not write: it would start an entry again and again.
    pub(crate) fn find(root: &Path) -> Option<Self> {
        let variables = root.join(VARIABLES);
        if variable(&variables, "LoaderInfo").is_some_and(|info| info.starts_with("systemd-boot")) {
            let folders = BOOT_FOLDERS.iter().map(|folder| root.join(folder).join("loader"));
            let all = folders.into_iter().map(|loader| {
                let variables = variables.clone();
                Self::SystemdBoot { loader, variables }
            });
            return all.into_iter().find(|loader| !loader.entries().is_empty());
        }
        let boot = root.join("boot");
        let can = read(&boot.join("grub/grub.cfg")).contains("next_entry")
            && !GRUB_ONLY_READS.contains(&file_system(&boot.join("grub")));
        can.then_some(Self::Grub { boot })
    }

    /// Returns the name of an entry that starts this system.
    pub(crate) fn entry(&self, system: &StorePath) -> Option<String> {
        let mut entries = self.entries().into_iter();
        entries.find(|(_, started)| started == system).map(|(name, _)| name)
    }

    /// Returns the system that is started next, if that can be told.
    pub(crate) fn next(&self) -> Option<StorePath> {
        let entries = self.entries();
        let named = |name: &str| {
            entries.iter().find(|(entry, _)| entry == name).map(|(_, system)| system.clone())
        };
        if let Some(once) = self.once() {
            return named(&once);
        }
        match self {
            Self::SystemdBoot { loader, variables } => {
                if let Some(chosen) = variable(variables, "LoaderEntryDefault") {
                    return named(&chosen);
                }
                let pattern = default_pattern(&read(&loader.join("loader.conf")))?;
                let fits = |name: &str| {
                    matches(&pattern, name)
                        || matches(&pattern, name.strip_suffix(".conf").unwrap_or(name))
                };
                let mut fitting = entries.iter().filter(|(name, _)| fits(name));
                // Among several, the loader decides by rules of its own.
                let first = fitting.next()?;
                fitting.next().is_none().then(|| first.1.clone())
            }
            Self::Grub { boot } => {
                if read(&boot.join("grub/grub.cfg")).contains("default=\"${saved_entry}\"") {
                    return named(&environment(boot, "saved_entry")?);
                }
                entries.first().map(|(_, system)| system.clone())
            }
        }
    }

    /// Returns the entry that is started once, if one is set.
    pub(crate) fn once(&self) -> Option<String> {
        match self {
            Self::SystemdBoot { variables, .. } => variable(variables, "LoaderEntryOneShot"),
            Self::Grub { boot } => environment(boot, "next_entry"),
        }
    }

    /// Returns how an entry is started once; or none any more.
    pub(crate) fn set_once(&self, entry: Option<&str>) -> Call {
        match (self, entry) {
            (Self::SystemdBoot { .. }, entry) => Call {
                program: "bootctl",
                arguments: vec!["set-oneshot".to_owned(), entry.unwrap_or_default().to_owned()],
            },
            (Self::Grub { boot }, Some(entry)) => Call {
                program: "grub-reboot",
                arguments: vec![format!("--boot-directory={}", boot.display()), entry.to_owned()],
            },
            (Self::Grub { boot }, None) => Call {
                program: "grub-editenv",
                arguments: vec![
                    boot.join("grub/grubenv").display().to_string(),
                    "unset".to_owned(),
                    "next_entry".to_owned(),
                ],
            },
        }
    }

    /// Returns the folder that kernels are copied to.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::SystemdBoot { loader, .. } => loader.parent().unwrap_or(loader),
            Self::Grub { boot } => boot,
        }
    }

    /// Returns each entry that starts a system of Nix, in the order of the menu.
    fn entries(&self) -> Vec<(String, StorePath)> {
        match self {
            Self::SystemdBoot { loader, .. } => {
                let mut files = entries(&loader.join("entries"));
                files.sort();
                let entry = |file: &PathBuf| {
                    let name = file.file_name()?.to_str()?.to_owned();
                    Some((name, inits(&read(file)).next()?))
                };
                files.iter().filter_map(entry).collect()
            }
            Self::Grub { boot } => menu(&read(&boot.join("grub/grub.cfg"))),
        }
    }
}

/// Returns the magic number of the file system that a folder is on.
fn file_system(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statfs(folder).ok()?;
    // Signed or not, as the machine has it: the number has 32 bits.
    u32::try_from(found.f_type & 0xffff_ffff).ok().map(u64::from)
}

/// Reads a variable of the firmware: four bytes of attributes, then text in UTF-16.
fn variable(folder: &Path, name: &str) -> Option<String> {
    let bytes = fs::read(folder.join(format!("{name}-{VENDOR}"))).ok()?;
    let units: Vec<u16> = bytes
        .get(4..)?
        .chunks_exact(2)
        .filter_map(|unit| Some(u16::from_le_bytes(unit.try_into().ok()?)))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16(&units).ok().filter(|text| !text.is_empty())
}

/// Reads a value of GRUB's environment block.
fn environment(boot: &Path, name: &str) -> Option<String> {
    let block = read(&boot.join("grub/grubenv"));
    let mut lines = block.lines();
    lines
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .filter(|value| !value.is_empty())
        .map(ToOwned::to_owned)
}

/// Returns the entries of a GRUB menu by their full titles, as `grub-reboot` takes them.
fn menu(text: &str) -> Vec<(String, StorePath)> {
    // One title for each open brace; most of them have none.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut found: Vec<(String, StorePath)> = Vec::new();
    for line in text.lines().map(str::trim) {
        let words = line.strip_prefix("menuentry ").or_else(|| line.strip_prefix("submenu "));
        if line.ends_with('{') {
            open.push(words.and_then(title));
        } else if line == "}" {
            open.pop();
        }
        if let Some(system) = inits(line).next() {
            let titles: Vec<&str> = open.iter().flatten().map(String::as_str).collect();
            let name = titles.join(">");
            if !name.is_empty() && found.last().is_none_or(|(last, _)| *last != name) {
                found.push((name, system));
            }
        }
    }
    found
}

/// Returns the title at the beginning of an entry; what separates titles is doubled in it.
fn title(words: &str) -> Option<String> {
    let quote = words.chars().next().filter(|first| matches!(first, '"' | '\''))?;
    let (title, _) = words.get(1..)?.split_once(quote)?;
    Some(title.replace('>', ">>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u32) -> StorePath {
        let name = format!("9a455acx720hx0zfwn0q7gn8y2jrvllr-nixos-system-{number}");
        StorePath::from_base_name(&name).unwrap()
    }

    fn machine(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        }
        root
    }

    fn variable_of(name: &str, text: &str) -> (String, Vec<u8>) {
        let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        let bytes = [7, 0, 0, 0].into_iter().chain(units).collect();
        (format!("{VARIABLES}/{name}-{VENDOR}"), bytes)
    }

    #[test]
    fn systemd_boot_tells_by_its_variables_what_comes_next() {
        let entry = |number: u32| {
            let text = format!("title NixOS\nlinux /k\noptions init={}/init quiet\n", path(number));
            (format!("boot/loader/entries/nixos-generation-{number}.conf"), text.into_bytes())
        };
        let check = |variables: &[(&str, &str)], expected: Option<u32>| {
            let conf = b"timeout 5\ndefault nixos-generation-1.conf\n".to_vec();
            let mut files = vec![("boot/loader/loader.conf".to_owned(), conf), entry(1), entry(2)];
            files.extend(variables.iter().map(|(name, text)| variable_of(name, text)));
            let files: Vec<_> = files.iter().map(|(name, it)| (&**name, it.clone())).collect();
            let root = machine(&files);
            let loader = Loader::find(root.path());
            assert_eq!(loader.as_ref().and_then(Loader::next), expected.map(path));
            loader
        };
        let info = ("LoaderInfo", "systemd-boot 252.39");
        assert_eq!(check(&[], None), None);
        assert_eq!(check(&[("LoaderInfo", "other")], None), None);
        // As Lanzaboote leaves it: entries are images, and the folder for files is there all the same.
        let root = machine(&[
            (&*variable_of(info.0, info.1).0, variable_of(info.0, info.1).1),
            ("boot/EFI/Linux/nixos-generation-1-abc.efi", b"MZ".to_vec()),
            ("boot/loader/entries/memtest.conf", b"efi /memtest.efi\n".to_vec()),
        ]);
        assert_eq!(Loader::find(root.path()), None);
        let loader = check(&[info], Some(1)).unwrap();
        assert_eq!(loader.set_once(None).arguments, ["set-oneshot", ""]);
        check(&[info, ("LoaderEntryOneShot", "nixos-generation-2.conf")], Some(2));
        check(&[info, ("LoaderEntryDefault", "nixos-generation-2.conf")], Some(2));
        // What is gone from the menu leads nowhere that could be told.
        check(&[info, ("LoaderEntryOneShot", "nixos-generation-9.conf")], None);
    }

    #[test]
    fn grub_names_entries_by_the_titles_on_the_way_to_them() {
        let entry = |title: &str, number: u32| {
            format!(
                "menuentry \"{title}\" --class nixos --unrestricted {{\n\
                 search --set=drive1 --fs-uuid 1\n  linux ($drive1)/k init={}/init quiet\n\
                   initrd ($drive1)/i\n}}\n",
                path(number)
            )
        };
        let menu = format!(
            "if [ \"${{next_entry}}\" ]; then\n set default=\"${{next_entry}}\"\nfi\n\
             function load {{\n true\n}}\n{}submenu \"NixOS - All configurations\" {{\n{}{}}}\n",
            entry("NixOS", 1),
            entry("NixOS - Configuration 2 (a > b)", 2),
            entry("NixOS - Configuration 1 (c)", 1),
        );
        let next = |environment: &str| {
            let environment = format!("# GRUB Environment Block\n{environment}########");
            let files = [
                ("boot/grub/grub.cfg", menu.clone().into_bytes()),
                ("boot/grub/grubenv", environment.into_bytes()),
            ];
            let root = machine(&files);
            let loader = Loader::find(root.path()).unwrap();
            (loader.next(), loader.entry(&path(2)), loader.set_once(Some("x")).program)
        };
        let two = "NixOS - All configurations>NixOS - Configuration 2 (a >> b)";
        assert_eq!(next(""), (Some(path(1)), Some(two.to_owned()), "grub-reboot"));
        assert_eq!(next("next_entry=\n").0, Some(path(1)));
        assert_eq!(next(&format!("next_entry={two}\n")).0, Some(path(2)));
        let plain = machine(&[("boot/grub/grub.cfg", b"set default=0\n".to_vec())]);
        assert_eq!(Loader::find(plain.path()), None);
    }
}
