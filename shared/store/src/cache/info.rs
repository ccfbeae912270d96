//! `nix-cache-info`: what a cache says of itself.

use shared::nix::STORE_DIR;

/// What a cache says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheInfo {
    /// Which cache to ask first: the lower, the earlier. Nothing if the cache does not say.
    pub priority: Option<u32>,
}

/// Why a cache cannot be used, whatever its paths.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheInfoError {
    /// The folder has no such file: it is probably no cache.
    #[error("there is no `nix-cache-info`")]
    Missing,
    /// Not UTF-8.
    #[error("`nix-cache-info` is no UTF-8 text")]
    NotText,
    /// Its paths live in another directory, and so have other hashes.
    #[error("its store directory is `{0}`, not {STORE_DIR}")]
    StoreDir(String),
}

impl CacheInfo {
    /// Parses the file: `Name: value` a line, everything else ignored.
    ///
    /// A priority that is no number counts as none: it must not make a cache unusable.
    ///
    /// # Errors
    /// When the file is no text, or the cache is one for another store directory.
    pub fn parse(bytes: &[u8]) -> Result<Self, CacheInfoError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CacheInfoError::NotText)?;
        let mut info = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match (name, value.trim()) {
                ("StoreDir", dir) if dir != STORE_DIR => {
                    return Err(CacheInfoError::StoreDir(dir.to_owned()));
                }
                ("Priority", priority) => info.priority = priority.parse().ok(),
                _ => {}
            }
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_priority_and_ignores_what_it_does_not_know() {
        let info = CacheInfo::parse(b"StoreDir: /nix/store\nhi\nX: 1\nPriority: 40\n").unwrap();
        assert_eq!(info.priority, Some(40));
    }

    #[test]
    fn a_priority_that_is_no_number_is_none() {
        for text in ["Priority: high\n", "Priority: -1\n", "Priority:\n", ""] {
            assert_eq!(CacheInfo::parse(text.as_bytes()).unwrap().priority, None, "{text}");
        }
    }

    #[test]
    fn refuses_another_store_directory() {
        let error = CacheInfo::parse(b"StoreDir: /gnu/store\n").unwrap_err();
        assert_eq!(error, CacheInfoError::StoreDir("/gnu/store".to_owned()));
    }
}
