//! Writing into the folder of a binary cache.
//!
//! A reader may come at any moment, and remembers a missing narinfo for an hour. So the NAR is
//! there before its narinfo, a path after the paths it refers to, and every file appears whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use sha2::Digest as _;
use shared::nix::{
    NarInfo, PathInfo, STORE_DIR, SecretKey, Sha256, StorePath,
    narinfo::{self, Compression, NarInfoError},
};

use super::{
    file,
    info::{CacheInfo, CacheInfoError},
};

/// Level that keeps up with a disk; higher ones cost far more time than they save bytes.
const ZSTD_LEVEL: i32 = 3;
/// What Nix uses; readers need 9 MiB.
const XZ_LEVEL: u32 = 6;

/// Why a path cannot be put into a cache.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A file or folder of the cache cannot be written or read.
    #[error("cannot {what} `{}`", .file.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The folder is a cache for another store directory.
    #[error("cannot use `{}` as a binary cache", .folder.display())]
    Info {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        source: CacheInfoError,
    },
    /// A narinfo that is there cannot be understood.
    #[error("the cache has a bad narinfo for `{path}`")]
    NarInfo {
        /// The path.
        path: StorePath,
        /// What is wrong with it.
        source: NarInfoError,
    },
    /// The cache has other contents under this path.
    #[error("the cache has `{path}` with NAR hash {there}, not {ours}")]
    OtherContents {
        /// The path.
        path: StorePath,
        /// The hash in the cache.
        there: Sha256,
        /// The hash of what was to be written.
        ours: Sha256,
    },
    /// A path would come before one that it refers to.
    #[error("`{path}` refers to `{reference}`, which the cache does not have")]
    MissingReference {
        /// The path.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// This compression can be read but is not written.
    #[error("cannot write with compression `{0}`")]
    Compression(&'static str),
    /// The contents on disk are not what the store's database says.
    #[error("`{path}` has NAR hash {found} on disk, but {known} in the store's database")]
    Corrupt {
        /// The path.
        path: StorePath,
        /// The hash of what is there.
        found: Sha256,
        /// The hash of what should be there.
        known: Sha256,
    },
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there already.
    Present,
    /// It was there already, and now carries the signature as well.
    Signed,
    /// Its NAR was written.
    Written {
        /// Size of the file in bytes.
        file_size: u64,
    },
}

/// A folder that is a binary cache, to write into. Everything here blocks.
#[derive(Debug)]
pub struct CacheWriter {
    folder: PathBuf,
    compression: Compression,
    key: Option<SecretKey>,
}

impl CacheWriter {
    /// Opens a folder, and makes it a cache if it is none yet.
    ///
    /// # Errors
    /// When it cannot be written, belongs to another store directory, or `compression` is one
    /// that is only read.
    pub fn open(
        folder: &Path,
        compression: Compression,
        key: Option<SecretKey>,
    ) -> Result<Self, UploadError> {
        if !matches!(compression, Compression::None | Compression::Xz | Compression::Zstd) {
            return Err(UploadError::Compression(compression.name()));
        }
        let writer = Self { folder: folder.to_owned(), compression, key };
        let nar = folder.join("nar");
        fs::create_dir_all(&nar).map_err(failed("create", &nar))?;
        let info = folder.join("nix-cache-info");
        match fs::read(&info) {
            Ok(bytes) => {
                let folder = folder.to_owned();
                CacheInfo::parse(&bytes).map_err(|source| UploadError::Info { folder, source })?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                writer.write_whole(&info, format!("StoreDir: {STORE_DIR}\n").as_bytes())?;
            }
            Err(error) => return Err(failed("read", &info)(error)),
        }
        Ok(writer)
    }

    /// Puts a path into the cache, whose NAR `dump` writes, unless it is there.
    ///
    /// # Errors
    /// When a reference is missing, the contents are not those of `info`, or writing fails.
    pub fn upload(
        &self,
        info: &PathInfo,
        dump: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Uploaded, UploadError> {
        let mut info = info.clone();
        if let Some(key) = &self.key {
            info.sign(key);
        }
        if let Some(there) = self.narinfo(&info.path)? {
            return self.complete(there, &info);
        }
        for reference in info.references.iter().filter(|reference| **reference != info.path) {
            if !self.narinfo_file(reference).exists() {
                let (path, reference) = (info.path.clone(), reference.clone());
                return Err(UploadError::MissingReference { path, reference });
            }
        }
        let (url, file_hash, file_size) = self.write_nar(&info, dump)?;
        let narinfo = NarInfo {
            url,
            compression: self.compression,
            file_hash: Some(file_hash.into()),
            file_size: Some(file_size),
            info,
        };
        self.write_whole(&self.narinfo_file(&narinfo.info.path), narinfo.to_string().as_bytes())?;
        Ok(Uploaded::Written { file_size })
    }

    /// Returns what the cache says of a path.
    fn narinfo(&self, path: &StorePath) -> Result<Option<NarInfo>, UploadError> {
        let name = self.narinfo_file(path);
        let bytes = match File::open(&name) {
            Ok(opened) => file::read_capped(opened, narinfo::MAX_LEN),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        let narinfo = NarInfo::parse(&bytes.map_err(failed("read", &name))?);
        let path = path.clone();
        narinfo.map(Some).map_err(|source| UploadError::NarInfo { path, source })
    }

    /// Adds signatures that a narinfo does not carry yet.
    fn complete(&self, mut there: NarInfo, info: &PathInfo) -> Result<Uploaded, UploadError> {
        if there.info.nar_hash != info.nar_hash || there.info.path != info.path {
            return Err(UploadError::OtherContents {
                path: info.path.clone(),
                there: there.info.nar_hash,
                ours: info.nar_hash,
            });
        }
        let Some(key) = &self.key else { return Ok(Uploaded::Present) };
        let before = there.info.signatures.len();
        there.info.sign(key);
        if there.info.signatures.len() == before {
            return Ok(Uploaded::Present);
        }
        self.write_whole(&self.narinfo_file(&info.path), there.to_string().as_bytes())?;
        Ok(Uploaded::Signed)
    }

    fn narinfo_file(&self, path: &StorePath) -> PathBuf {
        self.folder.join(format!("{}.narinfo", path.hash_part()))
    }

    /// Writes the NAR under a temporary name, then under the name that its hash gives it.
    fn write_nar(
        &self,
        info: &PathInfo,
        dump: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(String, Sha256, u64), UploadError> {
        let nar_folder = self.folder.join("nar");
        let temporary = temporary(&nar_folder.join(info.path.hash_part()));
        let written = File::create(&temporary).and_then(|file| self.encode(file, dump));
        let (nar_hash, file_hash, file_size) = match written {
            Ok(written) => written,
            Err(error) => {
                // The first failure is the one to tell.
                drop(fs::remove_file(&temporary));
                return Err(failed("write", &temporary)(error));
            }
        };
        if nar_hash != info.nar_hash {
            drop(fs::remove_file(&temporary));
            let (path, known) = (info.path.clone(), info.nar_hash);
            return Err(UploadError::Corrupt { path, found: nar_hash, known });
        }
        let url = format!("nar/{}.nar{}", file_hash.to_base32(), self.compression.extension());
        let name = self.folder.join(&url);
        fs::rename(&temporary, &name).map_err(failed("write", &name))?;
        file::sync_folder(&nar_folder).map_err(failed("write", &nar_folder))?;
        Ok((url, file_hash, file_size))
    }

    fn encode(
        &self,
        file: File,
        dump: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<(Sha256, Sha256, u64)> {
        let output = Hashing::new(io::BufWriter::new(file));
        let (nar, output) = match self.compression {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(output, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                let mut nar = Hashing::new(encoder);
                dump(&mut nar)?;
                (nar.hash(), nar.inner.finish()?)
            }
            Compression::Xz => {
                let mut nar = Hashing::new(liblzma::write::XzEncoder::new(output, XZ_LEVEL));
                dump(&mut nar)?;
                (nar.hash(), nar.inner.finish()?)
            }
            Compression::None
            | Compression::Bzip2
            | Compression::Gzip
            | Compression::Brotli
            | Compression::Lz4 => {
                let mut nar = Hashing::new(output);
                dump(&mut nar)?;
                (nar.hash(), nar.inner)
            }
        };
        let (file_hash, file_size) = (output.hash(), output.size);
        let file = output.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok((nar, file_hash, file_size))
    }

    fn write_whole(&self, name: &Path, bytes: &[u8]) -> Result<(), UploadError> {
        let temporary = temporary(name);
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, name)?;
            file::sync_folder(&self.folder)
        };
        write().map_err(failed("write", name))
    }
}

/// A name beside the final one that no reader asks for.
fn temporary(name: &Path) -> PathBuf {
    let mut temporary = name.as_os_str().to_owned();
    temporary.push(format!(".tmp-{}", std::process::id()));
    temporary.into()
}

fn failed(what: &'static str, file: &Path) -> impl FnOnce(io::Error) -> UploadError {
    let file = file.to_owned();
    move |source| UploadError::Io { what, file, source }
}

/// Hashes and counts what passes.
struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: sha2::Sha256::new(), size: 0 }
    }

    fn hash(&self) -> Sha256 {
        Sha256(self.hasher.clone().finalize().into())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
