//! Where caches and the files in them may be.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use url::Url;

/// Longest URL of a NAR, in bytes.
const MAX_NAR_URL_LEN: usize = 1024;

/// Where a binary cache is; prints without a password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// A web server; the URL ends with a slash.
    Http(Url),
    /// A folder.
    File(PathBuf),
}

/// Why a cache cannot be where it is said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Neither a URL nor a path.
    #[error("it is neither a URL nor a path")]
    Form,
    /// A URL scheme that is not served.
    #[error("`{0}` is not one of http, https and file")]
    Scheme(String),
    /// A `file://` URL that names a host, or whose path is not absolute.
    #[error("a file URL has to be of the form `file:///path`")]
    FileUrl,
    /// A query or fragment, such as Nix's store options.
    #[error("options behind `?` or `#` are not supported")]
    Options,
}

impl Location {
    /// Parses a URL, or the path of a folder, which may be relative to the current one.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return match std::path::absolute(text) {
                Ok(folder) if !text.contains('\0') => Ok(Self::File(folder)),
                Ok(_) | Err(_) => Err(LocationError::Form),
            };
        };
        match scheme {
            "http" | "https" => {
                let mut url = Url::parse(text).map_err(|_| LocationError::Form)?;
                if url.query().is_some() || url.fragment().is_some() {
                    return Err(LocationError::Options);
                }
                if !url.path().ends_with('/') {
                    let path = format!("{}/", url.path());
                    url.set_path(&path);
                }
                Ok(Self::Http(url))
            }
            "file" if rest.contains(['?', '#']) => Err(LocationError::Options),
            "file" => {
                let url = Url::parse(text).map_err(|_| LocationError::FileUrl)?;
                let path = url.to_file_path().map_err(|()| LocationError::FileUrl)?;
                if url.host_str().is_some_and(|host| !host.is_empty()) {
                    return Err(LocationError::FileUrl);
                }
                Ok(Self::File(path))
            }
            _ => Err(LocationError::Scheme(scheme.to_owned())),
        }
    }

    /// Returns the folder, if it is one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Http(_) => None,
            Self::File(folder) => Some(folder),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(folder) => match Url::from_file_path(folder) {
                Ok(url) => f.write_str(url.as_str().trim_end_matches('/')),
                Err(()) => write!(f, "file://{}", folder.display()),
            },
            Self::Http(url) => f.write_str(without_password(url).as_str().trim_end_matches('/')),
        }
    }
}

/// As it prints: a password must not get into a log by `{:?}` either.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

/// Returns a URL without the name and password of a user.
pub(super) fn without_password(url: &Url) -> Url {
    let mut url = url.clone();
    // Both only fail for URLs without a host, which a Location never is.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url
}

impl std::str::FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        Self::parse(text)
    }
}

/// Why the URL of a NAR is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NarUrlError {
    /// Nothing, or more than any sensible URL.
    #[error("it is empty or longer than {MAX_NAR_URL_LEN} bytes")]
    Length,
    /// An absolute path, or a URL with a scheme or host.
    #[error("it is not relative to the cache")]
    Absolute,
    /// An empty segment, `.` or `..`.
    #[error("it has an empty segment, `.` or `..`")]
    Segment,
    /// A character that could mean something else to somebody else.
    #[error("it has a character that is not allowed there")]
    Character,
    /// Joined to the cache it leads out of it.
    #[error("it leads out of the cache")]
    Outside,
}

/// Checks the URL of a NAR as a narinfo or hint gives it.
///
/// It has to be a plain relative path, with a query at most: no scheme, no host, no dots, nothing
/// percent-encoded, so that no two readers of it can disagree on where it leads.
pub(super) fn check_nar_url(url: &str) -> Result<(), NarUrlError> {
    if url.is_empty() || url.len() > MAX_NAR_URL_LEN {
        return Err(NarUrlError::Length);
    }
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let first = path.split('/').next().unwrap_or_default();
    if path.starts_with('/') || first.contains(':') {
        return Err(NarUrlError::Absolute);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._=~@,:!$&'()*".contains(&byte);
    if !path.bytes().all(|byte| byte == b'/' || allowed(byte))
        || !query.bytes().all(|byte| b"/?%".contains(&byte) || allowed(byte))
    {
        return Err(NarUrlError::Character);
    }
    if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(NarUrlError::Segment);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_and_paths() {
        let display = |text: &str| Location::parse(text).map(|location| location.to_string());
        assert_eq!(display("https://c.example/a"), Ok("https://c.example/a".to_owned()));
        assert_eq!(display("http://u:p@c.example"), Ok("http://c.example".to_owned()));
        let debug = format!("{:?}", Location::parse("http://u:p@c.example"));
        assert!(!debug.contains("u:p"), "{debug}");
        assert_eq!(display("file:///srv/cache"), Ok("file:///srv/cache".to_owned()));
        assert_eq!(display("/srv/cache"), Ok("file:///srv/cache".to_owned()));
        assert_eq!(display("/srv/my cache/"), Ok("file:///srv/my%20cache".to_owned()));
        let relative = std::env::current_dir().unwrap().join("cache");
        assert_eq!(Location::parse("cache"), Ok(Location::File(relative)));
    }

    #[test]
    fn refuses_other_schemes_and_options() {
        use LocationError as E;
        for (text, error) in [
            ("", E::Form),
            ("http://", E::Form),
            ("s3://bucket", E::Scheme("s3".to_owned())),
            ("https://c.example?priority=1", E::Options),
            ("file:///srv?secret-key=x", E::Options),
            ("file://srv/cache", E::FileUrl),
        ] {
            assert_eq!(Location::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn takes_the_nar_urls_that_caches_write() {
        for url in [
            "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
            "nar/abc.nar?hash=def",
            "a-b.nar",
            "nar/x:y.nar",
        ] {
            assert_eq!(check_nar_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn refuses_nar_urls_that_could_lead_out_of_the_cache() {
        for url in [
            "",
            "/etc/passwd",
            "//host/x",
            "../x",
            "nar/../../x",
            "nar/./x",
            "nar//x",
            "nar/",
            "nar/%2e%2e/x",
            "nar\\..\\x",
            "file:///etc/passwd",
            "http://host/x",
            "data:,x",
            "nar/x#y",
            "nar/x y",
            "nar/x\n",
            "nar/ä",
            &"x".repeat(1025),
        ] {
            assert!(check_nar_url(url).is_err(), "{url}");
        }
    }
}
