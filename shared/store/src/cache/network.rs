//! What all caches share: the client, its patience, passwords, and what was seen of each cache.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Client, header::HeaderValue};
use url::Url;

use super::{Location, health::Health};
use crate::net::{
    self, Authorities, Backoff, Bandwidth, Netrc, NetrcError, NetworkError, Pace, limits,
};

/// How to use the network. Every default is a number of [`limits`], with its reason.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// PEM file of certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long the head of an answer may take.
    pub header_timeout: Duration,
    /// How long an answer may stand still.
    pub stall_timeout: Duration,
    /// How long an answer that is no NAR may take as a whole.
    pub small_file_timeout: Duration,
    /// The rate in bytes per second that a NAR must have; 0 for none.
    pub min_rate: u64,
    /// How long that rate is measured.
    pub rate_window: Duration,
    /// How long it is measured while others could be asked for the NAR.
    pub hasty_rate_window: Duration,
    /// How often a request is made before its cache counts as unreachable; at least 1.
    pub attempts: u32,
    /// The longest pause before the second try; it doubles.
    pub backoff: Duration,
    /// Bytes per second that all connections together may take, if there is a cap.
    pub bandwidth: Option<u64>,
    /// Files with the passwords for single caches.
    pub netrc_of: HashMap<Location, PathBuf>,
    /// The file with the passwords for all others.
    pub netrc: Option<PathBuf>,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            ca_file: None,
            connect_timeout: limits::CONNECT,
            header_timeout: limits::HEADERS,
            stall_timeout: limits::IDLE,
            small_file_timeout: limits::SMALL_FILE,
            min_rate: limits::MIN_RATE,
            rate_window: limits::RATE_WINDOW,
            hasty_rate_window: limits::HASTY_RATE_WINDOW,
            attempts: limits::ATTEMPTS,
            backoff: limits::RETRY.base,
            bandwidth: None,
            netrc_of: HashMap::new(),
            netrc: None,
        }
    }
}

impl NetworkOptions {
    /// Lets no cache keep us waiting longer than this: for a connection, for the head of an answer,
    /// for the next byte, for a small file as a whole.
    #[must_use]
    pub fn waiting_at_most(mut self, patience: Duration) -> Self {
        for timeout in [
            &mut self.connect_timeout,
            &mut self.header_timeout,
            &mut self.stall_timeout,
            &mut self.small_file_timeout,
        ] {
            *timeout = (*timeout).min(patience);
        }
        self
    }

    /// Returns the defaults, with the passwords of the file that `NETRC` names.
    #[must_use]
    pub fn from_environment() -> Self {
        let netrc = std::env::var_os("NETRC").filter(|file| !file.is_empty());
        Self { netrc: netrc.map(PathBuf::from), ..Self::default() }
    }
}

/// A client with keep-alive connections, shared by all caches, and what was seen of them.
///
/// Clones are the same one. Whoever lives long keeps it, so that a cache that lied is remembered.
#[derive(Debug, Clone)]
pub struct Network {
    pub(super) client: Client,
    pub(super) options: Arc<NetworkOptions>,
    pub(super) bandwidth: Bandwidth,
    book: Arc<Mutex<BTreeMap<Arc<str>, Record>>>,
}

/// What was seen of one cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Health>>);

impl Record {
    /// Locks it, for a moment.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Prepares a client.
    ///
    /// # Errors
    /// When a file of certificate authorities is unusable.
    pub fn new(options: &NetworkOptions) -> Result<Self, NetworkError> {
        let user_agent = concat!("shoal/", env!("CARGO_PKG_VERSION"));
        let authorities = Authorities::SystemAnd(options.ca_file.as_deref());
        let client = net::client(user_agent, authorities, |builder| {
            // Not its timeout for reading, which would hold for heads as well.
            builder.connect_timeout(options.connect_timeout)
        });
        Ok(Self {
            client: client?,
            options: Arc::new(options.clone()),
            bandwidth: Bandwidth::new(options.bandwidth),
            book: Arc::default(),
        })
    }

