//! Who may read what the API knows of the fleet.
//!
//! Nobody here may change anything: publications and reports count by their signatures alone, and
//! what hosts fetch below `/r/` and `/cache/` stays open, for it is signed or named by its hash.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use shared::{
    id::RealmName,
    problem::{Kind, Problem},
};

use crate::{
    api::error::ApiError,
    app::App,
    db::{Db as _, DbError, tokens},
};

/// The longest name of a reader that a proxy may tell, in bytes.
const MAX_READER: usize = 256;
/// The longest token that is looked at, in bytes; ours are shorter.
const MAX_TOKEN: usize = 256;
/// How often it is looked whether whoever follows events still may.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a reader must show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Nothing.
    #[default]
    Open,
    /// A read token.
    Token,
    /// A header that a proxy of ours has set, or a read token.
    ProxyHeader,
}

impl Mode {
    /// Returns the word, as it is configured.
    const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Token => "token",
            Self::ProxyHeader => "proxy-header",
        }
    }
}

/// The table `[access]` of a configuration, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Written {
    reads: Mode,
    metrics: Option<Mode>,
    header: Option<String>,
    proxies: Vec<IpAddr>,
}

/// Why an access cannot be configured so.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("`proxy-header` needs `header`, the name of the header that the proxy sets")]
    NoHeader,
    #[error("`proxy-header` needs `proxies`, the addresses of the proxies")]
    NoProxies,
    #[error("`header` and `proxies` do nothing unless `reads` or `metrics` is `proxy-header`")]
    Unused,
    #[error("`{0}` is no name of a header")]
    Header(String),
    #[error("`authorization` carries read tokens; the proxy must set another header")]
    Authorization,
}

/// Who may read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Access {
    /// What the API asks for.
    pub(crate) reads: Mode,
    /// What `/metrics` asks for.
    pub(crate) metrics: Mode,
    /// The header that names a reader, and the peers that are believed when they set it.
    proxy: Option<(HeaderName, Vec<IpAddr>)>,
    /// How often it is looked whether whoever follows events still may.
    pub(crate) look_again: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self { reads: Mode::Open, metrics: Mode::Open, proxy: None, look_again: LOOK_AGAIN }
    }
}

impl TryFrom<Written> for Access {
    type Error = AccessError;

    fn try_from(written: Written) -> Result<Self, AccessError> {
        let Written { reads, metrics, header, proxies } = written;
        // Metrics tell of the fleet, too: they are as closed as the rest unless somebody opens them.
        let metrics = metrics.unwrap_or(reads);
        let proxy = if [reads, metrics].contains(&Mode::ProxyHeader) {
            let name = header.ok_or(AccessError::NoHeader)?;
            let parsed = HeaderName::try_from(&name).map_err(|_| AccessError::Header(name))?;
            if parsed == header::AUTHORIZATION {
                return Err(AccessError::Authorization);
            }
            if proxies.is_empty() {
                return Err(AccessError::NoProxies);
            }
            Some((parsed, proxies.iter().map(IpAddr::to_canonical).collect()))
        } else if header.is_some() || !proxies.is_empty() {
            return Err(AccessError::Unused);
        } else {
            None
        };
        Ok(Self { reads, metrics, proxy, look_again: LOOK_AGAIN })
    }
}

impl Access {
    /// Returns each key with its value, as a configuration shows it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, String)> {
        let (header, proxies) = match &self.proxy {
            Some((header, proxies)) => {
                let proxies: Vec<String> = proxies.iter().map(IpAddr::to_string).collect();
                (header.to_string(), proxies.join(", "))
            }
            None => Default::default(),
        };
        [
            ("access.reads", self.reads.word().to_owned()),
            ("access.metrics", self.metrics.word().to_owned()),
            ("access.header", header),
            ("access.proxies", proxies),
        ]
        .into_iter()
    }

    /// Tells whether a proxy of ours vouches for whoever asks. One name, not several: where a
    /// proxy adds its header to one that a client has sent, nobody knows which is the proxy's.
    fn is_vouched(&self, peer: Option<Peer>, headers: &HeaderMap) -> bool {
        let Some(((name, proxies), Peer(peer))) = self.proxy.as_ref().zip(peer) else {
            return false;
        };
        let mut readers = headers.get_all(name).iter();
        let (first, second) = (readers.next(), readers.next());
        let is_name = |it: &[u8]| (1..=MAX_READER).contains(&it.trim_ascii().len());
        proxies.contains(&peer)
            && second.is_none()
            && first.is_some_and(|reader| is_name(reader.as_bytes()))
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Lets through whoever may read the API.
pub(crate) async fn reads(
    State(app): State<Arc<App>>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    // What has no good name has no tokens either; where reads are open, the handler refuses it.
    let realm = parameters.ok().and_then(|all| {
        let (_, realm) = all.iter().find(|(name, _)| *name == "realm")?;
        RealmName::parse(realm).ok()
    });
    let scope = realm.map_or(Scope::None, Scope::Realm);
    guard(app.access.reads, app, scope, request, next).await
}

/// Lets through whoever may read metrics, which tell of all realms: a token of any will do.
pub(crate) async fn metrics(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    guard(app.access.metrics, app, Scope::Any, request, next).await
}

/// Whose tokens count.
#[derive(Debug, Clone)]
enum Scope {
    None,
    Realm(RealmName),
    Any,
}

async fn guard(mode: Mode, app: Arc<App>, scope: Scope, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let vouched = mode == Mode::ProxyHeader && app.access.is_vouched(peer, request.headers());
    if mode == Mode::Open || vouched {
        return next.run(request).await;
    }
    let Some(hash) = bearer(request.headers()).map(tokens::hash) else {
        return refusal("no read token came with the request");
    };
    match is_good(&app, hash, &scope).await {
        Ok(true) => {}
        Ok(false) => {
            return refusal("the read token is unknown, has ended, or is of another realm");
        }
        Err(error) => return ApiError::of_database(&error).into_response(),
    }
    let response = next.run(request).await;
    if !is_endless(&response) {
        return response;
    }
    // A stream of events outlives its request: it ends soon after its token.
    let ended = async move {
        loop {
            tokio::time::sleep(app.access.look_again).await;
            // A database that does not answer takes nothing from who was let in.
            if matches!(is_good(&app, hash, &scope).await, Ok(false)) {
                return;
            }
        }
    };
    let (parts, body) = response.into_parts();
    let body = body.into_data_stream().take_until(Box::pin(ended));
    Response::from_parts(parts, Body::from_stream(body))
}

/// What is compared are hashes of 256 random bits: how long it takes tells nothing of a token.
async fn is_good(app: &App, hash: [u8; 32], scope: &Scope) -> Result<bool, DbError> {
    let realm = match scope {
        Scope::None => return Ok(false),
        Scope::Realm(realm) => Some(realm.clone()),
        Scope::Any => None,
    };
    app.db.may_read(hash, realm, app.time()).await
}

/// Returns the token of the one `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (first, second) = (all.next()?, all.next());
    let (scheme, token) = first.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let is_one = scheme.eq_ignore_ascii_case("bearer") && second.is_none();
    (is_one && (1..=MAX_TOKEN).contains(&token.len())).then_some(token)
}

