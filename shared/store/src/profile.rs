//! Profiles: a link that is switched between numbered generations, exactly as Nix does it.
//!
//! Beside the link `P` lie its generations, links `P-<number>-link` to store paths; `P` itself is
//! a relative link to one of them. Every change happens under `P.lock`, by one `rename(2)`, and is
//! on disk when it returns. `nix-env --set` does not take the lock, so a generation may appear at
//! any moment.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, symlink},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use shared::nix::StorePath;

use crate::{
    folder::create_dir,
    lock::{LockError, LockFile},
};

/// How long another process may hold the lock of a profile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a profile could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file system failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// No usable path for a profile.
    #[error("`{}` cannot be a profile: its last part must be a name in UTF-8", .0.display())]
    Path(PathBuf),
    /// No such generation.
    #[error("profile `{}` has no generation {number}", .profile.display())]
    NoGeneration {
        /// The profile.
        profile: PathBuf,
        /// The number asked for.
        number: u64,
    },
    /// Nothing to roll back to.
    #[error("profile `{}` has no generation older than the current one", .0.display())]
    NoOlderGeneration(PathBuf),
    /// The current generation is never deleted.
    #[error("generation {number} of profile `{}` is the current one", .profile.display())]
    Current {
        /// The profile.
        profile: PathBuf,
        /// The current generation.
        number: u64,
    },
    /// The lock was not taken.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// One generation of a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// What it points to.
    pub path: StorePath,
    /// When it was made.
    pub created: Timestamp,
}

/// A profile by the path of its link; need not exist yet.
#[derive(Debug, Clone)]
pub struct Profile {
    link: PathBuf,
    folder: PathBuf,
    name: String,
}

impl Profile {
    /// Names the profile whose link is at `link`.
    ///
    /// # Errors
    /// When `link` cannot be one.
    pub fn open(link: &Path) -> Result<Self, ProfileError> {
        let unusable = || ProfileError::Path(link.to_owned());
        let link = std::path::absolute(link).map_err(|_| unusable())?;
        let name = link.file_name().and_then(|name| name.to_str()).ok_or_else(unusable)?.to_owned();
        let folder = link.parent().ok_or_else(unusable)?.to_owned();
        Ok(Self { link, folder, name })
    }

    /// Returns the path of the link.
    #[must_use]
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// Returns the path of the link of generation `number`.
    #[must_use]
    pub fn generation_link(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{}-{number}-link", self.name))
    }