    /// Returns what was seen of a cache.
    pub(super) fn record(&self, cache: &Arc<str>) -> Record {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.entry(Arc::clone(cache)).or_default().clone()
    }

    /// Returns how often a request is made.
    pub(super) fn attempts(&self, haste: Haste) -> u32 {
        let most = match haste {
            Haste::OthersCanDoIt => limits::HASTY_ATTEMPTS,
            Haste::None => u32::MAX,
        };
        self.options.attempts.clamp(1, most)
    }

    /// Returns the pause after so many failures.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let backoff = Backoff { base: self.options.backoff, ..limits::RETRY };
        backoff.pause(failures, rand::random_range(0.0..=1.0))
    }

    /// Returns the rate that a NAR must keep, if it must.
    pub(super) fn pace(&self, haste: Haste) -> Option<Pace> {
        let NetworkOptions { min_rate, rate_window, hasty_rate_window, .. } = *self.options;
        let window = match haste {
            Haste::None => rate_window,
            Haste::OthersCanDoIt => hasty_rate_window.min(rate_window),
        };
        (min_rate > 0).then(|| Pace::new(min_rate, window))
    }

    /// Reads the password for a cache, if there is one and it may be sent.
    ///
    /// Read each time that a cache is opened, so that a new password needs no new process.
    pub(super) fn authorization(
        &self,
        location: &Location,
        url: &Url,
    ) -> Result<Option<HeaderValue>, NetrcError> {
        let in_url = || {
            let has = !url.username().is_empty() || url.password().is_some();
            has.then(|| net::basic(&plain(url.username()), &plain(url.password().unwrap_or(""))))
        };
        let file = self.options.netrc_of.get(location).or(self.options.netrc.as_ref());
        let in_file = match (file, url.host_str()) {
            (Some(file), Some(host)) => Netrc::load(file)?.authorization(host),
            _ => None,
        };
        let Some(password) = in_file.or_else(in_url) else { return Ok(None) };
        if net::may_carry_secrets(url) {
            return Ok(Some(password));
        }
        tracing::warn!(
            cache = %location,
            "a password is not sent over plain HTTP: give the cache an https address"
        );
        Ok(None)
    }
}

/// Resolves the percent signs of a user's name or password in a URL.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let hex = others.get(..2).filter(|_| *first == b'%');
        let decoded = hex.and_then(|hex| data_encoding::HEXLOWER_PERMISSIVE.decode(hex).ok());
        match decoded.as_deref() {
            Some([byte]) => {
                bytes.push(*byte);
                rest = others.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether somebody else could be asked instead: then nobody waits long for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Haste {
    /// This cache is all that there is.
    #[default]
    None,
    /// Another cache may deliver the same.
    OthersCanDoIt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_meant_as_it_reads() {
        assert_eq!(plain("p%40ss%2fword%"), "p@ss/word%");
        assert_eq!(plain("%zz%c3%a4"), "%zzä");
    }

    #[test]
    fn nobody_waits_long_while_somebody_else_could_be_asked() {
        let network = Network::new(&NetworkOptions::default()).unwrap();
        assert_eq!(network.attempts(Haste::None), limits::ATTEMPTS);
        assert_eq!(network.attempts(Haste::OthersCanDoIt), limits::HASTY_ATTEMPTS);
        let minute = Duration::from_secs(60);
        assert!(network.pace(Haste::None).unwrap().note(0, minute).is_ok());
        assert!(network.pace(Haste::OthersCanDoIt).unwrap().note(0, minute).is_err());
        let patient = NetworkOptions { min_rate: 0, ..NetworkOptions::default() };
        assert!(Network::new(&patient).unwrap().pace(Haste::None).is_none());
    }

    #[test]
    fn what_was_seen_of_a_cache_outlives_its_opening() {
        let network = Network::new(&NetworkOptions::default()).unwrap();
        let (clone, now) = (network.clone(), std::time::Instant::now());
        network.record(&Arc::from("a")).lock().lied(now, now, 0.0);
        let again = clone.record(&Arc::from("a")).lock().standing(0, now);
        assert_ne!(again, network.record(&Arc::from("b")).lock().standing(0, now));
    }
}
