//! The journal: one file per profile, written before each action that changes the host.
//!
//! A file is replaced as a whole and is on disk before anything acts on it. Space for the writes
//! of one switch is reserved before it begins, so that a disk that fills up meanwhile cannot keep
//! us from writing down how it ended.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use shared::id::ProfileName;
use store::disk;

use crate::files::{self, FileError};
use crate::state::Profile;

/// The version of the format.
const FORMAT: u32 = 1;

/// Longest journal of one profile in bytes; also what is reserved for one write.
const MAX_LEN: u64 = 64 * 1024;

/// Writes for which space is reserved: more than one switch and its rollback need.
const RESERVED_WRITES: usize = 8;

/// Why the journal could not be read or written. Nothing is changed on the host then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A journal that is not what we wrote.
    #[error("`{}` is not a journal of this agent", path.display())]
    Corrupt { path: PathBuf, source: serde_json::Error },
    /// Written by another version of the agent.
    #[error("`{}` has format {format}, this agent reads format {FORMAT}", path.display())]
    Format { path: PathBuf, format: u32 },
    /// The journal of another profile under this name.
    #[error("`{}` is the journal of `{found}`", path.display())]
    OtherProfile { path: PathBuf, found: ProfileName },
    /// More than can be reserved for.
    #[error("the journal of `{0}` would be larger than {MAX_LEN} bytes")]
    TooLong(ProfileName),
}

impl JournalError {
    /// Tells whether the file was read, and is of no use: no later version will read it either.
    pub(crate) const fn is_lost(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::OtherProfile { .. } => true,
            Self::File(_) | Self::Format { .. } | Self::TooLong(_) => false,
        }
    }
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<P> {
    format: u32,
    profile: P,
}