    /// Returns all generations, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn generations(&self) -> Result<Vec<Generation>, ProfileError> {
        let mut generations = Vec::new();
        for number in self.numbers()? {
            // One that was deleted meanwhile, or leads elsewhere, is none.
            generations.extend(self.generation(number)?);
        }
        Ok(generations)
    }

    /// Returns the generation that the link points to, if there is one.
    ///
    /// # Errors
    /// When the link cannot be read, or leads to a generation that is gone.
    pub fn current(&self) -> Result<Option<Generation>, ProfileError> {
        let target = match fs::read_link(&self.link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &self.link)(error)),
        };
        let number = target.file_name().and_then(|name| self.parse_number(name.to_str()?));
        let Some(number) = number else { return Ok(None) };
        self.existing(number).map(Some)
    }

    /// Makes `path` the current generation: the highest, if that is it, else a new one.
    ///
    /// On disk when it returns. The folder is made if it is missing.
    ///
    /// # Errors
    /// When the lock stays busy or the file system fails; the link is as it was, then.
    pub fn set(&self, path: &StorePath) -> Result<Generation, ProfileError> {
        create_dir(&self.folder).map_err(io_error("make", &self.folder))?;
        let _lock = self.lock()?;
        let number = self.make_generation(path)?;
        self.point_to(number)
    }

    /// Makes generation `number` the current one.
    ///
    /// # Errors
    /// When there is none of that number, the lock stays busy or the file system fails.
    pub fn switch_to(&self, number: u64) -> Result<Generation, ProfileError> {
        let _lock = self.lock()?;
        self.point_to(number)
    }

    /// Makes the highest generation below the current one the current one.
    ///
    /// # Errors
    /// When there is none, the lock stays busy or the file system fails.
    pub fn rollback(&self) -> Result<Generation, ProfileError> {
        let _lock = self.lock()?;
        let none = || ProfileError::NoOlderGeneration(self.link.clone());
        let current = self.current()?.ok_or_else(none)?.number;
        let older = self.generations()?.into_iter().rev().find(|older| older.number < current);
        self.point_to(older.ok_or_else(none)?.number)
    }

    /// Deletes generations by number; those that are gone already do not matter.
    ///
    /// # Errors
    /// When one is the current generation (then none is deleted), or the file system fails.
    pub fn delete(&self, numbers: &[u64]) -> Result<(), ProfileError> {
        let _lock = self.lock()?;
        if let Some(current) = self.current()? {
            let number = current.number;
            if numbers.contains(&number) {
                return Err(ProfileError::Current { profile: self.link.clone(), number });
            }
        }
        for number in numbers {
            remove_link(&self.generation_link(*number))?;
        }
        self.sync()
    }

    /// Removes the link and all generations; a profile that is gone already does not matter.
    ///
    /// # Errors
    /// When the lock stays busy or the file system fails.
    pub fn remove(&self) -> Result<(), ProfileError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        // The link first: what it leads to is whole as long as it is there.
        remove_link(&self.link)?;
        self.sync()?;
        for number in self.numbers()? {
            remove_link(&self.generation_link(number))?;
        }
        self.sync()
    }

    fn lock(&self) -> Result<LockFile, ProfileError> {
        let path = self.folder.join(format!("{}.lock", self.name));
        Ok(LockFile::acquire(&path, PATIENCE)?)
    }

    /// Returns the number of generation link `file_name`.
    fn parse_number(&self, file_name: &str) -> Option<u64> {
        let digits =
            file_name.strip_prefix(&self.name)?.strip_prefix('-')?.strip_suffix("-link")?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    }

    /// Returns the numbers that are taken, in rising order.
    fn numbers(&self) -> Result<Vec<u64>, ProfileError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &self.folder)(error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(io_error("read", &self.folder))?.file_name();
            numbers.extend(name.to_str().and_then(|name| self.parse_number(name)));
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Reads one generation; none if it does not exist or does not lead to a store path.
    fn generation(&self, number: u64) -> Result<Option<Generation>, ProfileError> {
        let link = self.generation_link(number);
        let read = fs::read_link(&link).and_then(|target| Ok((target, link.symlink_metadata()?)));
        let (target, metadata) = match read {
            Ok(found) => found,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(io_error("read", &link)(error)),
        };
        let path = std::str::from_utf8(target.as_os_str().as_bytes())
            .ok()
            .and_then(|target| StorePath::parse(target).ok());
        let created = Timestamp::from_second(metadata.mtime()).unwrap_or_default();
        Ok(path.map(|path| Generation { number, path, created }))
    }

    fn existing(&self, number: u64) -> Result<Generation, ProfileError> {
        self.generation(number)?
            .ok_or_else(|| ProfileError::NoGeneration { profile: self.link.clone(), number })
    }

    /// Returns the number of the highest generation if it is `path`, else of a new one.
    fn make_generation(&self, path: &StorePath) -> Result<u64, ProfileError> {
        loop {
            let highest = self.numbers()?.pop();
            if let Some(number) = highest
                && self.generation(number)?.is_some_and(|generation| generation.path == *path)
            {
                return Ok(number);
            }
            let number = highest.unwrap_or(0).saturating_add(1);
            let link = self.generation_link(number);
            match symlink(path.to_string(), &link) {
                // On disk before anything points to it.
                Ok(()) => return self.sync().map(|()| number),
                // A `nix-env --set`, which takes no lock, was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("make", &link)(error)),
            }
        }
    }

    fn point_to(&self, number: u64) -> Result<Generation, ProfileError> {
        let generation = self.existing(number)?;
        let target = format!("{}-{number}-link", self.name);
        // A name that Nix does not use: `nix-env --set` takes no lock. Only a dead process can have
        // left this one, since whoever lives holds the lock.
        let temporary = self.folder.join(format!(".shoal_{}", self.name));
        remove_link(&temporary)?;
        if !fs::read_link(&self.link).is_ok_and(|present| present == Path::new(&target)) {
            symlink(&target, &temporary).map_err(io_error("make", &temporary))?;
            fs::rename(&temporary, &self.link).map_err(io_error("switch", &self.link))?;
        }
        self.sync()?;
        Ok(generation)
    }

    fn sync(&self) -> Result<(), ProfileError> {
        fs::File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("sync", &self.folder))
    }
}

fn remove_link(link: &Path) -> Result<(), ProfileError> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", link)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ProfileError + 'a {
    move |source| ProfileError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
