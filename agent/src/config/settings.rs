//! The configuration as the program uses it: valid, and built once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use shared::id::{Digest, GroupName, LabelName, LabelValue, ProfileName, RealmName};
use shared::manifest::{ActivationKind, HostFacts};
use shared::nix::PublicKey;
use shared::window::Windows;
use url::Url;

use super::ConfigError;
use super::written::{self, Merged, Written};

/// The usual `state_dir`.
const STATE_DIR: &str = "/var/lib/shoal";

/// Where the daemon of that state tells how the host is.
const SOCKET: &str = "/run/shoal/agent.sock";

/// The longest time between two polls.
const MAX_POLL: u32 = 24 * 3600;

/// The longest time that a registry may hold a request.
const MAX_WAIT: u32 = 600;

/// The longest patience with a cache.
const MAX_SECONDS: u32 = 24 * 3600;

/// The smallest cap on bandwidth, in bytes per second.
const MIN_BANDWIDTH: u64 = 1024;

/// Everything that the operator of this host decides.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The trust domain.
    pub(crate) realm: RealmName,
    /// The groups that this host follows.
    pub(crate) groups: Vec<GroupName>,
    /// Where the agent keeps its keys, its trust and its journal.
    pub(crate) state_dir: PathBuf,
    /// What manifests may match: the host's name, its system and its labels.
    pub(crate) host: HostFacts,
    /// Where trust begins.
    pub(crate) root: RootOfTrust,
    /// The builders to which this host narrows the policies' lists, if it does.
    pub(crate) builders: Option<Vec<PublicKey>>,
    /// The caches to which this host narrows the policies' lists, if it does.
    pub(crate) caches: Option<Vec<Url>>,
    /// How long each role may hold after it was first seen.
    pub(crate) max_age: MaxAge,
    /// The registry and its mirrors, in the order in which they are asked.
    pub(crate) registry: Registry,
    /// The store.
    pub(crate) store: Store,
    /// This host's own caches, besides those of the policies.
    pub(crate) extra_caches: Vec<ExtraCache>,
    /// The profiles that this host takes, if it narrows the policies' lists.
    pub(crate) allow: Option<Vec<ProfilePattern>>,
    /// Whether systemd is asked to start units, and for their state.
    pub(crate) has_units: bool,
    /// The kinds of activation that this host takes, if it narrows the policies' lists.
    pub(crate) activations: Option<Vec<ActivationKind>>,
    /// Whether a switch that loses the registry is undone.
    pub(crate) keeps_registry: bool,
    /// When this host fetches, switches and reboots, within what manifests and policies allow.
    pub(crate) windows: Windows,
    /// Whether this host reboots by itself.
    pub(crate) reboots: Reboots,
    /// Which generations are kept, and when the agent collects garbage by itself.
    pub(crate) gc: Gc,
    /// What the daemon shows, and to whom.
    pub(crate) daemon: Daemon,
    /// Who runs activation programs.
    pub(crate) runner: Runner,
    /// All of this in one text, as it was written, with the defaults.
    pub(crate) written: String,
}

/// What the daemon shows, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// Where it tells how the host is.
    pub(crate) socket: PathBuf,
    /// Whom it tells.
    pub(crate) readers: Readers,
    /// The address of the loopback where metrics are served, if they are.
    pub(crate) metrics: Option<SocketAddr>,
}

/// Whom the daemon tells how the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Every process of this host.
    Everyone,
    /// Root, and the user that the daemon runs as.
    Root,
}

/// Where trust begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootOfTrust {
    /// This file is the root metadata.
    File(PathBuf),
    /// The root metadata that the registry serves has this digest.
    Digest(Digest),
}

/// Seconds that each role may hold after it was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxAge {
    pub(crate) targets: u32,
    pub(crate) owners: u32,
    pub(crate) team: u32,
    pub(crate) snapshot: u32,
    pub(crate) timestamp: u32,
}

/// How the registry is asked.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) urls: Vec<Url>,
    pub(crate) poll: Duration,
    pub(crate) wait: Duration,
    /// How often a host on which nothing changes says that it is there.
    pub(crate) heartbeat: Duration,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Registry {
    /// Returns how a registry is asked of which only the address is known.
    pub(crate) fn plain(url: Url) -> Self {
        let (poll, wait) = (Duration::from_secs(60), Duration::ZERO);
        Self { urls: vec![url], poll, wait, heartbeat: poll, ca_file: None }
    }
}

