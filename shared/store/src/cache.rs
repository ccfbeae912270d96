//! Binary caches, over `http://`, `https://` and `file://`.
//!
//! A cache is a stranger: what it says is capped, parsed strictly and believed only as far as
//! [`shared::nix::PathInfo::voucher`] goes. Nothing that it says can make us read outside of it:
//! URLs stay below the cache, redirects on its origin. Start at [`BinaryCache::open`].

mod body;
mod file;
mod http;
mod info;
mod location;
mod upload;

use std::{path::PathBuf, sync::Arc};

use shared::nix::{
    NarInfo, StorePath,
    narinfo::{self, NarInfoError},
};

pub use body::{NarBody, NarReader, Pump};
pub use http::{Network, NetworkError, NetworkOptions};
pub use info::{CacheInfo, CacheInfoError};
pub use location::{Location, LocationError, NarUrlError};
pub use upload::{CacheWriter, UploadError, Uploaded};

/// Longest `nix-cache-info` that is read, in bytes.
const MAX_INFO_LEN: usize = 64 * 1024;

/// What went wrong with a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Where the cache is said to be makes no sense.
    #[error("cannot use `{location}` as a binary cache")]
    Location {
        /// What was given.
        location: String,
        /// What is wrong with it.
        source: LocationError,
    },
    /// No answer, or none that ended well, after all tries.
    #[error("cannot get `{file}` from cache `{cache}`")]
    Unreachable {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An answer that is neither success nor absence.
    #[error("cache `{cache}` answers `{file}` with status {status}")]
    Status {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// The status.
        status: u16,
    },
    /// A file of the cache cannot be read.
    #[error("cannot read `{file}` of cache `{cache}`")]
    Read {
        /// The cache.
        cache: String,
        /// The file.
        file: String,
        /// What happened.
        source: std::io::Error,
    },
    /// More bytes than such a file may have.
    #[error("cache `{cache}` sends more than {limit} bytes as `{file}`")]
    TooLong {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// How many it may have.
        limit: usize,
    },
    /// Encoded for transport in a way that was not asked for.
    #[error("cache `{cache}` sends `{file}` with content encoding `{encoding}`")]
    Encoding {
        /// The cache.
        cache: String,
        /// What was asked for.
        file: String,
        /// The encoding.
        encoding: String,
    },
    /// `nix-cache-info` is unusable.
    #[error("cache `{cache}` is not usable")]
    Info {
        /// The cache.
        cache: String,
        /// What is wrong with it.
        source: CacheInfoError,
    },
    /// The narinfo of a path cannot be understood.
    #[error("cache `{cache}` has a bad narinfo for `{path}`")]
    NarInfo {
        /// The cache.
        cache: String,
        /// The path asked for.
        path: StorePath,
        /// What is wrong with it.
        source: NarInfoError,
    },
    /// The narinfo of a path tells of another path.
    #[error("cache `{cache}` was asked for `{asked}` and tells of `{told}`")]
    OtherPath {
        /// The cache.
        cache: String,
        /// The path asked for.
        asked: StorePath,
        /// The path in the narinfo.
        told: StorePath,
    },
    /// The URL of a NAR leads out of the cache.
    #[error("cache `{cache}` names `{url}` as a NAR")]
    NarUrl {
        /// The cache.
        cache: String,
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: NarUrlError,
    },
}

impl CacheError {
    /// Returns whether the cache could not be reached, as opposed to having answered badly.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // A file that is missing is no error, so this is the cache's own folder.
            Self::Read { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Location { .. }
            | Self::TooLong { .. }
            | Self::Encoding { .. }
            | Self::Info { .. }
            | Self::NarInfo { .. }
            | Self::OtherPath { .. }
            | Self::NarUrl { .. } => false,
        }
    }
}

/// A binary cache that has been opened: it is there, and serves `/nix/store`.
#[derive(Debug, Clone)]
pub struct BinaryCache {
    name: Arc<str>,
    transport: Transport,
    info: CacheInfo,
}

#[derive(Debug, Clone)]
enum Transport {
    Http(http::HttpCache),
    File(PathBuf),
}

impl BinaryCache {
    /// Opens the cache at a URL or at the path of a folder, and reads its `nix-cache-info`.
    ///
    /// Over HTTP that file may be missing; defaults are meant then, as in Nix.
    ///
    /// # Errors
    /// When the cache cannot be reached, or is one for another store directory.
    pub async fn open(location: &Location, network: &Network) -> Result<Self, CacheError> {
        let name: Arc<str> = location.to_string().into();
        let transport = match location {
            Location::Http(url) => {
                Transport::Http(http::HttpCache::new(network, url.clone(), Arc::clone(&name)))
            }
            Location::File(folder) => Transport::File(folder.clone()),
        };
        let mut cache = Self { name, transport, info: CacheInfo::default() };
        let bytes = cache.small_file("nix-cache-info", MAX_INFO_LEN, Absence::Plain).await?;
        cache.info = match bytes {
            Some(bytes) => CacheInfo::parse(&bytes),
            None if matches!(cache.transport, Transport::Http(_)) => Ok(CacheInfo::default()),
            None => Err(CacheInfoError::Missing),
        }
        .map_err(|source| CacheError::Info { cache: cache.name.to_string(), source })?;
        Ok(cache)
    }

