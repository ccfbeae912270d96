//! Reports on their way: on disk until a registry has taken them.
//!
//! One file a report, named by its number, so that they go out in the order in which they were
//! written. A report that tells of an attempt's end stays until it is taken; any other is of no
//! use once there is a newer one, so a registry that is away for a week finds the newest state and
//! each end, and no heap of heartbeats. What does not fit is dropped, the oldest first and the
//! newest never. On a disk that takes nothing the reports are kept in memory alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use shared::problem::chain;
use shared::report::{self, Report};

use super::send::Told;
use crate::files::{self, FileError};

/// The folder below `state_dir`.
const FOLDER: &str = "outbox";

/// Most files that could not be read or that no registry will ever take; they are for people.
const MAX_ASIDE: usize = 16;

/// What a waiting report is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// It tells of the end of an attempt, which no later report repeats.
    End,
    /// It tells how the host is; the next one tells it better.
    State,
}

impl Worth {
    const fn word(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::State => "state",
        }
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) reports: usize,
    pub(super) bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { reports: 256, bytes: 4 << 20 }
    }
}

/// A report that no registry has taken yet; unsigned, because it may have to be numbered anew.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) report: Report,
    pub(super) worth: Worth,
}

/// The reports of one host that wait.
#[derive(Debug)]
pub(crate) struct Outbox {
    folder: PathBuf,
    room: Room,
    /// What the disk did not take.
    unsaved: BTreeMap<u64, Waiting>,
    /// What was numbered and told, as this process knows it, whatever the disk took.
    pub(super) told: Told,
}

