//! The registry and its mirrors as places that serve files.
//!
//! Nothing here is trusted: a source answers with bytes up to a cap, or not at all. Which bytes
//! are believed is decided elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::{StatusCode, header};
use store::net::limits::{REGISTRY_CONNECT, REGISTRY_FILE, REGISTRY_IDLE, REGISTRY_ROUND};
use store::net::{self, Authorities, NetworkError, retry_after};
use url::Url;

use crate::config::Registry;

/// Why a source gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// No connection, or it broke.
    #[error("cannot reach `{url}`")]
    Unreachable { url: Url, source: reqwest::Error },
    /// An answer that is neither the file nor its absence.
    #[error("`{url}` answered {status}")]
    Status { url: Url, status: StatusCode },
    /// More bytes than this file may have.
    #[error("`{url}` is larger than {max} bytes")]
    TooLarge { url: Url, max: u64 },
    /// Its answers of this round took too long together.
    #[error("`{base}` has used up the time that one source may take in one round")]
    Slow { base: Url },
    /// There is no way to speak HTTP as configured.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What a source says of a file.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The file is what we have.
    NotModified,
    /// The file.
    Found(Vec<u8>),
    /// There is no such file.
    Absent,
}

/// What a registry answers to what was posted.
#[derive(Debug)]
pub(crate) struct Posted {
    /// Whether it took it.
    pub(crate) status: StatusCode,
    /// The beginning of what it says.
    pub(crate) body: Vec<u8>,
    /// When it wants to be asked again.
    pub(crate) retry_after: Option<Duration>,
}

impl Answer {
    /// Returns the file, if it came.
    pub(crate) fn found(self) -> Option<Vec<u8>> {
        match self {
            Self::Found(bytes) => Some(bytes),
            Self::NotModified | Self::Absent => None,
        }
    }
}

/// One registry or mirror.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    http: reqwest::Client,
    base: Url,
    left: Option<Left>,
}

/// How long the answers of one source may still take in this round.
#[derive(Debug, Clone)]
struct Left(Arc<Mutex<Duration>>);

impl Left {
    fn get(&self) -> MutexGuard<'_, Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    /// Prepares all configured sources, in their order.
    pub(crate) fn all(registry: &Registry) -> Result<Vec<Self>, SourceError> {
        let http = client(registry)?;
        let source = |base: &Url| Self { http: http.clone(), base: base.clone(), left: None };
        Ok(registry.urls.iter().map(source).collect())
    }

    /// Returns this source with a limit to what its answers may take together, from now until the
    /// next call.
    pub(crate) fn for_one_round(&self) -> Self {
        let left = Left(Arc::new(Mutex::new(REGISTRY_ROUND)));
        Self { left: Some(left), ..self.clone() }
    }

    /// Returns this source with no limit but that of each answer.
    pub(crate) fn without_round(&self) -> Self {
        Self { left: None, ..self.clone() }
    }

    /// Returns the address of this source.
    pub(crate) const fn base(&self) -> &Url {
        &self.base
    }

