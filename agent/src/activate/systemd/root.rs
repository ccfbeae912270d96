//! The units that a root brings: found, checked, and none of them outside of the store.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use shared::id::ProfileName;
use shared::nix::STORE_DIR;

use super::unit::{NameError, UnitName, UnitText};

/// Where units are in a root; those of a later folder outrank those of an earlier one.
const FOLDERS: [&str; 2] = ["lib/systemd/system", "etc/systemd/system"];

/// Longest unit file in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Most entries of all folders together.
const MAX_UNITS: usize = 1024;

/// Most symlinks on the way to one file, as the kernel has it.
const MAX_LINKS: usize = 40;

/// One unit of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Its file in the store, without any symlink on the way.
    pub(crate) file: PathBuf,
    /// What the file holds: a change of it is a change of the unit, for it names all that it uses
    /// by store paths.
    pub(crate) content: Vec<u8>,
    /// What that says to us.
    pub(crate) text: UnitText,
}

/// All units of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Units {
    /// By name.
    pub(crate) units: BTreeMap<UnitName, Unit>,
    /// Those that are to be started: named in a folder `*.wants` or `*.requires`, or wanted by
    /// their own `[Install]`.
    pub(crate) wanted: Vec<UnitName>,
}

/// Why the units of a root are not installed; none of them is then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnitsError {
    /// A file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A name that the profile may not use.
    #[error("`{folder}`: {source}")]
    Name { folder: String, source: NameError },
    /// A file that leads somewhere else.
    #[error("`{}` leads out of the store", .0.display())]
    Outside(PathBuf),
    /// Something that is no file.
    #[error("`{}` is no regular file", .0.display())]
    NoFile(PathBuf),
    /// A drop-in.
    #[error("`{0}` holds drop-ins: write their settings into the unit itself")]
    DropIns(String),
    /// A folder that no unit goes into.
    #[error("`{0}` is no folder of wanted units")]
    Folder(String),
    /// A wanted unit that is not there.
    #[error("`{folder}` wants `{name}`, which the root does not have")]
    Missing { folder: String, name: UnitName },
    /// A template cannot be started.
    #[error("`{folder}` wants the template `{name}`: name an instance of it")]
    Template { folder: String, name: UnitName },
    /// Too large.
    #[error("`{}` is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// Too many.
    #[error("the root has more than {MAX_UNITS} units")]
    TooMany,
}

impl Units {
    /// Reads the units of the root at `path`, a physical path below the store root.
    pub(crate) fn read(
        store_root: &Path,
        path: &Path,
        profile: &ProfileName,
    ) -> Result<Self, UnitsError> {
        let mut reader = Reader { store_root, profile, found: Self::default(), left: MAX_UNITS };
        let mut wants = Vec::new();
        for folder in FOLDERS {
            reader.read_folder(&path.join(folder), folder, &mut wants)?;
        }
        let mut units = reader.found;
        for (folder, name) in wants {
            if name.is_template() {
                return Err(UnitsError::Template { folder, name });
            }
            if units.get(&name).is_none() {
                return Err(UnitsError::Missing { folder, name });
            }
            units.wanted.push(name);
        }
        units.wanted.extend(units.units.values().filter_map(|unit| unit.text.wanted.clone()));
        units.wanted.sort();
        units.wanted.dedup();
        Ok(units)
    }

    /// Returns the definition of a unit: its own, or that of its template.
    pub(crate) fn get(&self, name: &UnitName) -> Option<&Unit> {
        self.units.get(name).or_else(|| self.units.get(&name.template()?))
    }
}

struct Reader<'a> {
    store_root: &'a Path,
    profile: &'a ProfileName,
    found: Units,
    left: usize,
}