    /// Returns where the cache is, as a person may read it: without a password.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what the cache says of itself.
    #[must_use]
    pub const fn info(&self) -> &CacheInfo {
        &self.info
    }

    /// Returns the narinfo of `path`, or nothing if the cache does not have it.
    ///
    /// The answer is about exactly this path; whether to believe it is for the caller to decide.
    ///
    /// # Errors
    /// When the cache cannot be reached, or its answer is no narinfo of this path.
    pub async fn narinfo(&self, path: &StorePath) -> Result<Option<NarInfo>, CacheError> {
        let file = format!("{}.narinfo", path.hash_part());
        let bytes = self.small_file(&file, narinfo::MAX_LEN, Absence::OrForbidden).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let narinfo = NarInfo::parse(&bytes).map_err(|source| CacheError::NarInfo {
            cache: self.name.to_string(),
            path: path.clone(),
            source,
        })?;
        if narinfo.info.path != *path {
            return Err(CacheError::OtherPath {
                cache: self.name.to_string(),
                asked: path.clone(),
                told: narinfo.info.path,
            });
        }
        Ok(Some(narinfo))
    }

    /// Begins to get the file at `url`, which is relative to the cache and not trusted.
    ///
    /// Returns nothing if the cache does not have it.
    ///
    /// # Errors
    /// When the URL leads out of the cache, or the cache cannot be reached.
    pub async fn nar(&self, url: &str) -> Result<Option<NarBody>, CacheError> {
        location::check_nar_url(url).map_err(|source| self.bad_nar_url(url, source))?;
        match &self.transport {
            Transport::Http(http) => {
                let full = http.nar_url(url).map_err(|source| self.bad_nar_url(url, source))?;
                Ok(http.stream(full, url).await?.map(NarBody::http))
            }
            Transport::File(folder) => {
                let opened = self.in_folder(folder, url, Ok).await?;
                Ok(opened.map(NarBody::file))
            }
        }
    }

    /// Opens several caches at once; those that cannot be used are told apart, as errors.
    ///
    /// Each comes with a priority that outranks the one it claims. The order is that in which to
    /// ask: by priority, then as given.
    pub async fn open_all(
        locations: &[(Location, Option<u32>)],
        network: &Network,
    ) -> (Vec<Self>, Vec<CacheError>) {
        let opened = locations.iter().map(async |(location, priority)| {
            let mut cache = Self::open(location, network).await?;
            cache.info.priority = priority.or(cache.info.priority);
            Ok(cache)
        });
        let (mut caches, mut errors) = (Vec::new(), Vec::new());
        for result in futures_util::future::join_all(opened).await {
            match result {
                Ok(cache) => caches.push(cache),
                Err(error) => errors.push(error),
            }
        }
        // Nix counts a missing priority as 0 too.
        caches.sort_by_key(|cache: &Self| cache.info.priority.unwrap_or(0));
        (caches, errors)
    }

    fn bad_nar_url(&self, url: &str, source: NarUrlError) -> CacheError {
        CacheError::NarUrl { cache: self.name.to_string(), url: url.to_owned(), source }
    }

    async fn small_file(
        &self,
        file: &str,
        limit: usize,
        absence: Absence,
    ) -> Result<Option<Vec<u8>>, CacheError> {
        let bytes = match &self.transport {
            Transport::Http(http) => return http.small_file(file, limit, absence).await,
            Transport::File(folder) => {
                self.in_folder(folder, file, move |opened| file::read_capped(opened, limit)).await?
            }
        };
        match bytes {
            Some(bytes) if bytes.len() > limit => Err(CacheError::TooLong {
                cache: self.name.to_string(),
                file: file.to_owned(),
                limit,
            }),
            bytes => Ok(bytes),
        }
    }

    /// Opens a file below `folder` and hands it to `use_it`, on a thread that may block.
    async fn in_folder<T: Send + 'static>(
        &self,
        folder: &std::path::Path,
        file: &str,
        use_it: impl FnOnce(std::fs::File) -> std::io::Result<T> + Send + 'static,
    ) -> Result<Option<T>, CacheError> {
        let (folder, relative) = (folder.to_owned(), file.to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            file::open_below(&folder, &relative)?.map(use_it).transpose()
        });
        let opened = opened.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        opened.map_err(|source| CacheError::Read {
            cache: self.name.to_string(),
            file: file.to_owned(),
            source,
        })
    }
}

/// Which answers mean that a file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// 404 and 410.
    Plain,
    /// Also 401, 403 and 407: some object stores say so of files that are not there.
    OrForbidden,
}

#[cfg(test)]
mod tests;
