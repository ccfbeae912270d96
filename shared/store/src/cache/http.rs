//! Getting files over HTTP, with a redirect and retry policy of our own.
//!
//! Bodies are never decoded: what a server sends is what the narinfo's `Compression` is about.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode,
    header::{
        AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName,
        HeaderValue, IF_RANGE, RANGE, RETRY_AFTER,
    },
};
use url::Url;

use super::{
    Absence, CacheError, Location,
    location::NarUrlError,
    network::{Haste, Network, Record},
};
use crate::net::{NetrcError, Pace, TooSlow, limits, retry_after};

/// One cache on a web server.
#[derive(Debug, Clone)]
pub(super) struct HttpCache {
    network: Network,
    base: Url,
    name: Arc<str>,
    record: Record,
    haste: Haste,
    /// Goes to the origin of `base` alone: nothing else is asked, and redirects stay there.
    authorization: Option<HeaderValue>,
}

impl HttpCache {
    /// Prepares to ask a cache, with the password that there is for it.
    pub(super) fn new(
        network: &Network,
        base: &Url,
        name: Arc<str>,
        record: Record,
    ) -> Result<Self, NetrcError> {
        let authorization = network.authorization(&Location::Http(base.clone()), base)?;
        let base = super::location::without_password(base);
        Ok(Self { network: network.clone(), base, name, record, haste: Haste::None, authorization })
    }