fn is_endless(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    kind.is_some_and(|kind| crate::api::events::KINDS.iter().any(|it| it.as_bytes() == kind))
}

fn refusal(why: &str) -> Response {
    let problem = Problem::new(Kind::Usage, "read_token", "this registry tells readers only")
        .because(why)
        .leaves("nothing is told")
        .fix(
            "have a read token made where the registry's folder is, write it into a file, and \
             name that as `token_file` in registry.toml or in SHOAL_TOKEN_FILE; other programs \
             send `Authorization: Bearer TOKEN`",
        )
        .next("registry token create NAME");
    let mut response = ApiError::new(StatusCode::UNAUTHORIZED, problem).into_response();
    let challenge = axum::http::HeaderValue::from_static("Bearer realm=\"shoal\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(text: &str) -> Result<Access, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn metrics_are_as_closed_as_reads_unless_somebody_opens_them() {
        let modes = |text| access(text).map(|it| (it.reads, it.metrics)).unwrap();
        assert_eq!(modes(""), (Mode::Open, Mode::Open));
        assert_eq!(modes("reads = 'token'"), (Mode::Token, Mode::Token));
        assert_eq!(modes("reads = 'token'\nmetrics = 'open'"), (Mode::Token, Mode::Open));
    }

    #[test]
    fn what_would_not_do_what_it_says_is_refused() {
        let proxy = "reads = 'proxy-header'\n";
        for (text, error) in [
            (format!("{proxy}proxies = ['::1']"), AccessError::NoHeader),
            (format!("{proxy}header = 'x-user'"), AccessError::NoProxies),
            (format!("{proxy}header = 'x user'"), AccessError::Header("x user".to_owned())),
            (format!("{proxy}header = 'Authorization'"), AccessError::Authorization),
            ("header = 'x-user'".to_owned(), AccessError::Unused),
            ("reads = 'token'\nproxies = ['::1']".to_owned(), AccessError::Unused),
        ] {
            assert_eq!(access(&text).unwrap_err(), error.to_string(), "{text}");
        }
        assert!(access("reads = 'closed'").is_err());
        assert!(access("read = 'token'").is_err());
    }

    #[test]
    fn only_one_name_from_one_of_our_proxies_counts() {
        let written =
            "reads = 'proxy-header'\nheader = 'X-User'\nproxies = ['10.0.0.1', 'fd00::1']";
        let access = access(written).unwrap();
        let check = |peer: &str, names: &[&str]| {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append("x-user", name.parse().unwrap());
            }
            access.is_vouched(Some(Peer(peer.parse().unwrap())), &headers)
        };
        assert!(check("10.0.0.1", &["ada"]) && check("fd00::1", &["ada"]));
        assert!(!check("10.0.0.2", &["ada"]), "anybody may send a header");
        assert!(!check("10.0.0.1", &[]) && !check("10.0.0.1", &[" "]));
        assert!(!check("10.0.0.1", &["mallory", "ada"]));
        assert!(!check("10.0.0.1", &["a".repeat(MAX_READER + 1).as_str()]));
        assert!(!access.is_vouched(None, &HeaderMap::new()));
    }

    #[test]
    fn a_token_comes_once_and_as_bearer() {
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(check(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(check(&["bearer  abc"]).as_deref(), Some("abc"));
        for bad in [&["Basic abc"][..], &["Bearer "], &["abc"], &[], &["Bearer a", "Bearer b"]] {
            assert_eq!(check(bad), None, "{bad:?}");
        }
        assert_eq!(check(&[&format!("Bearer {}", "a".repeat(MAX_TOKEN + 1))]), None);
    }
}
