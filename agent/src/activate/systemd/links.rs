//! The symlinks by which a manager finds the units of a profile.
//!
//! They are the whole truth about what is installed: nothing else is written down, but the steps
//! that were begun and not ended. Both lie in folders that a reboot empties.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::id::ProfileName;

use super::unit::UnitName;

/// A unit that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linked {
    /// Where the link leads.
    pub(crate) target: PathBuf,
    /// What is there, if anything still is.
    pub(crate) content: Option<Vec<u8>>,
}

/// Units whose turn was to come when a run died: whoever comes next takes their turn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pending {
    /// To be started.
    pub(crate) start: BTreeSet<String>,
    /// To be restarted.
    pub(crate) restart: BTreeSet<String>,
    /// To be reloaded.
    pub(crate) reload: BTreeSet<String>,
}

impl Pending {
    /// Adds more that is to be done; each unit once, by what does most.
    pub(crate) fn add(&mut self, more: Self) {
        self.start.extend(more.start);
        self.restart.extend(more.restart);
        self.reload.extend(more.reload);
        self.restart.retain(|unit| !self.start.contains(unit));
        self.reload.retain(|unit| !self.start.contains(unit) && !self.restart.contains(unit));
    }
}

/// The folder in which one manager looks for units.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    /// The manager's folder.
    folder: PathBuf,
    /// A folder of ours beside it.
    pending: PathBuf,
    /// Where every link of ours leads to.
    store: PathBuf,
}

impl Links {
    /// Names the folders below a runtime folder: `/run`, or that of a user.
    pub(crate) fn new(runtime: &Path, is_user: bool, store: PathBuf) -> Self {
        let folder = runtime.join("systemd").join(if is_user { "user" } else { "system" });
        Self { folder, pending: runtime.join("shoal"), store }
    }

    /// Returns the folder of the links.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the units of a profile that are installed.
    ///
    /// What bears a name of the profile's and is no link into the store, somebody else put there:
    /// it is left alone, and so it is in the way.
    pub(crate) fn read(&self, profile: &ProfileName) -> io::Result<BTreeMap<UnitName, Linked>> {
        let mut linked = BTreeMap::new();
        for entry in list(&self.folder)? {
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|it| UnitName::parse(it, profile).ok()) else {
                continue;
            };
            if let Ok(target) = fs::read_link(entry.path())
                && target.starts_with(&self.store)
            {
                let content = fs::read(&target).ok();
                linked.insert(name, Linked { target, content });
            }
        }
        Ok(linked)
    }

    /// Makes or replaces a link.
    pub(crate) fn set(&self, name: &UnitName, target: &Path) -> io::Result<()> {
        let link = self.folder.join(name.as_str());
        match fs::read_link(&link) {
            Ok(current) if current == target => return Ok(()),
            Ok(current) if current.starts_with(&self.store) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Not ours.
            Ok(_) | Err(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        fs::create_dir_all(&self.folder)?;
        // No name of a unit, so that no manager takes it for one.
        let temporary = self.folder.join(format!(".{name}.tmp"));
        drop(fs::remove_file(&temporary));
        symlink(target, &temporary)?;
        fs::rename(&temporary, &link)
    }

    /// Removes a link.
    pub(crate) fn remove(&self, name: &UnitName) -> io::Result<()> {
        fs::remove_file(self.folder.join(name.as_str()))
    }

    /// Returns what a run left undone that died.
    pub(crate) fn pending(&self, profile: &ProfileName) -> Pending {
        let bytes = fs::read(self.pending_file(profile)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes down what is to be done, before the links say that it was.
    pub(crate) fn set_pending(&self, profile: &ProfileName, pending: &Pending) -> io::Result<()> {
        let path = self.pending_file(profile);
        if *pending == Pending::default() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        fs::create_dir_all(&self.pending)?;
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, serde_json::to_vec(pending)?)?;
        fs::rename(&temporary, path)
    }

    fn pending_file(&self, profile: &ProfileName) -> PathBuf {
        self.pending.join(format!("{profile}.json"))
    }
}

fn list(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
