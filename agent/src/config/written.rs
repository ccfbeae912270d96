//! The configuration as somebody wrote it: types are right, meanings are not checked yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::window::Window;

use super::{ConfigError, Origin, keys};

/// What holds where nobody wrote anything.
const DEFAULTS: &str = r#"
realm = "main"
groups = []
state_dir = "/var/lib/shoal"

[host.labels]

# An expiry is cut to the time that we first saw the file plus this many seconds, so that no key can
# sign itself eternity. Each is well above what the registry's own tools write.
[trust.max_age]
targets = 15552000
owners = 34560000
team = 34560000
snapshot = 2592000
timestamp = 604800

# `socket` is /run/shoal/agent.sock for the usual `state_dir`, else agent.sock in it; `metrics`, an
# address of the loopback, serves nobody unless it is given.
[daemon]
readers = "everyone"

[registry]
urls = []
poll = 60
# Long-polling holds a connection for each host, which is the registry's operator's choice.
wait = 0
# Seconds between two reports of a host on which nothing changes.
heartbeat = 60

[store]
root = "/"
connections = 16
# `bandwidth`, in bytes per second over all connections, caps nothing unless it is given.
# The room that a switch leaves for the rest of the host.
min_free = 536870912
# Bytes per second below which a download is given up, and the seconds over which that is measured.
min_rate = 1024
min_rate_over = 300
# `stall_timeout`, in seconds, is for impatient hosts: a cache may then keep us waiting no longer.

# Nothing is deleted unasked but what stands in the way: what is dead, and only as much as a fetch
# needs that would leave less than this.
[gc]
every = 0
min_free = 536870912
max_free = 0

# A switch that works, and loses the registry, is kept.
[health]
registry = false

# Without windows, what manifests and policies say is all that counts.
[windows]
fetch = []
switch = []
reboot = []

# Who publishes a kernel does not decide alone when machines go down.
[reboot]
allow = "never"

# `systemd` where it is the host's init: without it no units can be started.
[activation]
runner = "child"
"#;

/// All keys, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Written {
    pub(super) realm: String,
    pub(super) groups: Vec<String>,
    pub(super) state_dir: PathBuf,
    pub(super) host: Host,
    pub(super) trust: Trust,
    pub(super) registry: Registry,
    pub(super) store: Store,
    pub(super) cache: Vec<Cache>,
    pub(super) profiles: Profiles,
    pub(super) activation: Activation,
    pub(super) gc: Gc,
    pub(super) daemon: Daemon,
    pub(super) health: Health,
    pub(super) windows: Windows,
    pub(super) reboot: Reboot,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Host {
    pub(super) name: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Trust {
    pub(super) root: Option<PathBuf>,
    pub(super) root_sha256: Option<String>,
    pub(super) builders: Option<Vec<String>>,
    pub(super) caches: Option<Vec<String>>,
    pub(super) max_age: MaxAge,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct MaxAge {
    pub(super) targets: u32,
    pub(super) owners: u32,
    pub(super) team: u32,
    pub(super) snapshot: u32,
    pub(super) timestamp: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Registry {
    pub(super) urls: Vec<String>,
    pub(super) poll: u32,
    pub(super) wait: u32,
    pub(super) heartbeat: u32,
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    pub(super) root: PathBuf,
    pub(super) bandwidth: Option<u64>,
    pub(super) connections: u16,
    pub(super) min_free: u64,
    pub(super) min_rate: u64,
    pub(super) min_rate_over: u32,
    pub(super) stall_timeout: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    pub(super) url: String,
    pub(super) keys: Vec<String>,
    pub(super) netrc: Option<PathBuf>,
    pub(super) priority: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Profiles {
    pub(super) allow: Option<Vec<String>>,
    pub(super) activations: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Activation {
    pub(super) runner: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Windows {
    pub(super) fetch: Vec<Window>,
    pub(super) switch: Vec<Window>,
    pub(super) reboot: Vec<Window>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reboot {
    pub(super) allow: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Health {
    pub(super) registry: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Gc {
    pub(super) keep: Option<u32>,
    pub(super) older_than: Option<u32>,
    pub(super) every: u32,
    pub(super) min_free: u64,
    pub(super) max_free: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Daemon {
    pub(super) socket: Option<PathBuf>,
    pub(super) readers: String,
    pub(super) metrics: Option<String>,
}

/// The defaults, and over them one file after the other.
#[derive(Debug)]
pub(super) struct Merged {
    table: toml::Table,
    origins: BTreeMap<String, PathBuf>,
}

impl Merged {
    /// Starts with the defaults.
    pub(super) fn new() -> Result<Self, ConfigError> {
        let table =
            DEFAULTS.parse().map_err(|source| parse_error(Path::new("defaults"), source))?;
        Ok(Self { table, origins: BTreeMap::new() })
    }

    /// Lays one file over what is there.
    pub(super) fn add(&mut self, file: &Path, text: &str) -> Result<(), ConfigError> {
        let failed = |source| parse_error(file, source);
        let table: toml::Table = text.parse().map_err(failed)?;
        if let Some((key, near)) = keys::unknown(&table) {
            return Err(ConfigError::UnknownKey { path: file.to_owned(), key, near });
        }
        // Checks the types while the lines of the file can still be named.
        toml::from_str::<Written>(text).map_err(failed)?;
        lay_over("", &mut self.table, table, &mut |key| {
            self.origins.insert(key, file.to_owned());
        });
        Ok(())
    }

    /// Returns everything in one text, as one file would have it.
    pub(super) fn text(&self) -> String {
        // What was parsed can be written.
        toml::to_string(&self.table).unwrap_or_default()
    }

    /// Returns everything in one value.
    pub(super) fn written(&self) -> Result<Written, ConfigError> {
        let table = self.table.clone();
        table.try_into().map_err(|source| parse_error(Path::new("configuration"), source))
    }

    /// Returns where a key was written.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).map_or(Origin::Default, |path| Origin::File(path.clone()))
    }

    /// Returns each key with its value and where it was written.
    pub(super) fn values(&self) -> Vec<(String, toml::Value, Origin)> {
        let mut values = Vec::new();
        flatten("", &self.table, &mut |key, value| {
            values.push((key.clone(), value.clone(), self.origin(&key)));
        });
        values
    }
}

fn parse_error(path: &Path, source: toml::de::Error) -> ConfigError {
    ConfigError::Parse { path: path.to_owned(), source }
}

fn lay_over(
    prefix: &str,
    below: &mut toml::Table,
    above: toml::Table,
    note: &mut impl FnMut(String),
) {
    for (name, value) in above {
        let key = format!("{prefix}{name}");
        match (below.get_mut(&name), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => {
                lay_over(&format!("{key}."), inner, value, note);
            }
            (Some(toml::Value::Array(caches)), toml::Value::Array(more)) if key == "cache" => {
                caches.extend(more);
                note(key);
            }
            (_, toml::Value::Table(value)) => {
                let mut inner = toml::Table::new();
                lay_over(&format!("{key}."), &mut inner, value, note);
                below.insert(name, toml::Value::Table(inner));
            }
            (_, value) => {
                below.insert(name, value);
                note(key);
            }
        }
    }
}

fn flatten(prefix: &str, table: &toml::Table, note: &mut impl FnMut(String, &toml::Value)) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => flatten(&format!("{prefix}{name}."), inner, note),
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => note(format!("{prefix}{name}"), value),
        }
    }
}
