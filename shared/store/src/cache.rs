//! Binary caches, over `http://`, `https://` and `file://`.
//!
//! A cache is a stranger: what it says is capped, parsed strictly and believed only as far as
//! [`shared::nix::PathInfo::voucher`] goes. Nothing that it says can make us read outside of it:
//! URLs stay below the cache, redirects on its origin. Start at [`BinaryCache::open`].

mod body;
mod choice;
mod error;
mod file;
mod health;
mod http;
mod info;
mod location;
mod network;
mod open;
mod upload;

use shared::nix::{NarInfo, StorePath, narinfo};
use std::{path::PathBuf, sync::Arc};

pub use crate::net::NetworkError;
pub use body::{NarBody, NarReader, Pump, WaitingRoom};
pub use error::CacheError;
pub use info::{CacheInfo, CacheInfoError};
pub use location::{Location, LocationError, NarUrlError};
pub use network::{Network, NetworkOptions};
pub use upload::{CacheWriter, UploadError, Uploaded};

pub(crate) use choice::{Candidates, Verdict};
use http::HttpCache;
use network::Record;

/// Longest `nix-cache-info` that is read, in bytes.
const MAX_INFO_LEN: usize = 64 * 1024;

/// A binary cache that has been opened: it is there, and serves `/nix/store`.
#[derive(Debug, Clone)]
pub struct BinaryCache {
    name: Arc<str>,
    transport: Transport,
    info: CacheInfo,
    record: Record,
}

#[derive(Debug, Clone)]
enum Transport {
    Http(HttpCache),
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
        let mut cache = Self::unopened(location, network)?;
        cache.info = cache.read_info().await?;
        Ok(cache)
    }

    /// Prepares to ask a cache that nobody spoke to yet.
    fn unopened(location: &Location, network: &Network) -> Result<Self, CacheError> {
        let name: Arc<str> = location.to_string().into();
        let record = network.record(&name);
        let transport = match location {
            Location::Http(url) => {
                let http = HttpCache::new(network, url, Arc::clone(&name), record.clone());
                let cache = name.to_string();
                Transport::Http(http.map_err(|source| CacheError::Password { cache, source })?)
            }
            Location::File(folder) => Transport::File(folder.clone()),
        };
        Ok(Self { name, transport, info: CacheInfo::default(), record })
    }

    /// Says whether the cache is so far away that a connection takes long to gather speed.
    pub(crate) fn is_far(&self) -> bool {
        self.record.lock().is_far()
    }

    async fn read_info(&self) -> Result<CacheInfo, CacheError> {
        let asked = std::time::Instant::now();
        let bytes = self.small_file("nix-cache-info", MAX_INFO_LEN, Absence::Plain).await?;
        self.record.lock().opened(asked.elapsed());
        match bytes {
            Some(bytes) => CacheInfo::parse(&bytes),
            None if matches!(self.transport, Transport::Http(_)) => Ok(CacheInfo::default()),
            None => Err(CacheInfoError::Missing),
        }
        .map_err(|source| CacheError::Info { cache: self.name.to_string(), source })
    }

    /// Lets nobody wait long for this one from now on: others can be asked.
    fn hurry(&mut self) {
        if let Transport::Http(http) = &mut self.transport {
            http.hurry();
        }
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
