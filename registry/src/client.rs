//! Reading what a registry publishes, over HTTP or from its folder, and speaking to its API.
//!
//! Nothing that comes from here is believed before it is verified.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::{Timestamp, fmt::rfc2822};
use reqwest::{
    IntoUrl, RequestBuilder, Response, StatusCode,
    header::{self, HeaderValue},
    multipart::Form,
    redirect,
};
use serde::de::DeserializeOwned;
use shared::{
    api::{Page, PublishReceipt},
    problem::{Kind, Problem},
};
use store::net::{
    self, Authorities,
    limits::{REGISTRY_CONNECT, REGISTRY_THINKS},
};
use url::Url;

pub(crate) mod events;

use crate::{config::Settings, trusted_realm};

/// The longest answer of the API that is read.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// The longest token that is read from a file.
const MAX_TOKEN: u64 = 256;
/// How many items of a list are asked for at once.
const PAGE: usize = 500;

/// Why a published file could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("cannot reach `{url}`")]
    Unreachable {
        url: String,
        #[source]
        source: NetworkError,
    },
    #[error("`{url}` answers with status {status}")]
    Status { url: String, status: StatusCode },
    #[error("`{name}` is longer than {max} bytes")]
    TooLong { name: String, max: u64 },
    #[error("cannot read `{path}`")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What the network did, without the layers that it passed through.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NetworkError(String);

impl From<reqwest::Error> for NetworkError {
    fn from(error: reqwest::Error) -> Self {
        let mut deepest: &dyn std::error::Error = &error.without_url();
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        Self(deepest.to_string())
    }
}

impl ReadError {
    /// Tells the error in full.
    pub(crate) fn problem(&self) -> Problem {
        let kind = match self {
            Self::Unreachable { .. } | Self::Status { .. } => Kind::Unreachable,
            Self::TooLong { .. } => Kind::Trust,
            Self::File { .. } => Kind::Runtime,
        };
        let problem = Problem::from_error(kind, "unreadable", self).leaves("nothing changed");
        if kind == Kind::Unreachable {
            return problem
                .fix("check the address with --registry URL")
                .next("registry config show");
        }
        problem
    }
}

/// Where the published files of a realm are read from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A registry, or any web server that mirrors it.
    Http(Client),
    /// The folder `r/<realm>` of a server's data, or a copy of it.
    Folder(PathBuf),
}

impl Source {
    /// Reads a file by its name below the realm, or finds that there is none.
    ///
    /// # Errors
    /// When the source cannot be reached, or the file is longer than `max` bytes.
    pub(crate) async fn get(&self, name: &str, max: u64) -> Result<Option<Bytes>, ReadError> {
        match self {
            Self::Http(client) => client.file(name, max).await,
            Self::Folder(folder) => {
                let path = folder.join(name);
                let read = read_file(path.clone(), max);
                match read.map_err(|source| ReadError::File { path, source })? {
                    Some(bytes) if bytes.len() as u64 > max => {
                        Err(ReadError::TooLong { name: name.to_owned(), max })
                    }
                    bytes => Ok(bytes.map(Bytes::from)),
                }
            }
        }
    }
}

/// What a server answers, whether it is good or not.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: StatusCode,
    /// When that was, by the server's clock.
    pub(crate) date: Option<Timestamp>,
    pub(crate) text: String,
}

/// A client of one realm of one registry.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    realm: String,
    /// What a closed registry is shown when it is read.
    token: Option<HeaderValue>,
}

impl Client {
    /// Prepares to speak with the registry and realm of these settings.
    ///
    /// # Errors
    /// When the realm has no name, its read token cannot be read, or TLS cannot be set up.
    pub(crate) fn of(settings: &Settings) -> Result<Self, Problem> {
        let realm = trusted_realm::realm_name(settings)?;
        let client = Self::new(&settings.registry.value, realm.as_str())?;
        let token = settings.token_file.as_ref().map(|file| read_token(&file.value)).transpose()?;
        Ok(Self { token, ..client })
    }

