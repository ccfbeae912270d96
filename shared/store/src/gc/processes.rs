//! What running processes use: their programs, folders, open files, mappings and environments.
//!
//! A process below another root may name a path as it really lies, which Nix does not look for;
//! both names count here.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use shared::nix::{STORE_DIR, StorePath};

use super::roots::store_path_of;
use crate::local::{
    LocalStoreError,
    layout::{Layout, io_error},
};

/// Programs that the kernel starts by itself.
const KERNEL_PROGRAMS: [&str; 3] = ["modprobe", "fbsplash", "poweroff_cmd"];

/// Returns what running processes and the kernel use.
pub(super) fn roots(layout: &Layout) -> Result<BTreeSet<StorePath>, LocalStoreError> {
    let mut users = Users::new(layout);
    let folder = Path::new("/proc");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Nobody mounted it; Nix goes on as well.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(users.roots),
        Err(error) => return Err(io_error("read", folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(io_error("read", folder))?.path();
        let number = path.file_name().is_some_and(|name| {
            let name = name.as_bytes();
            !name.is_empty() && name.iter().all(u8::is_ascii_digit)
        });
        if number {
            users.look_at(&path).or_else(overlook).map_err(io_error("read", &path))?;
        }
    }
    for program in KERNEL_PROGRAMS {
        let path = Path::new("/proc/sys/kernel").join(program);
        match fs::read(&path) {
            Ok(text) => users.path(text.trim_ascii_end()),
            Err(error) => overlook(error).map_err(io_error("read", &path))?,
        }
    }
    Ok(users.roots)
}

/// Processes end while we look, and some are not ours to look at.
fn overlook(error: io::Error) -> io::Result<()> {
    let expected =
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            || Errno::from_io_error(&error) == Some(Errno::SRCH);
    if expected { Ok(()) } else { Err(error) }
}

struct Users {
    /// The store's directory, by the name in every hash and by the one that it really has.
    store_dirs: Vec<Vec<u8>>,
    roots: BTreeSet<StorePath>,
}

impl Users {
    fn new(layout: &Layout) -> Self {
        let store_dir = &layout.store_dir;
        let real = store_dir.canonicalize().unwrap_or_else(|_| store_dir.clone());
        let mut store_dirs = vec![STORE_DIR.as_bytes().to_vec()];
        for name in [store_dir, &real] {
            let name = name.as_os_str().as_bytes().to_vec();
            if !store_dirs.contains(&name) {
                store_dirs.push(name);
            }
        }
        Self { store_dirs, roots: BTreeSet::new() }
    }

    fn look_at(&mut self, process: &Path) -> io::Result<()> {
        self.link(&process.join("exe"))?;
        self.link(&process.join("cwd"))?;
        for entry in fs::read_dir(process.join("fd"))? {
            self.link(&entry?.path())?;
        }
        for line in fs::read(process.join("maps"))?.split(|byte| *byte == b'\n') {
            // The fields before the path hold no slash.
            if let Some(start) = line.iter().position(|byte| *byte == b'/') {
                self.path(line.get(start..).unwrap_or_default());
            }
        }
        self.text(&fs::read(process.join("environ"))?);
        Ok(())
    }

    fn link(&mut self, link: &PathBuf) -> io::Result<()> {
        match fs::read_link(link) {
            Ok(target) => self.path(target.as_os_str().as_bytes()),
            Err(error) => overlook(error)?,
        }
        Ok(())
    }

    fn path(&mut self, path: &[u8]) {
        let known = self.store_dirs.iter().find_map(|store_dir| store_path_of(path, store_dir));
        self.roots.extend(known);
    }

    /// Finds all store paths in a text.
    fn text(&mut self, text: &[u8]) {
        for store_dir in &self.store_dirs {
            let mut rest = text;
            while let Some(start) = position(rest, store_dir) {
                rest = rest.get(start + store_dir.len()..).unwrap_or_default();
                let Some(name) = rest.strip_prefix(b"/") else { continue };
                let end = name.iter().position(|byte| !is_name(*byte)).unwrap_or(name.len());
                let name = name.get(..end).and_then(|name| std::str::from_utf8(name).ok());
                self.roots.extend(name.and_then(|name| StorePath::from_base_name(name).ok()));
            }
        }
    }
}

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_in_an_environment_counts_by_either_name() {
        let mut users = Users {
            store_dirs: vec![b"/nix/store".to_vec(), b"/mnt/nix/store".to_vec()],
            roots: BTreeSet::new(),
        };
        let hash = "9a455acx720hx0zfwn0q7gn8y2jrvllr";
        users.text(
            format!(
                "A=/nix/store/{hash}-a/bin:/nix/store/{hash}-b!out\0B=x/mnt/nix/store/{hash}-c"
            )
            .as_bytes(),
        );
        let names: Vec<_> = users.roots.iter().map(|path| path.name().to_owned()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
