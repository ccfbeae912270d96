//! Roots that outlive the process: what no garbage collector may remove.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::{Component, Path, PathBuf},
};

use shared::nix::{
    StorePath, base32,
    hash::{Algorithm, Hasher},
};

use super::{LocalStore, LocalStoreError, layout::io_error};
use crate::folder::{create_dir, sync_parent};

/// Our own folder below `gcroots`.
const FOLDER: &str = "shoal";

impl LocalStore {
    /// Keeps `path` from the garbage collector by the permanent root `gcroots/shoal/<name>`.
    ///
    /// Replaces a root of that name. `name` may have several components.
    ///
    /// # Errors
    /// When the root cannot be written.
    pub fn add_root(&self, name: &str, path: &StorePath) -> Result<(), LocalStoreError> {
        // A collector that has read the roots already hears of the path this way.
        self.add_temp_roots(&[path.clone()].into())?;
        let link = self.own_root(name)?;
        if let Some(folder) = link.parent() {
            create_dir(folder).map_err(io_error("make", folder))?;
        }
        replace_symlink(Path::new(&path.to_string()), &link)
    }

    /// Removes the permanent root `gcroots/shoal/<name>`, if it is there.
    ///
    /// What it kept is kept as a temporary root as long as this process has the store open: a
    /// collector that runs now may have looked for another root of it before that was made.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_root(&self, name: &str) -> Result<(), LocalStoreError> {
        let link = self.own_root(name)?;
        let target = fs::read_link(&link).ok();
        if let Some(path) = target.and_then(|target| StorePath::parse(target.to_str()?).ok()) {
            self.add_temp_roots(&[path].into())?;
        }
        // A collector takes it for a root as well.
        remove(&temporary(&link))?;
        if remove(&link)? {
            sync_parent(&link).map_err(io_error("sync the folder of", &link))?;
        }
        Ok(())
    }

    /// Returns what the permanent root `gcroots/shoal/<name>` keeps, if it is there.
    ///
    /// # Errors
    /// When it cannot be read, or is no link to a store path.
    pub fn root_target(&self, name: &str) -> Result<Option<StorePath>, LocalStoreError> {
        let link = self.own_root(name)?;
        match fs::read_link(&link) {
            Ok(target) => target
                .to_str()
                .and_then(|target| StorePath::parse(target).ok())
                .map(Some)
                .ok_or_else(|| io_error("read", &link)(io::ErrorKind::InvalidData.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &link)(error)),
        }
    }

    /// Registers the symlink `link`, anywhere, as an indirect root.
    ///
    /// # Errors
    /// When the root cannot be written.
    pub fn add_indirect_root(&self, link: &Path) -> Result<(), LocalStoreError> {
        let link = std::path::absolute(link).map_err(io_error("resolve", link))?;
        let mut hasher = Hasher::new(Algorithm::Sha1);
        hasher.update(link.as_os_str().as_bytes());
        let folder = self.layout.roots_dir().join("auto");
        create_dir(&folder).map_err(io_error("make", &folder))?;
        replace_symlink(&link, &folder.join(base32::encode(hasher.finish().as_bytes())))
    }

    fn own_root(&self, name: &str) -> Result<PathBuf, LocalStoreError> {
        let folder = self.layout.roots_dir().join(FOLDER);
        let plain = |part| matches!(part, Component::Normal(_));
        let relative = Path::new(name);
        if name.is_empty() || !relative.components().all(plain) {
            return Err(io_error("name a root", relative)(io::ErrorKind::InvalidInput.into()));
        }
        Ok(folder.join(relative))
    }
}

/// Makes `link` point to `target` in one step, and puts it on disk.
///
/// Whatever lies below `gcroots` is a root, also what a dead process left there: so a temporary link
/// is made only where there is a link already, and always by the same name, which the next one to
/// change or remove that link clears away. Where two do so at once, one of them is the last.
fn replace_symlink(target: &Path, link: &Path) -> Result<(), LocalStoreError> {
    let temporary = temporary(link);
    // Whoever made one that is there may have died before it was on disk: that is not left to chance.
    while fs::read_link(link).ok().as_deref() != Some(target) {
        remove(&temporary)?;
        let made = symlink(target, link).or_else(|error| {
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            symlink(target, &temporary).and_then(|()| fs::rename(&temporary, link))
        });
        match made {
            Ok(()) => break,
            // Somebody else has replaced or taken our temporary link.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) && link.parent().is_some_and(Path::is_dir) => {}
            Err(error) => return Err(io_error("link", link)(error)),
        }
    }
    sync_parent(link).map_err(io_error("sync the folder of", link))
}

/// Returns where the next target of `link` is put together.
fn temporary(link: &Path) -> PathBuf {
    let mut name = OsString::from(".tmp-");
    name.push(link.file_name().unwrap_or_default());
    link.with_file_name(name)
}

/// Removes a file or link; returns whether it was there.
fn remove(path: &Path) -> Result<bool, LocalStoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("remove", path)(error)),
    }
}