/// The journals of all profiles.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Names the journal of the agent with this state folder.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join("journal") }
    }

    /// Reads the journal of a profile, if it has one.
    pub(crate) fn read(&self, name: &ProfileName) -> Result<Option<Profile>, JournalError> {
        let path = self.path(name);
        let Some(bytes) = files::read(&path, MAX_LEN)? else { return Ok(None) };
        let corrupt = |source| JournalError::Corrupt { path: path.clone(), source };
        let Header { format } = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if format != FORMAT {
            return Err(JournalError::Format { path, format });
        }
        let written: Written<Profile> = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if written.profile.name != *name {
            return Err(JournalError::OtherProfile { path, found: written.profile.name });
        }
        Ok(Some(written.profile))
    }

    /// Replaces the journal of a profile; on disk when it returns.
    pub(crate) fn write(&self, profile: &Profile) -> Result<(), JournalError> {
        let path = self.path(&profile.name);
        let bytes = serde_json::to_vec(&Written { format: FORMAT, profile })
            .map_err(|source| JournalError::Corrupt { path: path.clone(), source })?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(JournalError::TooLong(profile.name.clone()));
        }
        match files::replace(&path, &bytes) {
            Err(error) if disk::is_full(&error) => Ok(self.write_into_reserve(&path, &bytes)?),
            done @ (Ok(()) | Err(_)) => Ok(done?),
        }
    }

    /// Makes sure that the writes of one switch have space. The caller has the host's lock.
    pub(crate) fn reserve(&self) -> Result<(), FileError> {
        files::make_private_folder(&self.folder)?;
        self.sweep();
        for number in 0..RESERVED_WRITES {
            let path = self.reserved(number);
            if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == MAX_LEN) {
                continue;
            }
            let failed = |source| FileError { action: "reserve", path: path.clone(), source };
            let made = open_private(&path).and_then(|file| {
                fallocate(&file, FallocateFlags::empty(), 0, MAX_LEN)?;
                file.sync_all()
            });
            made.map_err(failed).inspect_err(|_| {
                // A part of it is of no use, and its room is.
                drop(std::fs::remove_file(&path));
            })?;
        }
        Ok(())
    }

    /// Returns the names of all profiles that have a journal.
    pub(crate) fn names(&self) -> Result<Vec<ProfileName>, JournalError> {
        let failed = |source| FileError { action: "read", path: self.folder.clone(), source };
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error).into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
            names.extend(stem.and_then(|stem| ProfileName::parse(stem).ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Copies an unreadable journal, for somebody to look at.
    pub(crate) fn copy_aside(&self, name: &ProfileName) -> Result<PathBuf, FileError> {
        let (path, aside) = (self.path(name), self.folder.join(format!("{name}.corrupt")));
        std::fs::copy(&path, &aside).map_err(|source| FileError {
            action: "copy",
            path,
            source,
        })?;
        Ok(aside)
    }

    /// Removes what writers left that died; with the host's lock held, nobody else writes here.
    fn sweep(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                drop(std::fs::remove_file(path));
            }
        }
    }

    fn path(&self, name: &ProfileName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn reserved(&self, number: usize) -> PathBuf {
        self.folder.join(format!(".reserved-{number}"))
    }

    /// Writes over blocks that are ours already, then replaces the journal as always.
    fn write_into_reserve(&self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        let failed = |source| FileError { action: "write", path: path.to_owned(), source };
        let reserved = (0..RESERVED_WRITES)
            .map(|number| self.reserved(number))
            .find(|reserved| reserved.exists())
            .ok_or_else(|| failed(io::ErrorKind::StorageFull.into()))?;
        let write = || {
            let mut file = OpenOptions::new().write(true).open(&reserved)?;
            file.write_all(bytes)?;
            file.set_len(bytes.len() as u64)?;
            file.sync_all()?;
            std::fs::rename(&reserved, path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(failed)
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use shared::health::{Check, Health, Probe};
    use shared::id::{Digest, UserName};
    use shared::nix::StorePath;
    use shared::state_word::StateWord;
    use shared::version::VersionNumber;
    use shared::window::{Window, Windows};

    use super::*;
    use crate::state::{
        Activation, Attempt, Checkup, Code, Desired, EpochVersion, Phase, Reason, Record, Refused,
        Running, State, Target, Wanted,
    };

    fn profile() -> Profile {
        Profile::new(None, ProfileName::parse("web").unwrap(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        assert_eq!(journal.read(&profile().name).unwrap(), None);
        assert!(journal.names().unwrap().is_empty());
        journal.write(&profile()).unwrap();
        journal.reserve().unwrap();
        assert_eq!(journal.read(&profile().name).unwrap(), Some(profile()));
        assert_eq!(journal.names().unwrap(), [profile().name]);
    }

    #[test]
    fn the_largest_profile_that_documents_can_make_fits() {
        let text = |length| "x".repeat(length);
        let check = |number: usize| Check {
            name: format!("c{number}").parse().unwrap(),
            probe: Probe::Command { argv: vec![text(920)] },
            interval: 3600,
            timeout: 3600,
            retries: 1000,
        };
        let checks = (0..4).map(check).collect();
        let health = Health { deadline: 86_400, soak: 604_800, checks };
        assert!(health.problem().is_none() && health.len() > 3900, "{}", health.len());
        let user = Some(UserName::parse("x".repeat(31).as_str()).unwrap());
        let checkup = Checkup { health, user: user.clone(), privileged: false };
        let root = format!("{}-{}", "0".repeat(32), text(211));
        let path = StorePath::from_base_name(&root).unwrap();
        let number = VersionNumber::new(u32::MAX).unwrap();
        let version = EpochVersion { epoch: u32::MAX, version: number };
        let activation = Activation::Exec { timeout: u32::MAX, user, privileged: false };
        let running = |generation| Running {
            version: Some(version),
            path: path.clone(),
            generation,
            activation: activation.clone(),
            checkup: checkup.clone(),
            unsure: false,
        };
        let closure = Digest([255; 32]);
        let (path, activation, checkup) = (path.clone(), activation.clone(), checkup.clone());
        let wanted = Wanted { version, path, closure, activation, checkup };
        let reason = Reason::new(Code::HealthFailed, text(5000));
        let window = Window { cron: "0 2 * * *".into(), zone: text(64), length: 604_800 };
        let windows = Windows { switch: vec![window; 18], ..Windows::default() };
        assert_eq!(windows.check(), Ok(()));
        let mut largest = profile();
        for generation in 1..=40 {
            largest.remember(running(u64::MAX - generation));
        }
        largest.running = Some(running(u64::MAX));
        largest.desired = Desired::Run { wanted: wanted.clone() };
        largest.wanted = Some(wanted.clone());
        largest.windows = vec![windows; 3];
        largest.refused = Some(Refused { version, reason: reason.clone(), at: Timestamp::MAX });
        largest.unhealthy = Some(reason.clone());
        let phase = Phase { word: StateWord::RebootPending, at: Timestamp::MAX };
        let (id, phases, log) = (text(16), vec![phase; 24], "\n".repeat(4096));
        largest.record = Some(Record { id: id.clone(), phases, log });
        let (from, target) = (Some(running(1)), Target::Wanted { wanted });
        let attempt =
            Attempt { id, from, target, boot_id: text(36), starts: u32::MAX, reboots: u32::MAX };
        largest.state = State::RollingBack { attempt, reason, restored: Some(Timestamp::MAX) };
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        journal.write(&largest).unwrap();
        assert_eq!(journal.read(&largest.name).unwrap(), Some(largest));
    }

    #[test]
    fn refuses_a_journal_that_it_did_not_write() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        journal.write(&profile()).unwrap();
        let path = journal.path(&profile().name);
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            text.replace("\"format\":1", "\"format\":2"),
            text.replace("\"refused\"", "\"misspelt\""),
            text.replace("\"name\":\"web\"", "\"name\":\"db\""),
            text[..text.len() / 2].to_owned(),
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(journal.read(&profile().name).is_err());
        }
        assert!(journal.copy_aside(&profile().name).unwrap().exists());
    }

    #[test]
    fn the_reserve_serves_where_the_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path());
        journal.reserve().unwrap();
        let path = journal.path(&profile().name);
        for _ in 0..RESERVED_WRITES {
            journal.write_into_reserve(&path, b"{}").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"{}");
        }
        assert!(journal.write_into_reserve(&path, b"{}").is_err(), "it is used up");
        journal.reserve().unwrap();
        journal.write_into_reserve(&path, b"{}").unwrap();
    }
}