impl Reader<'_> {
    fn read_folder(
        &mut self,
        folder: &Path,
        told: &str,
        wants: &mut Vec<(String, UnitName)>,
    ) -> Result<(), UnitsError> {
        let Some(folder) = self.resolve(folder)? else { return Ok(()) };
        for (name, path) in self.entries(&folder)? {
            let place = format!("{told}/{name}");
            if name.ends_with(".d") {
                return Err(UnitsError::DropIns(place));
            }
            if name.ends_with(".wants") || name.ends_with(".requires") {
                let Some(folder) = self.resolve(&path)? else { continue };
                // Whatever it leads to, the name alone counts.
                for (name, _) in self.entries(&folder)? {
                    let name = self.name(&name, &place)?;
                    wants.push((place.clone(), name));
                }
                continue;
            }
            let name = self.name(&name, told)?;
            let unit = self.read_unit(&name, &path)?;
            self.found.units.insert(name, unit);
        }
        Ok(())
    }

    fn read_unit(&self, name: &UnitName, path: &Path) -> Result<Unit, UnitsError> {
        let failed = |source| UnitsError::Read { path: path.to_owned(), source };
        let file = self.resolve(path)?;
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        // Without following anything: no pipe or device is ever opened.
        if !fs::symlink_metadata(&file).map_err(failed)?.is_file() {
            return Err(UnitsError::NoFile(path.to_owned()));
        }
        let mut content = Vec::new();
        let opened = fs::File::open(&file).map_err(failed)?;
        opened.take(MAX_FILE + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > MAX_FILE {
            return Err(UnitsError::TooLarge(path.to_owned()));
        }
        let text = UnitText::read(name, &String::from_utf8_lossy(&content), self.profile);
        Ok(Unit { file, content, text })
    }

    fn name(&self, name: &str, folder: &str) -> Result<UnitName, UnitsError> {
        let failed = |source| UnitsError::Name { folder: folder.to_owned(), source };
        UnitName::parse(name, self.profile).map_err(failed)
    }

    /// Lists a folder, in the order of the names.
    fn entries(&mut self, folder: &Path) -> Result<Vec<(String, PathBuf)>, UnitsError> {
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::NotADirectory {
                return UnitsError::Folder(folder.display().to_string());
            }
            UnitsError::Read { path: folder.to_owned(), source }
        };
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            self.left = self.left.checked_sub(1).ok_or(UnitsError::TooMany)?;
            let entry = entry.map_err(failed)?;
            entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
        entries.sort();
        Ok(entries)
    }

    /// Follows all symlinks, as they are meant below the store root; `None` if there is nothing.
    fn resolve(&self, path: &Path) -> Result<Option<PathBuf>, UnitsError> {
        let store = self.store_root.join(STORE_DIR.trim_start_matches('/'));
        let outside = || UnitsError::Outside(path.to_owned());
        let below = path.strip_prefix(&store).map_err(|_| outside())?;
        let names = |path: &Path| -> Vec<_> {
            path.components().rev().map(|it| it.as_os_str().to_owned()).collect()
        };
        // What is left to walk, and how far it came below the store.
        let (mut left, mut place, mut links) = (names(below), PathBuf::new(), 0);
        while let Some(name) = left.pop() {
            match Path::new(&name).components().next() {
                Some(Component::Normal(_)) => place.push(&name),
                // Up to the store itself is out of any path in it.
                Some(Component::ParentDir) if place.pop() => continue,
                Some(Component::CurDir) => continue,
                _ => return Err(outside()),
            }
            let here = store.join(&place);
            let target = match fs::read_link(&here) {
                Ok(target) => target,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                // No symlink.
                Err(error) if error.raw_os_error() == Some(INVALID) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
                Err(source) => return Err(UnitsError::Read { path: here, source }),
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(outside());
            }
            if target.is_absolute() {
                let below = target.strip_prefix(STORE_DIR).map_err(|_| outside())?;
                place.clear();
                left.extend(names(below));
            } else {
                place.pop();
                left.extend(names(&target));
            }
        }
        // The store's folder itself is in no store path.
        if place.as_os_str() == OsStr::new("") {
            Err(outside())
        } else {
            Ok(Some(store.join(place)))
        }
    }
}

