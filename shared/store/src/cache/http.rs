//! Getting files over HTTP, with a redirect and retry policy of our own.
//!
//! Bodies are never decoded: what a server sends is what the narinfo's `Compression` is about.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, Response, StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER,
    },
    redirect,
};
use url::Url;

use super::{Absence, CacheError, location::NarUrlError};

/// Most redirects that are followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Longest pause that a server may ask for before the next try.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// How to use the network.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// PEM file of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long an answer may stand still, and how long one that is no NAR may take.
    pub stall_timeout: Duration,
    /// How often a request is made before its cache counts as unreachable; at least 1.
    pub attempts: u32,
    /// The pause before the second try; it doubles, and jitters.
    pub backoff: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            ca_file: None,
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            attempts: 4,
            backoff: Duration::from_millis(250),
        }
    }
}

/// Why the network cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The file of certificate authorities is unreadable.
    #[error("cannot read the certificate authorities in `{}`", .file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The client cannot be made.
    #[error("cannot prepare for HTTP")]
    Client(#[source] reqwest::Error),
}

/// A client with keep-alive connections, shared by all caches.
#[derive(Debug, Clone)]
pub struct Network {
    client: Client,
    attempts: u32,
    backoff: Duration,
    stall_timeout: Duration,
}

impl Network {
    /// Prepares a client.
    ///
    /// # Errors
    /// When the file of certificate authorities is unreadable.
    pub fn new(options: &NetworkOptions) -> Result<Self, NetworkError> {
        let builder = || {
            Client::builder()
                .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(options.connect_timeout)
                .read_timeout(options.stall_timeout)
                .redirect(redirect::Policy::custom(follow))
                .referer(false)
        };
        let client = match &options.ca_file {
            Some(file) => builder().tls_certs_merge(read_authorities(file)?).build(),
            // A machine without any certificates can still use caches over plain HTTP.
            None => builder().build().or_else(|_| builder().tls_certs_only([]).build()),
        };
        Ok(Self {
            client: client.map_err(NetworkError::Client)?,
            attempts: options.attempts.max(1),
            backoff: options.backoff,
            stall_timeout: options.stall_timeout,
        })
    }
}

fn read_authorities(file: &PathBuf) -> Result<Vec<reqwest::Certificate>, NetworkError> {
    let refused = |source| NetworkError::CaFile { file: file.clone(), source };
    let pem = std::fs::read(file).map_err(|error| refused(Box::from(error)))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem);
    let found = found.map_err(|error| refused(Box::from(error)))?;
    if found.is_empty() { Err(refused("there is no certificate in it".into())) } else { Ok(found) }
}

/// Why a redirect is not followed.
#[derive(Debug, thiserror::Error)]
enum RedirectError {
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooMany,
    #[error("redirect to another origin, `{0}`")]
    OtherOrigin(String),
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(RedirectError::TooMany);
    }
    let origin = attempt.url().origin();
    // The scheme is part of the origin: this also keeps https from becoming http.
    if attempt.previous().iter().all(|earlier| earlier.origin() == origin) {
        return attempt.follow();
    }
    attempt.error(RedirectError::OtherOrigin(origin.ascii_serialization()))
}

/// One cache on a web server.
#[derive(Debug, Clone)]
pub(super) struct HttpCache {
    network: Network,
    base: Url,
    name: Arc<str>,
}

impl HttpCache {
    pub(super) fn new(network: &Network, base: Url, name: Arc<str>) -> Self {
        Self { network: network.clone(), base, name }
    }

    /// Joins a checked NAR URL to the cache's.
    pub(super) fn nar_url(&self, relative: &str) -> Result<Url, NarUrlError> {
        // The leading `./` keeps a colon in the first segment from being read as a scheme.
        let joined =
            self.base.join(&format!("./{relative}")).map_err(|_| NarUrlError::Character)?;
        let inside =
            joined.origin() == self.base.origin() && joined.path().starts_with(self.base.path());
        if inside { Ok(joined) } else { Err(NarUrlError::Outside) }
    }

