//! What `nix.conf` says of garbage, where this host has one.
//!
//! Read as Nix reads it: the machine's file, then those of the user, then `NIX_CONFIG`; the last
//! word holds. A line that makes no sense is passed over: it is Nix's to complain about it.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Keep, KeepDerivations, KeepOutputs};
use crate::local::{LocalStoreError, layout::io_error};

/// Files that include each other deeper than this go round in a circle.
const MAX_DEPTH: usize = 16;

/// Longest file of settings, which people write by hand.
const MAX_LEN: u64 = 1 << 20;

/// What `nix.conf` says of garbage; Nix's defaults where it says nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `keep-derivations` and `keep-outputs`.
    pub keep: Keep,
}

impl Settings {
    /// Reads the settings that hold for a process with this environment.
    ///
    /// # Errors
    /// When a file is there and cannot be read: what it keeps must not be deleted.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, LocalStoreError> {
        let mut settings = Self::default();
        let machine = variable("NIX_CONF_DIR").map_or_else(|| "/etc/nix".into(), PathBuf::from);
        settings.read_file(&machine.join("nix.conf"), 0)?;
        for file in user_files(&variable).iter().rev() {
            settings.read_file(file, 0)?;
        }
        if let Some(text) = variable("NIX_CONFIG").and_then(|text| text.into_string().ok()) {
            settings.apply(&text, Path::new("/"), 0)?;
        }
        Ok(settings)
    }

    fn read_file(&mut self, path: &Path, depth: usize) -> Result<(), LocalStoreError> {
        let text = match fs::metadata(path).and_then(|metadata| read(path, metadata.len())) {
            Ok(text) => text,
            // Files with secrets are often included, and root's alone; Nix overlooks them as well.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::PermissionDenied
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(io_error("read", path)(error)),
        };
        self.apply(&text, path.parent().unwrap_or(Path::new("/")), depth)
    }

    fn apply(&mut self, text: &str, folder: &Path, depth: usize) -> Result<(), LocalStoreError> {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words.as_slice() {
                ["include" | "!include", file] if depth < MAX_DEPTH => {
                    self.read_file(&folder.join(file), depth + 1)?;
                }
                [name, "=", value] => self.set(name, value),
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) {
        let yes = match value {
            "true" | "yes" | "1" => true,
            "false" | "no" | "0" => false,
            _ => return,
        };
        match name {
            "keep-derivations" | "gc-keep-derivations" => {
                self.keep.derivations =
                    if yes { KeepDerivations::Yes } else { KeepDerivations::No };
            }
            "keep-outputs" | "gc-keep-outputs" => {
                self.keep.outputs = if yes { KeepOutputs::Yes } else { KeepOutputs::No };
            }
            _ => {}
        }
    }
}

fn read(path: &Path, length: u64) -> io::Result<String> {
    if length > MAX_LEN {
        return Err(io::Error::other(format!("larger than {MAX_LEN} bytes")));
    }
    fs::read_to_string(path)
}

/// Returns the user's files, the one that outranks the others first.
fn user_files(variable: &impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if let Some(files) = variable("NIX_USER_CONF_FILES") {
        return split(&files);
    }
    let home = variable("HOME").map(|home| PathBuf::from(home).join(".config"));
    let own = variable("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let shared = variable("XDG_CONFIG_DIRS").map_or_else(|| vec!["/etc/xdg".into()], |d| split(&d));
    own.into_iter().chain(shared).map(|folder| folder.join("nix/nix.conf")).collect()
}

fn split(paths: &OsString) -> Vec<PathBuf> {
    std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], variables: &[(&str, &str)], expected: (bool, bool)) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let here = folder.path().to_str().unwrap().to_owned();
        let settings = Settings::read(|name| match name {
            "NIX_CONF_DIR" => Some(here.clone().into()),
            "NIX_USER_CONF_FILES" => Some(format!("{here}/first:{here}/second").into()),
            _ => variables.iter().find(|it| it.0 == name).map(|it| it.1.into()),
        });
        let keep = settings.unwrap().keep;
        let kept = (keep.derivations == KeepDerivations::Yes, keep.outputs == KeepOutputs::Yes);
        assert_eq!(kept, expected, "{files:?} {variables:?}");
    }

    #[test]
    fn the_last_word_holds_as_for_nix() {
        check(&[], &[], (true, false));
        check(&[("nix.conf", "keep-outputs = true # for developers")], &[], (true, true));
        check(
            &[("nix.conf", "gc-keep-derivations=false\nkeep-derivations = no")],
            &[],
            (false, false),
        );
        let user = [("nix.conf", "keep-outputs = true"), ("first", "keep-outputs = 0")];
        check(&user, &[], (true, false));
        let both = [("first", "keep-outputs = yes"), ("second", "keep-outputs = no")];
        check(&both, &[], (true, true));
        check(&both, &[("NIX_CONFIG", "keep-outputs = false")], (true, false));
        check(&[("nix.conf", "#keep-outputs = true\nkeep-outputs = maybe")], &[], (true, false));
    }

    #[test]
    fn included_files_count_and_circles_end() {
        let here = ("nix.conf", "include more.conf\n!include missing.conf");
        check(&[here, ("more.conf", "keep-outputs = true\ninclude nix.conf")], &[], (true, true));
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_everything_from_being_deleted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("nix.conf")).unwrap();
        let read = Settings::read(|name| (name == "NIX_CONF_DIR").then(|| folder.path().into()));
        assert!(read.is_err());
    }
}
