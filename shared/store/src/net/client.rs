//! HTTP clients: whose certificates they believe, and where they let themselves be sent.

use std::{
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
};

use reqwest::{Certificate, Client, ClientBuilder, redirect};
use url::{Host, Url};

use super::limits::MAX_REDIRECTS;

/// The variables that name a file of certificate authorities instead of the system's; the first
/// one that is set counts, as in Nix.
const AUTHORITIES: [&str; 2] = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"];
/// What Nix's shells set where there shall be no authorities.
const NO_AUTHORITIES: &str = "/no-cert-file.crt";
/// The variables that send plain HTTP through a proxy.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// Why the network cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The file of certificate authorities is unusable.
    #[error("cannot use the certificate authorities in `{}`{origin}", .file.display())]
    Authorities {
        /// The file.
        file: PathBuf,
        /// Where its name comes from, in brackets, unless somebody just gave it.
        origin: String,
        /// What happened.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The client cannot be made.
    #[error("cannot prepare for HTTP")]
    Client(#[source] reqwest::Error),
}

/// Which certificate authorities are believed.
#[derive(Debug, Clone, Copy)]
pub enum Authorities<'a> {
    /// Those of the environment or the system, and those in this file.
    SystemAnd(Option<&'a Path>),
    /// Those in this file alone.
    Only(&'a Path),
    /// None: for whoever speaks plain HTTP alone, on machines that may have no certificates.
    Nobody,
}

/// Makes a client; `set` sets its timeouts and whatever else is its own.
///
/// It follows redirects within one origin, so that no server can send us, or what we are to keep
/// secret, anywhere else.
///
/// # Errors
/// When a file of certificate authorities is unusable.
pub fn client(
    user_agent: &str,
    authorities: Authorities<'_>,
    set: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Client, NetworkError> {
    let builder = || {
        let builder = Client::builder().user_agent(user_agent).referer(false);
        set(builder.redirect(redirect::Policy::custom(follow)))
    };
    let environment = authority_file(std::env::var_os);
    let built = match (authorities, environment) {
        (Authorities::Nobody, _) => builder().tls_certs_only([]).build(),
        (Authorities::Only(file), _) => builder().tls_certs_only(read(file, None)?).build(),
        (Authorities::SystemAnd(None), None) => {
            // A machine without any certificates can still speak plain HTTP.
            builder().build().or_else(|_| builder().tls_certs_only([]).build())
        }
        (Authorities::SystemAnd(Some(file)), None) => {
            builder().tls_certs_merge(read(file, None)?).build()
        }
        (Authorities::SystemAnd(more), Some((name, file))) => {
            let mut believed = match file.to_str() {
                Some(NO_AUTHORITIES) => Vec::new(),
                _ => read(&file, Some(name))?,
            };
            believed.extend(more.map(|file| read(file, None)).transpose()?.unwrap_or_default());
            builder().tls_certs_only(believed).build()
        }
    };
    built.map_err(NetworkError::Client)
}

/// Returns the variable that names a file of authorities, and the file.
fn authority_file(
    get: impl Fn(&'static str) -> Option<OsString>,
) -> Option<(&'static str, PathBuf)> {
    let set = |name| Some((name, get(name).filter(|value| !value.is_empty())?.into()));
    AUTHORITIES.into_iter().find_map(set)
}

fn read(file: &Path, variable: Option<&str>) -> Result<Vec<Certificate>, NetworkError> {
    let refused = |source| NetworkError::Authorities {
        file: file.to_owned(),
        origin: variable.map(|name| format!(" ({name})")).unwrap_or_default(),
        source,
    };
    let pem = std::fs::read(file).map_err(|error| refused(Box::from(error)))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| refused(Box::from(error)))?;
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

/// Returns whether nobody on the way to a URL can read what is sent there.
pub(crate) fn may_carry_secrets(url: &Url) -> bool {
    is_private(url, std::env::var_os)
}

fn is_private(url: &Url, get: impl Fn(&'static str) -> Option<OsString>) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    // A proxy reads plain HTTP; `no_proxy` may say otherwise, but this is not the place to trust it.
    let proxied = || PROXIES.iter().any(|name| get(name).is_some_and(|value| !value.is_empty()));
    url.scheme() == "https" || (is_loopback && !proxied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one<'a>(name: &'a str, value: &'a str) -> impl Fn(&'static str) -> Option<OsString> {
        move |asked| (asked == name).then(|| value.into())
    }

    #[test]
    fn nix_own_variable_outranks_the_general_one() {
        let both = |name: &'static str| Some(format!("/{name}").into());
        let file = |name: &'static str| Some((name, PathBuf::from(format!("/{name}"))));
        assert_eq!(authority_file(both), file("NIX_SSL_CERT_FILE"));
        assert_eq!(authority_file(one("SSL_CERT_FILE", "/SSL_CERT_FILE")), file("SSL_CERT_FILE"));
        assert_eq!(authority_file(one("SSL_CERT_FILE", "")), None);
    }

    #[test]
    fn a_file_that_a_variable_names_is_told_with_the_variable() {
        let error = read(Path::new("/nonexistent/ca"), Some("SSL_CERT_FILE")).unwrap_err();
        assert!(error.to_string().ends_with("`/nonexistent/ca` (SSL_CERT_FILE)"), "{error}");
    }

    #[test]
    fn secrets_go_over_tls_or_stay_on_this_machine() {
        let check = |url: &str, expected: bool| {
            let private = is_private(&url.parse().unwrap(), |_| None);
            assert_eq!(private, expected, "{url}");
        };
        check("https://cache.example/", true);
        check("http://cache.example/", false);
        check("http://localhost:8080/", true);
        check("http://127.0.0.2/", true);
        check("http://[::1]:8080/", true);
        check("http://localhost.example/", false);
        check("http://10.0.0.1/", false);
        let local = "http://127.0.0.1/".parse().unwrap();
        assert!(!is_private(&local, one("all_proxy", "http://proxy")));
        assert!(is_private(&local, one("https_proxy", "http://proxy")));
    }
}