/// Which store, and how gently.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) root: PathBuf,
    /// Bytes per second that all downloads together may take, if there is a cap.
    pub(crate) bandwidth: Option<u64>,
    pub(crate) connections: u16,
    pub(crate) min_free: u64,
    /// Bytes per second below which a download is given up; 0 for never.
    pub(crate) min_rate: u64,
    /// How long that is measured.
    pub(crate) min_rate_over: Duration,
    /// How long a cache may keep us waiting, if that is less than usual.
    pub(crate) stall_timeout: Option<Duration>,
}

/// A binary cache that only this host uses.
#[derive(Debug, Clone)]
pub(crate) struct ExtraCache {
    pub(crate) url: Url,
    pub(crate) keys: Vec<PublicKey>,
    /// A file with the password for it.
    pub(crate) netrc: Option<PathBuf>,
    pub(crate) priority: Option<u32>,
}

/// Which old generations are kept, with neither of the first two all; and when the agent collects
/// garbage by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gc {
    /// The newest ones, so many.
    pub(crate) keep: Option<usize>,
    /// Those that were replaced less long ago.
    pub(crate) older_than: Option<Duration>,
    /// The shortest time between two collections by the daemon, if it is to collect.
    pub(crate) every: Option<Duration>,
    /// Bytes: a fetch that would leave less collects first; 0 for never.
    pub(crate) min_free: u64,
    /// Bytes that are to be free after that; at least what the fetch needs.
    pub(crate) max_free: u64,
}

/// A profile's name, or the beginning of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProfilePattern {
    /// This profile.
    Exactly(ProfileName),
    /// Every profile whose name begins so.
    Prefix(String),
}

impl ProfilePattern {
    /// Says whether a profile is meant.
    pub(crate) fn matches(&self, profile: &ProfileName) -> bool {
        match self {
            Self::Exactly(name) => name == profile,
            Self::Prefix(prefix) => profile.as_str().starts_with(prefix),
        }
    }
}

/// Whether this host reboots by itself into a system that needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reboots {
    /// Somebody else reboots it.
    Never,
    /// Where its boot loader can boot a system once, so that a bad one is left by the next reboot.
    OneShot,
    /// Also where what is booted must become the default before anybody knows whether it works.
    Any,
}

/// Who runs activation programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runner {
    /// They are children of the agent; no units are started.
    Child,
    /// systemd is there, and starts the units of profiles.
    Systemd,
}

impl Settings {
    /// Checks what was written.
    pub(super) fn build(merged: &Merged) -> Result<Self, ConfigError> {
        let Written {
            realm,
            groups,
            state_dir,
            host,
            trust,
            registry,
            store,
            cache,
            profiles,
            activation,
            gc,
            daemon,
            health,
            windows,
            reboot,
        } = merged.written()?;
        let check = Check(merged);
        let runner = check.parse("activation.runner", &activation.runner)?;
        let activations =
            check.maybe_each("profiles.activations", profiles.activations.as_deref())?;
        let name = match host.name {
            Some(name) => name,
            None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let state_dir = check.absolute("state_dir", state_dir)?;
        Ok(Self {
            realm: check.parse("realm", &realm)?,
            groups: check.each("groups", &groups)?,
            daemon: check.daemon(daemon, &state_dir)?,
            state_dir,
            runner,
            written: merged.text(),
            host: HostFacts {
                name: check.parse("host.name", &name)?,
                system: check.parse("host.system", &crate::host::system())?,
                labels: check.labels(host.labels)?,
            },
            root: check.root_of_trust(&trust)?,
            builders: check.maybe_each("trust.builders", trust.builders.as_deref())?,
            caches: check.maybe_each("trust.caches", trust.caches.as_deref())?,
            max_age: MaxAge {
                targets: trust.max_age.targets,
                owners: trust.max_age.owners,
                team: trust.max_age.team,
                snapshot: trust.max_age.snapshot,
                timestamp: trust.max_age.timestamp,
            },
            registry: check.registry(registry)?,
            store: check.store(store)?,
            extra_caches: check.caches(cache)?,
            allow: check.maybe_each("profiles.allow", profiles.allow.as_deref())?,
            has_units: runner == Runner::Systemd,
            activations: available(runner, activations),
            keeps_registry: health.registry,
            gc: gc_of(&gc),
            windows: check.windows(windows)?,
            reboots: check.parse("reboot.allow", &reboot.allow)?,
        })
    }
}

fn gc_of(gc: &written::Gc) -> Gc {
    Gc {
        keep: gc.keep.map(|keep| usize::try_from(keep).unwrap_or(usize::MAX)),
        older_than: gc.older_than.map(|seconds| Duration::from_secs(seconds.into())),
        every: (gc.every > 0).then(|| Duration::from_secs(gc.every.into())),
        min_free: gc.min_free,
        max_free: gc.max_free,
    }
}

/// Returns the kinds of activation that are left if the runner cannot do all.
fn available(runner: Runner, allowed: Option<Vec<ActivationKind>>) -> Option<Vec<ActivationKind>> {
    match runner {
        Runner::Systemd => allowed,
        Runner::Child => {
            let mut left = allowed.unwrap_or(vec![ActivationKind::Exec, ActivationKind::None]);
            left.retain(|kind| matches!(kind, ActivationKind::Exec | ActivationKind::None));
            Some(left)
        }
    }
}

impl FromStr for ProfilePattern {
    type Err = <ProfileName as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix('*') {
            // What stands before the star must be the beginning of a name.
            Some(prefix) => {
                format!("{prefix}0").parse::<ProfileName>()?;
                Ok(Self::Prefix(prefix.to_owned()))
            }
            None => text.parse().map(Self::Exactly),
        }
    }
}