impl Outbox {
    /// Looks into the outbox of the agent with this `state_dir`; makes nothing yet.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self::with(state_dir, Room::default())
    }

    pub(super) fn with(state_dir: &Path, room: Room) -> Self {
        let (folder, unsaved) = (state_dir.join(FOLDER), BTreeMap::new());
        Self { folder, room, unsaved, told: Told::default() }
    }

    /// Waits until no other process numbers reports.
    ///
    /// A disk without room for the lock's file is no reason to report nothing.
    pub(super) fn lock(&self) -> Option<File> {
        files::lock(&self.folder.join("lock")).ok()
    }

    /// Returns what keeps other processes from sending; nothing if one of them is at it.
    pub(super) fn lock_sending(&self) -> Result<Option<File>, FileError> {
        files::try_lock(&self.folder.join("sending"))
    }

    /// Keeps a report until it is taken; when this returns well it is on the disk.
    ///
    /// # Errors
    /// When the disk did not take it; it waits in memory then.
    pub(super) fn put(&mut self, waiting: Waiting) -> Result<(), FileError> {
        let number = waiting.report.counter;
        let written = self.write(&waiting);
        if written.is_err() {
            self.unsaved.insert(number, waiting);
        }
        self.tidy(number);
        written
    }

    /// Returns the oldest report that waits; what cannot be read is set aside.
    pub(super) fn next(&self) -> Option<Waiting> {
        let (number, saved) = self.list().into_iter().next()?;
        match saved {
            Saved::No => self.unsaved.get(&number).cloned(),
            Saved::As(path, worth, _) => match read(&path) {
                Some(report) if report.counter == number => Some(Waiting { report, worth }),
                Some(_) | None => {
                    self.set_aside(number);
                    self.next()
                }
            },
        }
    }

    /// Forgets a report that was taken.
    pub(super) fn taken(&mut self, number: u64) {
        self.forget(number);
    }

    /// Keeps a report that no registry will ever take where people find it.
    pub(super) fn set_aside(&self, number: u64) {
        for (found, saved) in self.list() {
            let Saved::As(path, ..) = saved else { continue };
            if found == number {
                let aside = path.with_extension("aside");
                tracing::warn!(path = %aside.display(), "a report that cannot be sent is set aside");
                if let Err(error) = std::fs::rename(&path, &aside) {
                    tracing::debug!(%error, "it cannot be set aside");
                    drop(std::fs::remove_file(&path));
                }
            }
        }
        let mut aside = self.names("aside");
        aside.sort();
        let excess = aside.len().saturating_sub(MAX_ASIDE);
        for path in aside.iter().take(excess) {
            drop(std::fs::remove_file(path));
        }
    }

    /// Numbers all that waits anew, in its order, each above `highest`; the first one answers with
    /// this nonce. Returns the last number.
    ///
    /// # Errors
    /// When the disk did not take one; that one waits in memory.
    pub(super) fn challenged(&mut self, nonce: &str, highest: u64) -> Result<u64, FileError> {
        let mut number = highest;
        let mut failure = None;
        let mut nonce = Some(nonce.to_owned());
        let waiting: Vec<Waiting> = self
            .list()
            .into_iter()
            .filter_map(|(number, saved)| self.load(number, &saved))
            .collect();
        for old in waiting {
            number = number.saturating_add(1).max(old.report.counter);
            let renumbered = Waiting {
                report: Report { counter: number, nonce: nonce.take(), ..old.report.clone() },
                worth: old.worth,
            };
            // The new one first: a crash leaves it twice, and the registry tells them apart.
            if let Err(error) = self.write(&renumbered) {
                self.unsaved.insert(number, renumbered);
                failure = Some(error);
            }
            if old.report.counter != number {
                self.forget(old.report.counter);
            }
        }
        failure.map_or(Ok(number), Err)
    }

    /// Returns the highest number that waits.
    pub(super) fn last(&self) -> Option<u64> {
        self.list().into_keys().next_back()
    }

    fn load(&self, number: u64, saved: &Saved) -> Option<Waiting> {
        match saved {
            Saved::No => self.unsaved.get(&number).cloned(),
            Saved::As(path, worth, _) => Some(Waiting { report: read(path)?, worth: *worth }),
        }
    }

    fn write(&self, waiting: &Waiting) -> Result<(), FileError> {
        let Waiting { report, worth } = waiting;
        let path = self.folder.join(format!("{:020}.{}", report.counter, worth.word()));
        files::replace(&path, &serde_json::to_vec(report).unwrap_or_default())
    }

    /// Drops what the report `newest` makes useless, and what there is no room for.
    fn tidy(&mut self, newest: u64) {
        let worth = |outbox: &Self, number: u64, saved: &Saved| match saved {
            Saved::As(_, worth, _) => Some(*worth),
            Saved::No => outbox.unsaved.get(&number).map(|waiting| waiting.worth),
        };
        let mut waiting = self.list();
        let old: Vec<u64> = waiting
            .iter()
            .filter(|(number, saved)| {
                **number < newest && worth(self, **number, saved) == Some(Worth::State)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in old {
            waiting.remove(&number);
            self.forget(number);
        }
        let mut bytes: u64 = waiting.values().map(Saved::len).sum();
        let mut dropped = 0;
        while waiting.len() > 1 && (waiting.len() > self.room.reports || bytes > self.room.bytes) {
            let Some((number, saved)) = waiting.pop_first() else { break };
            bytes = bytes.saturating_sub(saved.len());
            self.forget(number);
            dropped += 1;
        }
        if dropped > 0 {
            tracing::warn!(dropped, "the outbox is full; the oldest reports are dropped");
        }
    }

    fn forget(&mut self, number: u64) {
        self.unsaved.remove(&number);
        for worth in [Worth::End, Worth::State] {
            let path = self.folder.join(format!("{number:020}.{}", worth.word()));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a report stays in the outbox");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Returns what waits, oldest first.
    fn list(&self) -> BTreeMap<u64, Saved> {
        let mut list: BTreeMap<u64, Saved> =
            self.unsaved.keys().map(|number| (*number, Saved::No)).collect();
        for worth in [Worth::State, Worth::End] {
            for path in self.names(worth.word()) {
                let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
                let len = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                if let Some(number) = number {
                    list.insert(number, Saved::As(path, worth, len));
                }
            }
        }
        list
    }

    fn names(&self, extension: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|it| it == extension)).collect()
    }
}

/// Where a waiting report is.
enum Saved {
    /// In memory.
    No,
    /// In a file of so many bytes.
    As(PathBuf, Worth, u64),
}

impl Saved {
    const fn len(&self) -> u64 {
        match self {
            Self::No => 0,
            Self::As(_, _, len) => *len,
        }
    }
}

fn read(path: &Path) -> Option<Report> {
    let bytes = match files::read(path, report::MAX_LEN as u64) {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::debug!(error = %chain(&error), "a report cannot be read");
            return None;
        }
    };
    Report::parse(&bytes).ok()
}

#[cfg(test)]
pub(super) mod tests;
