//! The files of a realm: byte for byte the URL space, so that a copy of the folder is a mirror.
//!
//! [`FileName`] is the only way to name a file in it, for readers over HTTP and for ourselves, so
//! nothing that is not part of the URL space is ever served or written.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use shared::{
    closure, hints,
    id::{Digest, RoleName, TargetPath},
    nix::Sha256,
};

use crate::{
    files::{self, Existing, Readers, WriteError},
    realm::Stamp,
};

/// The longest file of metadata, as the agent reads it.
const MAX_METADATA: usize = 4 * 1024 * 1024;

/// The longest target, shard included.
const MAX_TARGET: usize = 64 * 1024;

/// The name of a file below `/r/<realm>/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum FileName {
    /// `metadata/timestamp.json`: what is current.
    Timestamp,
    /// `metadata/<version>.<role>.json`.
    Metadata { version: u64, role: String },
    /// `targets/<group>/<sha256>.<profile>`.
    Target { path: TargetPath, digest: Digest },
    /// `closures/<digest>`.
    Closure(Digest),
    /// `closures/<digest>.hints`.
    Hints(Digest),
    /// `shards/<digest>`.
    Shard(Digest),
}

/// Whether a file can ever change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Never,
    AnyTime,
}

impl FileName {
    /// Returns the name of a version of a role.
    pub(crate) fn metadata(version: u64, role: &str) -> Self {
        Self::Metadata { version, role: role.to_owned() }
    }

    /// Understands a path below `/r/<realm>/`; whatever is none of ours is none.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (folder, rest) = path.split_once('/')?;
        match folder {
            "metadata" => Self::parse_metadata(rest),
            "targets" => Self::parse_target(rest),
            "closures" => match rest.strip_suffix(".hints") {
                Some(digest) => Digest::parse(digest).ok().map(Self::Hints),
                None => Digest::parse(rest).ok().map(Self::Closure),
            },
            "shards" => Digest::parse(rest).ok().map(Self::Shard),
            _ => None,
        }
    }

    fn parse_metadata(name: &str) -> Option<Self> {
        if name == "timestamp.json" {
            return Some(Self::Timestamp);
        }
        let (number, role) = name.strip_suffix(".json")?.split_once('.')?;
        let version: u64 = number.parse().ok().filter(|version| *version > 0)?;
        let known = matches!(role, "root" | "targets" | "snapshot");
        let ours = version.to_string() == number && (known || RoleName::parse(role).is_ok());
        ours.then(|| Self::metadata(version, role))
    }

    fn parse_target(name: &str) -> Option<Self> {
        let (group, file) = name.split_once('/')?;
        let (digest, last) = file.split_once('.')?;
        let path = TargetPath::parse(&format!("{group}/{last}")).ok()?;
        Some(Self::Target { path, digest: Digest::parse(digest).ok()? })
    }

    /// Returns the path below `/r/<realm>/`.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Timestamp => "metadata/timestamp.json".to_owned(),
            Self::Metadata { version, role } => format!("metadata/{version}.{role}.json"),
            Self::Target { path, digest } => {
                format!("targets/{}", path.file_name(&Sha256::from(*digest)))
            }
            Self::Closure(digest) => format!("closures/{digest}"),
            Self::Hints(digest) => format!("closures/{digest}.hints"),
            Self::Shard(digest) => format!("shards/{digest}"),
        }
    }

    /// Returns the digest in the name, which is that of the bytes.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Target { digest, .. } | Self::Closure(digest) | Self::Shard(digest) => {
                Some(*digest)
            }
            Self::Timestamp | Self::Metadata { .. } | Self::Hints(_) => None,
        }
    }

    /// Returns whether the file can ever change under this name.
    pub(crate) fn change(&self) -> Change {
        match self {
            Self::Timestamp | Self::Hints(_) => Change::AnyTime,
            Self::Metadata { .. } | Self::Target { .. } | Self::Closure(_) | Self::Shard(_) => {
                Change::Never
            }
        }
    }

    /// Returns the most bytes that such a file can have.
    pub(crate) fn max_len(&self) -> usize {
        match self {
            Self::Timestamp | Self::Metadata { .. } => MAX_METADATA,
            Self::Target { .. } | Self::Shard(_) => MAX_TARGET,
            Self::Closure(_) => closure::MAX_LEN,
            Self::Hints(_) => hints::MAX_LEN,
        }
    }
}