    /// Prepares to speak with the registry at `base`, a URL without a slash at its end.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(base: &str, realm: &str) -> Result<Self, Problem> {
        let authorities = if base.starts_with("http://") {
            // A machine without any certificates can still speak plain HTTP.
            Authorities::Nobody
        } else {
            Authorities::SystemAnd(None)
        };
        let user_agent = concat!("shoal-registry/", env!("CARGO_PKG_VERSION"));
        let http = net::client(user_agent, authorities, |builder| {
            // A registry does not redirect; whoever does would be sent a signed role.
            let builder = builder.redirect(redirect::Policy::none());
            builder.connect_timeout(REGISTRY_CONNECT).read_timeout(REGISTRY_THINKS)
        });
        let http = http.map_err(|error| Problem::from_error(Kind::Usage, "http", &error))?;
        Ok(Self { http, base: base.to_owned(), realm: realm.to_owned(), token: None })
    }

    /// Asks the API of the realm: `path` is relative to `/api/v1/realms/<realm>/`.
    ///
    /// # Errors
    /// The problem that the registry tells, or why there is no answer.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, Problem> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.answer(self.reading(url)).await
    }

    /// Asks for a list, page by page, until it ends or has `most` items.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        most: usize,
    ) -> Result<Page<T>, Problem> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let limit = PAGE.min(most.saturating_sub(items.len()));
            let mut asked = query.to_vec();
            asked.push(("limit", limit.to_string()));
            asked.extend(cursor.map(|cursor| ("cursor", cursor)));
            // A page may be empty, and yet not the last.
            let page: Page<T> = self.get(path, &asked).await?;
            items.extend(page.items);
            if page.next_cursor.is_none() || items.len() >= most {
                return Ok(Page { items, ..page });
            }
            cursor = page.next_cursor;
        }
    }

    /// Asks the server itself, apart from any realm; whatever it answers is an answer.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn ask(&self, path: &str) -> Result<Told, Problem> {
        let sent = self.reading(format!("{}/{path}", self.base)).send().await;
        let response = sent.map_err(|error| self.unreachable(error).problem())?;
        let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp());
        let status = response.status();
        let text = body(response, path, MAX_ANSWER).await.map_err(|error| error.problem())?;
        Ok(Told { status, date, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Publishes a version of a role, which must follow on version `over` or be the first.
    ///
    /// # Errors
    /// The problem that the registry tells, or why there is no answer.
    pub(crate) async fn put_role(
        &self,
        role: &str,
        over: Option<u64>,
        parts: Form,
    ) -> Result<PublishReceipt, Problem> {
        let request = self.http.put(self.url(&format!("roles/{role}"))?).multipart(parts);
        let request = match over {
            Some(version) => request.header(header::IF_MATCH, format!("\"{version}\"")),
            None => request.header(header::IF_NONE_MATCH, "*"),
        };
        self.answer(request).await.map_err(|problem| {
            if problem.kind != Kind::Unreachable {
                return problem;
            }
            // The answer is lost, which says nothing of the publication.
            problem
                .leaves("it is not known whether this was published")
                .next(format!("registry verify --registry {}", self.base))
        })
    }

    /// Begins to ask for what may be closed. Files are open, and what is published is signed: no
    /// token goes with those.
    fn reading(&self, url: impl IntoUrl) -> RequestBuilder {
        let request = self.http.get(url);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, token.clone()),
            None => request,
        }
    }

    fn url(&self, path: &str) -> Result<Url, Problem> {
        let url = format!("{}/api/v1/realms/{}/{path}", self.base, self.realm);
        Url::parse(&url).map_err(|error| {
            Problem::from_error(Kind::Usage, "address", &error)
                .because(format!("while reading `{url}`"))
                .fix("give the registry's address with --registry URL")
        })
    }

    /// Sends a request and reads its answer, or the problem that is told instead.
    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Problem> {
        let response = self.good(request).await?;
        let url = response.url().to_string();
        let body = body(response, &url, MAX_ANSWER).await.map_err(|error| error.problem())?;
        serde_json::from_slice(&body).map_err(|error| {
            Problem::from_error(Kind::Runtime, "answer", &error)
                .because(format!("while reading the answer of `{url}`"))
                .fix("use the same version of this program as the registry")
        })
    }

    /// Sends a request, and returns the answer before its body is read, or the problem that is told
    /// instead.
    async fn good(&self, request: RequestBuilder) -> Result<Response, Problem> {
        let response = request.send().await.map_err(|error| self.unreachable(error).problem())?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let url = response.url().to_string();
        let body = body(response, &url, MAX_ANSWER).await.map_err(|error| error.problem())?;
        Err(serde_json::from_slice(&body)
            .unwrap_or_else(|_| ReadError::Status { url, status }.problem()))
    }

    async fn file(&self, name: &str, max: u64) -> Result<Option<Bytes>, ReadError> {
        let url = format!("{}/r/{}/{name}", self.base, self.realm);
        let sent = self.http.get(&url).send().await;
        let response = sent.map_err(|error| self.unreachable(error))?;
        match response.status() {
            StatusCode::OK => body(response, name, max).await.map(Some),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => Err(ReadError::Status { url, status }),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> ReadError {
        ReadError::Unreachable { url: self.base.clone(), source: source.into() }
    }
}

async fn body(mut response: Response, name: &str, max: u64) -> Result<Bytes, ReadError> {
    let too_long = || ReadError::TooLong { name: name.to_owned(), max };
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|source| ReadError::Unreachable {
            url: name.to_owned(),
            source: source.into(),
        })?;
        let Some(chunk) = chunk else { return Ok(body.into()) };
        if (body.len() + chunk.len()) as u64 > max {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
}

/// Reads a read token, as a header that is kept out of every log.
fn read_token(path: &Path) -> Result<HeaderValue, Problem> {
    let problem = |problem: Problem| {
        problem
            .leaves("nothing changed")
            .fix("write the token into the file, or name another one in SHOAL_TOKEN_FILE")
    };
    let failed = |source| ReadError::File { path: path.to_owned(), source };
    let bytes = read_file(path.to_owned(), MAX_TOKEN).map_err(failed);
    let bytes = bytes.and_then(|it| it.ok_or_else(|| failed(io::ErrorKind::NotFound.into())));
    let bytes =
        bytes.map_err(|error| problem(Problem::from_error(Kind::Usage, "token", &error)))?;
    let token = str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    let is_token = (1..=MAX_TOKEN).contains(&(token.len() as u64))
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let Some(mut header) = header.ok().filter(|_| is_token) else {
        let what = format!("there is no token in `{}`", path.display());
        return Err(problem(Problem::new(Kind::Usage, "token", what)));
    };
    header.set_sensitive(true);
    Ok(header)
}

/// Reads at most one byte more than `max`.
fn read_file(path: PathBuf, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_of_a_file_and_shown_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert_eq!(read_token(&path).unwrap_err().kind, Kind::Usage);
        for bad in [&b"\n"[..], b"two words", b"\xff\xfe", &[b'a'; 300]] {
            std::fs::write(&path, bad).unwrap();
            assert!(read_token(&path).unwrap_err().what.contains("no token"));
        }
        std::fs::write(&path, "shoal-abc\n").unwrap();
        let header = read_token(&path).unwrap();
        assert_eq!(header.as_bytes(), b"Bearer shoal-abc");
        assert!(!format!("{header:?}").contains("abc"));
    }

    #[tokio::test]
    async fn a_file_that_is_too_long_is_refused_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), b"12345").unwrap();
        let source = Source::Folder(folder.path().to_owned());
        assert_eq!(source.get("a", 5).await.unwrap().unwrap(), "12345");
        assert!(matches!(source.get("a", 4).await, Err(ReadError::TooLong { max: 4, .. })));
        assert!(source.get("b", 4).await.unwrap().is_none());
    }
}