    /// Returns the address of a path below this source.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{path}"));
        url
    }

    /// Asks for a file of at most `max` bytes.
    pub(crate) async fn get(&self, path: &str, max: u64) -> Result<Answer, SourceError> {
        let url = self.url(path);
        let request = self.http.get(url.clone());
        self.answer(url, request, max, Duration::ZERO).await
    }

    /// Asks for a file unless it is still the one with this entity tag.
    ///
    /// A live registry holds the answer back for up to `wait` while nothing changes.
    pub(crate) async fn get_if_changed(
        &self,
        path: &str,
        max: u64,
        tag: Option<&str>,
        wait: Duration,
    ) -> Result<Answer, SourceError> {
        let mut url = self.url(path);
        if tag.is_some() && !wait.is_zero() {
            url.set_query(Some(&format!("wait={}", wait.as_secs())));
        }
        let mut request = self.http.get(url.clone());
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, format!("\"{tag}\""));
        }
        self.answer(url, request, max, wait).await
    }

    /// Posts JSON, and returns the beginning of the answer, at most `max` bytes.
    pub(crate) async fn post(
        &self,
        path: &str,
        json: Vec<u8>,
        max: usize,
    ) -> Result<Posted, reqwest::Error> {
        let request = self.http.post(self.url(path)).timeout(REGISTRY_FILE);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(json);
        let mut response = request.send().await?;
        let mut bytes = Vec::new();
        while bytes.len() < max
            && let Some(chunk) = response.chunk().await?
        {
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(max);
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let asked = header(header::RETRY_AFTER);
        let retry_after =
            asked.and_then(|it| retry_after(it, header(header::DATE), Timestamp::now()));
        Ok(Posted { status: response.status(), body: bytes, retry_after })
    }

    /// Sends a request that may be held back for up to `wait`, within what is left of the round.
    async fn answer(
        &self,
        url: Url,
        request: reqwest::RequestBuilder,
        max: u64,
        wait: Duration,
    ) -> Result<Answer, SourceError> {
        let left = self.left.as_ref().map_or(REGISTRY_FILE, |left| *left.get());
        if left.is_zero() {
            return Err(SourceError::Slow { base: self.base.clone() });
        }
        let started = Instant::now();
        let request = request.timeout(left.min(REGISTRY_FILE) + wait);
        let answer = self.read(url, request, max).await;
        if let Some(left) = &self.left {
            let taken = started.elapsed().saturating_sub(wait);
            let mut left = left.get();
            *left = left.saturating_sub(taken);
        }
        answer
    }

    async fn read(
        &self,
        url: Url,
        request: reqwest::RequestBuilder,
        max: u64,
    ) -> Result<Answer, SourceError> {
        let unreachable = |source: reqwest::Error| SourceError::Unreachable {
            url: url.clone(),
            source: source.without_url(),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(Answer::NotModified),
            // A bucket that lists nothing to strangers says 403 of what is not there.
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
                return Ok(Answer::Absent);
            }
            status => return Err(SourceError::Status { url, status }),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if (bytes.len() + chunk.len()) as u64 > max {
                return Err(SourceError::TooLarge { url, max });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer::Found(bytes))
    }
}

fn client(registry: &Registry) -> Result<reqwest::Client, NetworkError> {
    let authorities = match &registry.ca_file {
        Some(file) => Authorities::Only(file),
        // A host without any certificates can still use plain HTTP: no signature depends on it.
        None if registry.urls.iter().all(|url| url.scheme() == "http") => Authorities::Nobody,
        None => Authorities::SystemAnd(None),
    };
    let user_agent = concat!("shoal-agent/", env!("CARGO_PKG_VERSION"));
    net::client(user_agent, authorities, |builder| {
        // A long poll is silent for as long as we asked for.
        let silence = REGISTRY_IDLE + registry.wait;
        builder.connect_timeout(REGISTRY_CONNECT).read_timeout(silence)
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_source_that_has_used_up_its_round_is_asked_no_more_in_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        // Accepts, and says nothing.
        let connected = tokio::task::spawn_blocking(move || listener.accept().unwrap());
        let registry = Registry::plain(url.parse().unwrap());
        let mut source = Source::all(&registry).unwrap()[0].for_one_round();
        let brief = Duration::from_millis(100);
        source.left = Some(Left(Arc::new(Mutex::new(brief))));
        let silent = source.get("x", 10).await.unwrap_err();
        assert!(matches!(silent, SourceError::Unreachable { .. }), "{silent}");
        let (_stream, _) = connected.await.unwrap();
        for _ in 0..3 {
            let spent = source.get("x", 10).await.unwrap_err();
            assert!(matches!(spent, SourceError::Slow { .. }), "{spent}");
        }
        assert_eq!(*source.for_one_round().left.unwrap().get(), REGISTRY_ROUND);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_where_it_is_long_enough() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(b"HTTP/1.1 401 No\r\n\r\n").unwrap();
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let registry = Registry::plain(url.parse().unwrap());
        let sources = Source::all(&registry).unwrap();
        let posted = sources[0].post("reports", b"{}".to_vec(), 10_000).await.unwrap();
        assert_eq!((posted.status, posted.body.len()), (StatusCode::UNAUTHORIZED, 10_000));
        // The connection ends with the answer that was not read to its end.
        server.await.unwrap();
    }
}