    /// Lets nobody wait long for this one from now on.
    pub(super) const fn hurry(&mut self) {
        self.haste = Haste::OthersCanDoIt;
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
            let deadline = Some(self.network.options.small_file_timeout);
            let question =
                Question { url: &url, file, absence, headers: HeaderMap::new(), deadline };
            let Some(mut response) = self.get(question).await? else { return Ok(None) };
            self.refuse_encoding(&response, file)?;
            match read_capped(&mut response, limit).await {
                Ok(Some(bytes)) => {
                    self.network.bandwidth.take(bytes.len()).await;
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    let (cache, file) = (self.name.to_string(), file.to_owned());
                    return Err(CacheError::TooLong { cache, file, limit });
                }
                Err(error) if attempt >= self.network.attempts(self.haste) => {
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
        let asked = Instant::now();
        let Some(response) = self.get(question).await? else { return Ok(None) };
        let head = asked.elapsed();
        self.record.lock().began(head);
        self.refuse_encoding(&response, file)?;
        // A weak validator does not promise the same bytes.
        let validator = response.headers().get(ETAG).cloned();
        let validator = validator.filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        let length = response.content_length();
        Ok(Some(Body {
            cache: self.clone(),
            url,
            file: file.to_owned(),
            response,
            received: 0,
            length,
            validator,
            interruptions: 0,
            pace: self.network.pace(self.haste),
            head,
            waited: Duration::ZERO,
        }))
    }

    /// Asks until there is a final answer; nothing means absent.
    async fn get(&self, question: Question<'_>) -> Result<Option<Response>, CacheError> {
        let Question { url, file, absence, mut headers, deadline } = question;
        headers.extend(self.authorization.iter().map(|it| (AUTHORIZATION, it.clone())));
        let mut attempt = 1;
        loop {
            let mut request = self.network.client.get(url.clone()).headers(headers.clone());
            if let Some(deadline) = deadline {
                request = request.timeout(deadline);
            }
            let last = attempt >= self.network.attempts(self.haste);
            let patience = self.network.options.header_timeout;
            let Ok(sent) = tokio::time::timeout(patience, request.send()).await else {
                let late = NoAnswer(patience);
                if last {
                    return Err(self.unreachable(file, late));
                }
                self.pause(attempt, None).await;
                attempt += 1;
                continue;
            };
            match sent {
                Ok(response) if response.status().is_success() => return Ok(Some(response)),
                Ok(response) if is_absent(response.status(), absence) => return Ok(None),
                Ok(response) => {
                    let asked = asked_pause(&response);
                    let too_long = asked.is_some_and(|asked| asked > self.longest_wait());
                    if last || too_long || !is_transient(response.status()) {
                        return Err(self.status(file, response.status(), asked));
                    }
                    self.pause(attempt, asked).await;
                }
                Err(error) if last || error.is_redirect() || error.is_builder() => {
                    return Err(self.unreachable(file, error.without_url()));
                }
                Err(_) => self.pause(attempt, None).await,
            }
            attempt += 1;
        }
    }

    /// Returns the longest pause that the server may ask for.
    const fn longest_wait(&self) -> Duration {
        match self.haste {
            Haste::None => limits::MAX_RETRY_AFTER,
            Haste::OthersCanDoIt => limits::MAX_HASTY_WAIT,
        }
    }

    async fn pause(&self, attempt: u32, asked: Option<Duration>) {
        tokio::time::sleep(asked.unwrap_or_else(|| self.network.backoff(attempt))).await;
    }

    fn status(&self, file: &str, status: StatusCode, pause: Option<Duration>) -> CacheError {
        CacheError::Status {
            cache: self.name.to_string(),
            file: file.to_owned(),
            status: status.as_u16(),
            pause,
        }
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

/// Returns the pause that an answer asks for.
fn asked_pause(response: &Response) -> Option<Duration> {
    let header = |name: HeaderName| response.headers().get(name)?.to_str().ok();
    retry_after(header(RETRY_AFTER)?, header(DATE), jiff::Timestamp::now())
}

/// The head of an answer did not come.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct NoAnswer(Duration);

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
    /// How long it is as a whole, if the server said so.
    length: Option<u64>,
    validator: Option<HeaderValue>,
    interruptions: u32,
    /// The rate that it must keep, if it must.
    pace: Option<Pace>,
    /// How long its head took.
    head: Duration,
    /// How long we waited for its bytes.
    waited: Duration,
}

impl Drop for Body {
    fn drop(&mut self) {
        let mut health = self.cache.record.lock();
        health.measured(self.head, self.waited, self.received, Instant::now());
    }
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
enum BrokenOff {
    #[error(transparent)]
    Connection(reqwest::Error),
    #[error("not a byte within {} s", .0.as_secs())]
    Silent(Duration),
}

impl Body {
    /// Returns the next bytes, or nothing at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, CacheError> {
        loop {
            let asked = Instant::now();
            let patience = self.cache.network.options.stall_timeout;
            let chunk = tokio::time::timeout(patience, self.response.chunk()).await;
            let waited = asked.elapsed();
            self.waited += waited;
            let error = match chunk {
                Ok(Ok(Some(chunk))) => {
                    self.received += chunk.len() as u64;
                    self.keep_pace(chunk.len(), waited)?;
                    self.cache.network.bandwidth.take(chunk.len()).await;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => BrokenOff::Connection(error.without_url()),
                Err(_) => BrokenOff::Silent(patience),
            };
            self.keep_pace(0, waited)?;
            self.resume(error).await?;
        }
    }

    /// Fails if it comes so slowly that it is not worth the wait.
    fn keep_pace(&mut self, bytes: usize, waited: Duration) -> Result<(), CacheError> {
        let Some(pace) = &mut self.pace else { return Ok(()) };
        pace.note(bytes, waited).map_err(|TooSlow { bytes, waited, rate }| CacheError::TooSlow {
            cache: self.cache.name.to_string(),
            file: self.file.clone(),
            bytes,
            waited,
            rate,
        })
    }

    /// Asks for what is missing, if the server can promise that it is of the same file.
    async fn resume(&mut self, error: BrokenOff) -> Result<(), CacheError> {
        self.interruptions += 1;
        let again = self.interruptions < self.cache.network.attempts(self.cache.haste);
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
        let continues = |response: &Response| self.is_continued_by(response);
        match response.filter(continues) {
            Some(response) => {
                self.cache.refuse_encoding(&response, &self.file)?;
                self.response = response;
            }
            None => return Err(self.cache.unreachable(&self.file, error)),
        }
        Ok(())
    }

    /// Returns whether an answer says that it is the rest of the same file.
    fn is_continued_by(&self, response: &Response) -> bool {
        let header = |name| response.headers().get(name).map(HeaderValue::as_bytes);
        let range = header(CONTENT_RANGE).unwrap_or_default();
        let is_rest = match self.length {
            Some(all) => {
                let rest = format!("bytes {}-{}/{all}", self.received, all.saturating_sub(1));
                range == rest.as_bytes()
            }
            None => range.starts_with(format!("bytes {}-", self.received).as_bytes()),
        };
        // A server that does not know `If-Range` sends the rest of whatever it has now.
        let is_same =
            header(ETAG).is_none_or(|etag| self.validator.as_ref().is_some_and(|v| v == etag));
        response.status() == StatusCode::PARTIAL_CONTENT && is_rest && is_same
    }
}