    /// Gets a file of at most `limit` bytes whole.
    pub(super) async fn small_file(
        &self,
        file: &str,
        limit: usize,
        absence: Absence,
    ) -> Result<Option<Vec<u8>>, CacheError> {
        let url = self.base.join(file).map_err(|error| self.unreachable(file, error))?;
        let mut attempt = 1;
        loop {
            let deadline = Some(self.network.stall_timeout);
            let question =
                Question { url: &url, file, absence, headers: HeaderMap::new(), deadline };
            let Some(mut response) = self.get(question).await? else { return Ok(None) };
            self.refuse_encoding(&response, file)?;
            match read_capped(&mut response, limit).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {
                    let (cache, file) = (self.name.to_string(), file.to_owned());
                    return Err(CacheError::TooLong { cache, file, limit });
                }
                Err(error) if attempt >= self.network.attempts => {
                    return Err(self.unreachable(file, error));
                }
                Err(_) => self.pause(attempt, None).await,
            }
            attempt += 1;
        }
    }

    /// Begins to get a file of any size.
    pub(super) async fn stream(&self, url: Url, file: &str) -> Result<Option<Body>, CacheError> {
        let question = Question {
            url: &url,
            file,
            absence: Absence::OrForbidden,
            headers: HeaderMap::new(),
            deadline: None,
        };
        let Some(response) = self.get(question).await? else { return Ok(None) };
        self.refuse_encoding(&response, file)?;
        // A weak validator does not promise the same bytes.
        let validator = response.headers().get(ETAG).cloned();
        let validator = validator.filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        Ok(Some(Body {
            cache: self.clone(),
            url,
            file: file.to_owned(),
            response,
            received: 0,
            validator,
            interruptions: 0,
        }))
    }

    /// Asks until there is a final answer; nothing means absent.
    async fn get(&self, question: Question<'_>) -> Result<Option<Response>, CacheError> {
        let Question { url, file, absence, headers, deadline } = question;
        let mut attempt = 1;
        loop {
            let mut request = self.network.client.get(url.clone()).headers(headers.clone());
            if let Some(deadline) = deadline {
                request = request.timeout(deadline);
            }
            let last = attempt >= self.network.attempts;
            match request.send().await {
                Ok(response) if response.status().is_success() => return Ok(Some(response)),
                Ok(response) if is_absent(response.status(), absence) => return Ok(None),
                Ok(response) if last || !is_transient(response.status()) => {
                    return Err(CacheError::Status {
                        cache: self.name.to_string(),
                        file: file.to_owned(),
                        status: response.status().as_u16(),
                    });
                }
                Ok(response) => self.pause(attempt, retry_after(&response)).await,
                Err(error) if last || error.is_redirect() || error.is_builder() => {
                    return Err(self.unreachable(file, error.without_url()));
                }
                Err(_) => self.pause(attempt, None).await,
            }
            attempt += 1;
        }
    }

    async fn pause(&self, attempt: u32, asked: Option<Duration>) {
        let doubled = self.network.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(6));
        let jittered = doubled.mul_f64(rand::random_range(1.0..1.5));
        tokio::time::sleep(asked.unwrap_or(jittered).min(MAX_RETRY_AFTER)).await;
    }

    fn refuse_encoding(&self, response: &Response, file: &str) -> Result<(), CacheError> {
        let encoding = response.headers().get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
        match encoding {
            None | Some(b"" | b"identity") => Ok(()),
            Some(encoding) => Err(CacheError::Encoding {
                cache: self.name.to_string(),
                file: file.to_owned(),
                encoding: String::from_utf8_lossy(encoding).into_owned(),
            }),
        }
    }

    fn unreachable(
        &self,
        file: &str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> CacheError {
        let (cache, file) = (self.name.to_string(), file.to_owned());
        CacheError::Unreachable { cache, file, source: source.into() }
    }
}

/// What to ask a cache for.
struct Question<'a> {
    url: &'a Url,
    /// Its name in errors.
    file: &'a str,
    absence: Absence,
    headers: HeaderMap,
    /// When the whole answer has to be there.
    deadline: Option<Duration>,
}

fn is_absent(status: StatusCode, absence: Absence) -> bool {
    match status.as_u16() {
        404 | 410 => true,
        401 | 403 | 407 => absence == Absence::OrForbidden,
        _ => false,
    }
}

fn is_transient(status: StatusCode) -> bool {
    let final_errors = [501, 505, 511];
    let code = status.as_u16();
    code == 408 || code == 429 || (status.is_server_error() && !final_errors.contains(&code))
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns nothing if there are more than `limit` bytes.
async fn read_capped(
    response: &mut Response,
    limit: usize,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// The body of an answer, which asks for the rest when the connection breaks.
#[derive(Debug)]
pub(super) struct Body {
    cache: HttpCache,
    url: Url,
    file: String,
    response: Response,
    received: u64,
    validator: Option<HeaderValue>,
    interruptions: u32,
}

impl Body {
    /// Returns the next bytes, or nothing at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, CacheError> {
        loop {
            match self.response.chunk().await {
                Ok(Some(chunk)) => {
                    self.received += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.resume(error.without_url()).await?,
            }
        }
    }

    /// Asks for what is missing, if the server can promise that it is of the same file.
    async fn resume(&mut self, error: reqwest::Error) -> Result<(), CacheError> {
        self.interruptions += 1;
        let again = self.interruptions < self.cache.network.attempts;
        let Some(validator) = self.validator.clone().filter(|_| again) else {
            return Err(self.cache.unreachable(&self.file, error));
        };
        self.cache.pause(self.interruptions, None).await;
        let mut headers = HeaderMap::new();
        let range = HeaderValue::try_from(format!("bytes={}-", self.received));
        headers.insert(RANGE, range.map_err(|error| self.cache.unreachable(&self.file, error))?);
        headers.insert(IF_RANGE, validator);
        let question = Question {
            url: &self.url,
            file: &self.file,
            absence: Absence::Plain,
            headers,
            deadline: None,
        };
        let response = self.cache.get(question).await?;
        let expected = format!("bytes {}-", self.received);
        let continues = |response: &Response| {
            let range = response.headers().get(CONTENT_RANGE);
            response.status() == StatusCode::PARTIAL_CONTENT
                && range.is_some_and(|range| range.as_bytes().starts_with(expected.as_bytes()))
        };
        match response.filter(continues) {
            Some(response) => self.response = response,
            None => return Err(self.cache.unreachable(&self.file, error)),
        }
        Ok(())
    }
}