/// The folder `r/<realm>`.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Takes the folder of a realm, which need not be there yet.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Returns where a file lies.
    pub(crate) fn file(&self, name: &FileName) -> PathBuf {
        self.folder.join(name.path())
    }

    /// Reads a file, or finds that there is none.
    pub(crate) fn read(&self, name: &FileName) -> io::Result<Option<Vec<u8>>> {
        Ok(self.read_stamped(name)?.map(|(bytes, _)| bytes))
    }

    /// Reads a file, with what told it from others when that began.
    pub(crate) fn read_stamped(&self, name: &FileName) -> io::Result<Option<(Vec<u8>, Stamp)>> {
        let file = match File::open(self.file(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stamp = Stamp::of(&file.metadata()?);
        let max = name.max_len();
        let mut bytes = Vec::new();
        file.take(max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > max {
            let message = format!("`{}` is longer than {max} bytes", name.path());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Some((bytes, stamp)))
    }

    /// Returns whether a file is there.
    pub(crate) fn has(&self, name: &FileName) -> bool {
        self.file(name).is_file()
    }

    /// Writes a file so that it survives a power cut, whole or not at all.
    pub(crate) fn write(&self, name: &FileName, bytes: &[u8]) -> Result<(), WriteError> {
        let path = self.file(name);
        let folder = path.parent().unwrap_or(&self.folder);
        self.make_folder(folder)
            .map_err(|source| WriteError { path: folder.to_owned(), source })?;
        files::write(&path, bytes, Readers::All, Existing::Replace)
    }

    /// Removes a file that nothing refers to.
    pub(crate) fn remove(&self, name: &FileName) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    /// Returns all versions of all roles that lie in the folder, committed or not.
    pub(crate) fn list_metadata(&self) -> io::Result<Vec<FileName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder.join("metadata"))? {
            let file_name = entry?.file_name();
            names.extend(file_name.to_str().and_then(FileName::parse_metadata));
        }
        Ok(names)
    }

    /// Removes what an interrupted write left: files whose names begin with a dot.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        sweep(&self.folder)
    }

    /// Makes a folder of this realm durable, and what is missing above it.
    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let parent = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        self.make_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        File::open(parent)?.sync_all()
    }
}

fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with('.') {
            tracing::info!(path = %entry.path().display(), "removing an interrupted write");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        let digest = Digest([5; 32]);
        for path in [
            "metadata/timestamp.json".to_owned(),
            "metadata/1.root.json".to_owned(),
            "metadata/4294967295.owners.eu-prod.json".to_owned(),
            "metadata/7.webshop.ci.json".to_owned(),
            format!("targets/eu-prod/{digest}.webshop"),
            format!("targets/eu-prod/{digest}._policy"),
            format!("closures/{digest}"),
            format!("closures/{digest}.hints"),
            format!("shards/{digest}"),
        ] {
            assert_eq!(FileName::parse(&path).expect(&path).path(), path);
        }
    }

    #[test]
    fn nothing_else_has_a_name() {
        let digest = Digest([5; 32]);
        for path in [
            "",
            "metadata",
            "metadata/",
            "metadata/root.json",
            "metadata/0.root.json",
            "metadata/01.root.json",
            "metadata/+1.root.json",
            "metadata/1.timestamp.json",
            "metadata/1.../../x.json",
            "metadata/.1.root.json.0123",
            "metadata/1.root.json.tmp",
            "../keys/timestamp.pem",
            "closures/../../../keys/timestamp.pem",
            "closures/short",
            &format!("closures/{digest}.hints.hints"),
            &format!("targets/{digest}.webshop"),
            &format!("targets/../{digest}.webshop"),
            &format!("targets/eu-prod/{digest}._other"),
            &format!("targets/eu-prod/x/{digest}.webshop"),
            &format!("other/{digest}"),
        ] {
            assert_eq!(FileName::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_sweep_removes_interrupted_writes_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(root.path().join("r/main"));
        let name = FileName::metadata(1, "root");
        blobs.write(&name, b"{}").unwrap();
        let temporary = root.path().join("r/main/metadata/.2.root.json.00ff");
        fs::write(&temporary, b"{").unwrap();
        blobs.sweep().unwrap();
        assert!(!temporary.exists());
        assert_eq!(blobs.read(&name).unwrap().unwrap(), b"{}");
        assert_eq!(blobs.list_metadata().unwrap(), [name]);
    }
}