impl FromStr for Readers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "everyone" => Ok(Self::Everyone),
            "root" => Ok(Self::Root),
            other => Err(format!("`{other}` is neither `everyone` nor `root`")),
        }
    }
}

impl FromStr for Reboots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "never" => Ok(Self::Never),
            "one-shot" => Ok(Self::OneShot),
            "any" => Ok(Self::Any),
            other => Err(format!("`{other}` is none of `never`, `one-shot` and `any`")),
        }
    }
}

impl FromStr for Runner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "child" => Ok(Self::Child),
            "systemd" => Ok(Self::Systemd),
            other => Err(format!("`{other}` is no runner: `systemd` and `child` are")),
        }
    }
}

/// Turns words into meanings, and says where a wrong word was written.
struct Check<'a>(&'a Merged);

impl Check<'_> {
    fn invalid(&self, key: &str, why: impl std::fmt::Display) -> ConfigError {
        let origin = self.0.origin(key).to_string();
        ConfigError::Invalid { origin, key: key.to_owned(), why: why.to_string() }
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(
        &self,
        key: &str,
        text: &str,
    ) -> Result<T, ConfigError> {
        text.parse().map_err(|error: T::Err| self.invalid(key, error))
    }

    fn each<T: FromStr<Err: std::fmt::Display>>(
        &self,
        key: &str,
        words: &[String],
    ) -> Result<Vec<T>, ConfigError> {
        words.iter().map(|word| self.parse(key, word)).collect()
    }

    fn maybe_each<T: FromStr<Err: std::fmt::Display>>(
        &self,
        key: &str,
        words: Option<&[String]>,
    ) -> Result<Option<Vec<T>>, ConfigError> {
        words.map(|words| self.each(key, words)).transpose()
    }

    fn between<T: PartialOrd + Copy + std::fmt::Display>(
        &self,
        key: &str,
        value: T,
        least: T,
        most: T,
    ) -> Result<T, ConfigError> {
        if value < least || value > most {
            return Err(self.invalid(key, format!("{value} is not between {least} and {most}")));
        }
        Ok(value)
    }

    fn store(&self, store: written::Store) -> Result<Store, ConfigError> {
        let stall_timeout =
            store.stall_timeout.map(|seconds| self.seconds("store.stall_timeout", seconds));
        Ok(Store {
            root: self.absolute("store.root", store.root)?,
            bandwidth: self.bandwidth(store.bandwidth)?,
            connections: self.between("store.connections", store.connections, 1, 128)?,
            min_free: store.min_free,
            min_rate: store.min_rate,
            min_rate_over: self.seconds("store.min_rate_over", store.min_rate_over)?,
            stall_timeout: stall_timeout.transpose()?,
        })
    }

    fn seconds(&self, key: &str, seconds: u32) -> Result<Duration, ConfigError> {
        let seconds = self.between(key, seconds, 1, MAX_SECONDS)?;
        Ok(Duration::from_secs(seconds.into()))
    }

    fn bandwidth(&self, cap: Option<u64>) -> Result<Option<u64>, ConfigError> {
        // Below that, caches and proxies would take us for a connection that hangs.
        let allowed = |cap| self.between("store.bandwidth", cap, MIN_BANDWIDTH, u64::MAX);
        cap.map(allowed).transpose()
    }

    fn absolute(&self, key: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
        if !path.is_absolute() {
            return Err(self.invalid(key, format!("`{}` is not absolute", path.display())));
        }
        Ok(path)
    }

    fn windows(&self, written: written::Windows) -> Result<Windows, ConfigError> {
        let written::Windows { fetch, switch, reboot } = written;
        let windows = Windows { fetch, switch, reboot };
        let checked = crate::windows::check(&windows);
        checked.map_err(|error| self.invalid("windows", error)).map(|()| windows)
    }

    fn labels(
        &self,
        labels: BTreeMap<String, String>,
    ) -> Result<BTreeMap<LabelName, LabelValue>, ConfigError> {
        let label = |(name, value): (String, String)| {
            let key = format!("host.labels.{name}");
            Ok((self.parse(&key, &name)?, self.parse(&key, &value)?))
        };
        labels.into_iter().map(label).collect()
    }

    fn url(&self, key: &str, text: &str, schemes: &[&str]) -> Result<Url, ConfigError> {
        let url: Url = self.parse(key, text)?;
        // Addresses are in every log and every report; a password must be in none.
        if !url.username().is_empty() || url.password().is_some() {
            let why = "an address must not hold a user or password: a cache's belong into the \
                       file that its `netrc` names";
            return Err(self.invalid(key, why));
        }
        if !schemes.contains(&url.scheme()) {
            let schemes = schemes.join("` or `");
            return Err(self.invalid(key, format!("`{text}` is no `{schemes}` URL")));
        }
        Ok(url)
    }

    fn root_of_trust(&self, trust: &written::Trust) -> Result<RootOfTrust, ConfigError> {
        match (&trust.root, &trust.root_sha256) {
            (Some(path), None) => Ok(RootOfTrust::File(self.absolute("trust.root", path.clone())?)),
            (None, Some(digest)) => {
                let parsed = super::parse_fingerprint(digest).ok_or_else(|| {
                    self.invalid("trust.root_sha256", "is not 64 lower-case hexadecimal digits")
                })?;
                Ok(RootOfTrust::Digest(parsed))
            }
            (None, None) => {
                Err(self.invalid("trust", "needs `root` (a file) or `root_sha256` (its digest)"))
            }
            (Some(_), Some(_)) => Err(self.invalid("trust.root", "excludes `trust.root_sha256`")),
        }
    }

    fn registry(&self, registry: written::Registry) -> Result<Registry, ConfigError> {
        let url = |text: &String| self.url("registry.urls", text, &["https", "http"]);
        let urls = registry.urls.iter().map(url).collect::<Result<_, _>>()?;
        let poll = self.between("registry.poll", registry.poll, 1, MAX_POLL)?;
        let wait = self.between("registry.wait", registry.wait, 0, MAX_WAIT)?;
        let heartbeat = self.between("registry.heartbeat", registry.heartbeat, 1, MAX_POLL)?;
        let ca_file = registry.ca_file.map(|path| self.absolute("registry.ca_file", path));
        Ok(Registry {
            urls,
            poll: Duration::from_secs(poll.into()),
            wait: Duration::from_secs(wait.into()),
            heartbeat: Duration::from_secs(heartbeat.into()),
            ca_file: ca_file.transpose()?,
        })
    }

    fn daemon(&self, daemon: written::Daemon, state_dir: &Path) -> Result<Daemon, ConfigError> {
        let socket = match daemon.socket {
            Some(path) => self.absolute("daemon.socket", path)?,
            None if state_dir == Path::new(STATE_DIR) => SOCKET.into(),
            None => state_dir.join("agent.sock"),
        };
        let metrics = daemon.metrics.map(|text| {
            let address: SocketAddr = self.parse("daemon.metrics", &text)?;
            if address.ip().is_loopback() {
                return Ok(address);
            }
            let why = format!("`{text}` is no address of the loopback, such as 127.0.0.1:9469");
            Err(self.invalid("daemon.metrics", why))
        });
        let readers = self.parse("daemon.readers", &daemon.readers)?;
        Ok(Daemon { socket, readers, metrics: metrics.transpose()? })
    }

    fn caches(&self, caches: Vec<written::Cache>) -> Result<Vec<ExtraCache>, ConfigError> {
        let cache = |cache: written::Cache| {
            Ok(ExtraCache {
                url: self.url("cache", &cache.url, &["https", "http", "file"])?,
                keys: self.each("cache", &cache.keys)?,
                netrc: cache.netrc.map(|file| self.absolute("cache", file)).transpose()?,
                priority: cache.priority,
            })
        };
        caches.into_iter().map(cache).collect()
    }
}