/// What `readlink` says of everything that is no symlink.
const INVALID: i32 = rustix::io::Errno::INVAL.raw_os_error();

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A store below a temporary root, with one path that holds what a test puts there.
    struct Lab {
        root: tempfile::TempDir,
    }

    const HASH: &str = "00000000000000000000000000000000";

    impl Lab {
        fn new() -> Self {
            let lab = Self { root: tempfile::tempdir().unwrap() };
            fs::create_dir_all(lab.units()).unwrap();
            lab
        }

        fn store(&self) -> PathBuf {
            self.root.path().join("nix/store")
        }

        fn path(&self) -> PathBuf {
            self.store().join(format!("{HASH}-web"))
        }

        fn units(&self) -> PathBuf {
            self.path().join("lib/systemd/system")
        }

        fn write(&self, name: &str, text: &str) {
            let file = self.units().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }

        fn link(&self, name: &str, target: &str) {
            let link = self.units().join(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }

        fn read(&self) -> Result<Units, UnitsError> {
            Units::read(self.root.path(), &self.path(), &"web".parse().unwrap())
        }

        #[track_caller]
        fn refused(&self) -> String {
            let text = self.read().unwrap_err().to_string();
            text.replace(&self.path().display().to_string(), "ROOT")
        }
    }

    #[test]
    fn finds_the_units_and_what_is_wanted_of_them() {
        let lab = Lab::new();
        lab.write("web.service", "[Install]\nWantedBy=multi-user.target");
        lab.write("web_idle.service", "");
        lab.write("web@.service", "");
        lab.link("sockets.target.wants/web_a.socket", "../web_a.socket");
        lab.link("multi-user.target.wants/web@one.service", "/nonexistent");
        lab.write("web_a.socket", "");
        let over = lab.path().join("etc/systemd/system");
        fs::create_dir_all(&over).unwrap();
        fs::write(over.join("web_idle.service"), "# another").unwrap();
        let units = lab.read().unwrap();
        let wanted: Vec<_> = units.wanted.iter().map(UnitName::as_str).collect();
        assert_eq!(wanted, ["web.service", "web@one.service", "web_a.socket"]);
        assert_eq!(units.units.len(), 4);
        let idle = units.units.iter().find(|(name, _)| name.as_str() == "web_idle.service");
        assert_eq!(idle.unwrap().1.content, b"# another");
    }

    #[test]
    fn a_root_without_units_has_none() {
        let lab = Lab::new();
        fs::remove_dir_all(lab.path().join("lib")).unwrap();
        assert_eq!(lab.read().unwrap(), Units::default());
    }

    #[test]
    fn links_lead_to_files_of_the_store_wherever_the_store_is() {
        let lab = Lab::new();
        let other = lab.store().join(format!("{HASH}-unit"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("web.service"), "x").unwrap();
        lab.link("web.service", &format!("/nix/store/{HASH}-unit/web.service"));
        lab.link(
            "web_near.service",
            "../../../../00000000000000000000000000000000-unit/web.service",
        );
        lab.link("web_far.service", "web.service");
        for unit in lab.read().unwrap().units.values() {
            assert_eq!(unit.file, other.join("web.service"));
        }
    }

    #[test]
    fn nothing_leads_out_of_the_store() {
        for target in [
            "/etc/passwd",
            "/nix/store",
            "/nix/var/nix/db/db.sqlite",
            "/nix/store/../../etc/passwd",
            "../../../../../../etc/passwd",
            "../../../../..",
            "/dev/null",
            "/proc/self/environ",
            "web.service",
        ] {
            let lab = Lab::new();
            lab.link("web.service", target);
            assert_eq!(
                lab.refused(),
                "`ROOT/lib/systemd/system/web.service` leads out of the store"
            );
        }
        let lab = Lab::new();
        fs::remove_dir_all(lab.path().join("lib")).unwrap();
        symlink("/usr/lib", lab.path().join("lib")).unwrap();
        assert_eq!(lab.refused(), "`ROOT/lib/systemd/system` leads out of the store");
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let check = |prepare: &dyn Fn(&Lab), expected: &str| {
            let lab = Lab::new();
            prepare(&lab);
            let text = lab.refused();
            assert!(text.starts_with(expected), "{text}");
        };
        check(
            &|lab| lab.write("ssh.service", ""),
            "`lib/systemd/system`: `ssh.service` is not the",
        );
        check(&|lab| lab.write("web.mount", ""), "`lib/systemd/system`: `web.mount` is no service");
        check(
            &|lab| lab.write("web.service.d/x.conf", ""),
            "`lib/systemd/system/web.service.d` holds drop-ins",
        );
        check(&|lab| lab.write("service.d/x.conf", ""), "`lib/systemd/system/service.d` holds");
        check(
            &|lab| lab.link("multi-user.target.wants/ssh.service", "../ssh.service"),
            "`lib/systemd/system/multi-user.target.wants`: `ssh.service` is not the profile's",
        );
        check(
            &|lab| lab.link("x.wants/web.service", "../web.service"),
            "`lib/systemd/system/x.wants` wants `web.service`, which the root does not have",
        );
        check(
            &|lab| {
                lab.write("web@.service", "");
                lab.link("x.wants/web@.service", "../web@.service");
            },
            "`lib/systemd/system/x.wants` wants the template `web@.service`",
        );
        check(
            &|lab| fs::create_dir(lab.units().join("web.service")).unwrap(),
            "`ROOT/lib/systemd/system/web.service` is no regular file",
        );
        check(&|lab| lab.link("web.service", "gone"), "cannot read");
        check(
            &|lab| lab.write("web.service", &"#".repeat(300_000)),
            "`ROOT/lib/systemd/system/web.service` is larger",
        );
        check(
            &|lab| (0..1100).for_each(|n| lab.write(&format!("web_{n}.service"), "")),
            "the root has more than 1024 units",
        );
        check(
            &|lab| {
                let pipe = lab.units().join("web.service");
                let mode = rustix::fs::Mode::RWXU;
                rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
            "`ROOT/lib/systemd/system/web.service` is no regular file",
        );
    }
}
