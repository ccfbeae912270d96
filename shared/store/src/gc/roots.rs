//! The roots that Nix finds: links below `gcroots` and `profiles`, and the temporary roots of
//! processes that live.
//!
//! What they lead to need not be valid; whoever asks the database finds out.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata},
    io::{self, Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use shared::nix::{STORE_DIR, StorePath};

use super::Mode;
use crate::{
    local::{
        LocalStoreError,
        layout::{Layout, io_error},
        temp_roots,
    },
    lock::try_lock,
};

/// Longest file of temporary roots; one of a closure of 250 000 paths has a tenth of it.
const MAX_TEMP_ROOTS: u64 = 512 * 1024 * 1024;

/// Returns the store path that `path`, of any depth, is in.
pub(super) fn store_path_of(path: &[u8], store_dir: &[u8]) -> Option<StorePath> {
    let rest = path.strip_prefix(store_dir)?.strip_prefix(b"/")?;
    let base_name = rest.split(|byte| *byte == b'/').next()?;
    StorePath::from_base_name(std::str::from_utf8(base_name).ok()?).ok()
}

/// Returns what the links and files below `gcroots` and `profiles` keep, as if those in `without`
/// did not exist.
pub(super) fn permanent(
    layout: &Layout,
    mode: Mode,
    without: &BTreeSet<PathBuf>,
) -> Result<BTreeSet<StorePath>, LocalStoreError> {
    let mut roots = BTreeSet::new();
    let look = Look { auto: layout.roots_dir().join("auto"), mode, without };
    // No recursion: users may make folders of any depth in `per-user`. What is on its way from a
    // root to a generation is in one of them at any moment if `profiles`, the last, is read last.
    let mut waiting = vec![layout.state_dir.join("profiles"), layout.roots_dir()];
    while let Some(path) = waiting.pop() {
        match look.at(&path) {
            Ok(Found::Nothing) => {}
            Ok(Found::Folder(entries)) => waiting.extend(entries),
            Ok(Found::Root(root)) => {
                roots.insert(root);
            }
            Err(error) if is_permanent(&error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read a possible root");
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        }
    }
    Ok(roots)
}

enum Found {
    Nothing,
    Folder(Vec<PathBuf>),
    Root(StorePath),
}

impl From<Option<StorePath>> for Found {
    fn from(path: Option<StorePath>) -> Self {
        path.map_or(Self::Nothing, Self::Root)
    }
}

/// How roots are looked at.
struct Look<'a> {
    /// Where stale links are removed.
    auto: PathBuf,
    mode: Mode,
    without: &'a BTreeSet<PathBuf>,
}

impl Look<'_> {
    /// Looks at one entry, and through at most two links.
    fn at(&self, path: &Path) -> io::Result<Found> {
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
            return entries.collect::<io::Result<_>>().map(Found::Folder);
        }
        if kind.is_file() {
            let name = path.file_name().and_then(|name| name.to_str());
            return Ok(name.and_then(|name| StorePath::from_base_name(name).ok()).into());
        }
        if !kind.is_symlink() || self.without.contains(path) {
            return Ok(Found::Nothing);
        }
        let target = fs::read_link(path)?;
        if is_in_store(&target) {
            return Ok(logical(&target).into());
        }
        let link = path.parent().map_or_else(|| target.clone(), |folder| folder.join(&target));
        match there(&link)? {
            Some(metadata) if metadata.is_symlink() && !self.without.contains(&link) => {
                Ok(logical(&fs::read_link(&link)?).into())
            }
            Some(_) => Ok(Found::Nothing),
            None => self.stale(path).map(|()| Found::Nothing),
        }
    }

    /// Removes a link that leads nowhere, where Nix does it too.
    fn stale(&self, path: &Path) -> io::Result<()> {
        if self.mode == Mode::LookOnly || !path.starts_with(&self.auto) {
            return Ok(());
        }
        tracing::debug!(path = %path.display(), "removes a stale root");
        fs::remove_file(path)
    }
}

fn is_in_store(target: &Path) -> bool {
    let rest = target.as_os_str().as_bytes().strip_prefix(STORE_DIR.as_bytes());
    rest.is_some_and(|rest| rest.len() > 1 && rest.starts_with(b"/"))
}

fn logical(target: &Path) -> Option<StorePath> {
    store_path_of(target.as_os_str().as_bytes(), STORE_DIR.as_bytes())
}

fn there(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Returns whether looking again would not help; Nix overlooks such entries too.
fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

/// Returns the temporary roots of all processes that live, and removes the files of dead ones.
///
/// The caller holds `gc.lock`, so what a process adds from now on it says through the socket.
pub(super) fn temporary(
    layout: &Layout,
    mode: Mode,
) -> Result<BTreeSet<StorePath>, LocalStoreError> {
    let folder = layout.temp_roots_dir();
    let mut roots = BTreeSet::new();
    for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
        let entry = entry.map_err(io_error("read", &folder))?;
        let name = entry.file_name();
        // Named by processes; some package managers keep a hidden file there.
        if name.to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
            continue;
        }
        let path = entry.path();
        if let Some(records) = live_records(&path, mode).map_err(io_error("read", &path))? {
            // Whoever is writing a further one waits for us.
            let whole = temp_roots::records(&records);
            roots.extend(whole.filter_map(|record| store_path_of(record, STORE_DIR.as_bytes())));
        }
    }
    Ok(roots)
}

/// Reads a file of temporary roots if its owner lives.
fn live_records(path: &Path, mode: Mode) -> io::Result<Option<Vec<u8>>> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if try_lock(&file, FlockOperation::NonBlockingLockExclusive)? {
        if mode == Mode::Delete {
            // First unlink, then mark: a process that opened it meanwhile sees that it is stale.
            fs::remove_file(path)?;
            (&file).write_all(b"d")?;
        }
        return Ok(None);
    }
    let mut records = Vec::new();
    file.take(MAX_TEMP_ROOTS).read_to_end(&mut records)?;
    Ok(Some(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "9a455acx720hx0zfwn0q7gn8y2jrvllr-x";

    #[test]
    fn a_path_of_any_depth_is_in_a_store_path() {
        let of = |path: &str| store_path_of(path.as_bytes(), b"/nix/store");
        let path = StorePath::from_base_name(NAME).unwrap();
        for inner in ["", "/", "/bin/sh", "/bin/sh (deleted)"] {
            assert_eq!(of(&format!("/nix/store/{NAME}{inner}")).as_ref(), Some(&path));
        }
        for other in
            [format!("/nix/store{NAME}"), format!("nix/store/{NAME}"), "/nix/store/".to_owned()]
        {
            assert_eq!(of(&other), None, "{other}");
        }
        assert_eq!(of(&format!("/nix/store/{NAME} (deleted)")), None);
    }
}
