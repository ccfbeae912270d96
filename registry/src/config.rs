//! Settings of the registry's commands: option, environment, file, default, in this order.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use shared::problem::{Kind, Problem};

use crate::{access::Access, cli::Global, db::retention::Retention};

const SYSTEM_FILE: &str = "/etc/shoal/registry.toml";
const DEFAULT_REGISTRY: &str = "http://127.0.0.1:8420";
const DEFAULT_REALM: &str = "main";
const DEFAULT_DATA: &str = "/var/lib/shoal-registry";

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read configuration file `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use line {line} of configuration file `{path}`")]
    Parse {
        path: PathBuf,
        line: usize,
        #[source]
        source: WrittenError,
    },
}

/// What is wrong with a line, without the drawing that TOML's own error makes of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrittenError(String);

/// A configuration file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    registry: Option<String>,
    realm: Option<String>,
    data: Option<PathBuf>,
    retention: Option<Retention>,
    token_file: Option<PathBuf>,
    access: Option<Access>,
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Option(&'static str),
    Environment(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) => write!(f, "option {name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value that remembers where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

/// A setting as `config show` prints it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) value: String,
    pub(crate) origin: String,
}

/// What the commands go by.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The URL of the registry, without a slash at its end.
    pub(crate) registry: Setting<String>,
    /// The name of the realm.
    pub(crate) realm: Setting<String>,
    /// The folder of the server's files, where a command does not name it.
    pub(crate) data: Setting<PathBuf>,
    /// The folder of this signer: `$XDG_CONFIG_HOME/shoal`.
    pub(crate) signer: Setting<PathBuf>,
    /// The folder of what this user has verified before: `$XDG_STATE_HOME/shoal`.
    pub(crate) state: Setting<PathBuf>,
    /// How long a server keeps what hosts said.
    pub(crate) retention: Retention,
    retention_origin: Origin,
    /// Where the token is with which a closed registry is read, if it needs one.
    pub(crate) token_file: Option<Setting<PathBuf>>,
    /// Who may read what a server knows.
    pub(crate) access: Access,
    access_origin: Origin,
}

impl Settings {
    /// Gathers the settings of this run.
    pub(crate) fn load(global: &Global) -> Result<Self, Problem> {
        Self::gather(global, &|name| {
            let set = std::env::var(name).ok().filter(|text| !text.is_empty());
            // systemd gives a server no HOME; the user database knows it all the same.
            set.or_else(|| {
                let home = std::env::home_dir().filter(|_| name == "HOME")?;
                home.into_os_string().into_string().ok()
            })
        })
    }

    fn gather(
        global: &Global,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problem> {
        let signer = home_folder(environment, "XDG_CONFIG_HOME", ".config")?;
        let state = home_folder(environment, "XDG_STATE_HOME", ".local/state")?;
        let files = match &global.config {
            Some(path) => vec![(path.clone(), read_file(path)?)],
            None => {
                let own = signer.value.join("registry.toml");
                [own, PathBuf::from(SYSTEM_FILE)]
                    .into_iter()
                    .filter(|path| path.exists())
                    .map(|path| read_file(&path).map(|file| (path, file)))
                    .collect::<Result<_, _>>()?
            }
        };
        let sources = Sources { environment, files };
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let path = |it: Setting<String>| Setting { value: it.value.into(), origin: it.origin };
        let mut registry = sources.choose(
            global.registry.as_ref(),
            ("--registry", "SHOAL_REGISTRY"),
            &|file| file.registry.clone(),
            DEFAULT_REGISTRY,
        );
        registry.value.truncate(registry.value.trim_end_matches('/').len());
        let realm = sources.choose(
            global.realm.as_ref(),
            ("--realm", "SHOAL_REALM"),
            &|file| file.realm.clone(),
            DEFAULT_REALM,
        );
        let names = ("--data", "SHOAL_DATA");
        let data = sources.choose(None, names, &|file| file.data.as_ref().map(text), DEFAULT_DATA);
        let names = ("", "SHOAL_TOKEN_FILE");
        let token_file =
            sources.choose(None, names, &|file| file.token_file.as_ref().map(text), "");
        let (retention, retention_origin) = sources.table(|file| file.retention);
        let (access, access_origin) = sources.table(|file| file.access.clone());
        Ok(Self {
            registry,
            realm,
            data: path(data),
            signer,
            state,
            retention,
            retention_origin,
            token_file: Some(path(token_file)).filter(|it| !it.value.as_os_str().is_empty()),
            access,
            access_origin,
        })
    }

    /// Returns all settings as text.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let row =
            |key, value: String, origin: &Origin| Row { key, value, origin: origin.to_string() };
        let path = |setting: &Setting<PathBuf>| setting.value.display().to_string();
        vec![
            row("registry", self.registry.value.clone(), &self.registry.origin),
            row("realm", self.realm.value.clone(), &self.realm.origin),
            row("data", path(&self.data), &self.data.origin),
            row("signer", path(&self.signer), &self.signer.origin),
            row("state", path(&self.state), &self.state.origin),
        ]
        .into_iter()
        .chain(self.retention.rows().map(|(key, value)| Row {
            key,
            value,
            origin: self.retention_origin.to_string(),
        }))
        .chain(self.access.rows().map(|(key, value)| Row {
            key,
            value,
            origin: self.access_origin.to_string(),
        }))
        .chain(self.token_file.iter().map(|it| row("token_file", path(it), &it.origin)))
        .collect()
    }
}

/// Where settings come from, but for the options.
struct Sources<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// The files, the first that says something outranking those behind it.
    files: Vec<(PathBuf, File)>,
}

impl Sources<'_> {
    /// Chooses a setting by the name of its option and of its variable.
    fn choose(
        &self,
        option: Option<&String>,
        names: (&'static str, &'static str),
        field: &dyn Fn(&File) -> Option<String>,
        default: &str,
    ) -> Setting<String> {
        if let Some(value) = option {
            return Setting { value: value.clone(), origin: Origin::Option(names.0) };
        }
        if let Some(value) = (self.environment)(names.1) {
            return Setting { value, origin: Origin::Environment(names.1) };
        }
        for (path, file) in &self.files {
            if let Some(value) = field(file) {
                return Setting { value, origin: Origin::File(path.clone()) };
            }
        }
        Setting { value: default.to_owned(), origin: Origin::Default }
    }

    /// Returns the first table of this kind that is written.
    fn table<T: Default>(&self, table: impl Fn(&File) -> Option<T>) -> (T, Origin) {
        let mut written = self.files.iter();
        let found = written.find_map(|(path, file)| Some((table(file)?, path)));
        match found {
            Some((table, path)) => (table, Origin::File(path.clone())),
            None => (T::default(), Origin::Default),
        }
    }
}

fn home_folder(
    environment: &dyn Fn(&str) -> Option<String>,
    variable: &'static str,
    below_home: &str,
) -> Result<Setting<PathBuf>, Problem> {
    // The XDG specification: a relative path in these variables is to be ignored.
    if let Some(folder) = environment(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    {
        let origin = Origin::Environment(variable);
        return Ok(Setting { value: folder.join("shoal"), origin });
    }
    let home = environment("HOME").map(PathBuf::from).ok_or_else(|| {
        Problem::new(Kind::Usage, "no_home", "cannot tell where your own files are")
            .because(format!("neither `{variable}` nor `HOME` is set"))
            .leaves("nothing changed")
            .fix(format!("set `{variable}` to a folder of yours"))
    })?;
    Ok(Setting { value: home.join(below_home).join("shoal"), origin: Origin::Default })
}

fn read_file(path: &Path) -> Result<File, Problem> {
    let parse = || {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
            ConfigError::Parse {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                source: WrittenError(error.message().to_owned()),
            }
        })
    };
    parse().map_err(|error| {
        Problem::from_error(Kind::Usage, "config", &error)
            .leaves("nothing changed")
            .next("registry config show --config /dev/null")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn global(options: &[&str]) -> Global {
        let words = ["registry"].iter().chain(options).chain(&["config", "show"]).copied();
        Cli::try_parse_from(words).unwrap().global
    }

    fn nowhere(name: &str) -> Option<String> {
        (name == "HOME").then(|| "/nowhere".to_owned())
    }

    #[test]
    fn an_option_outranks_environment_file_and_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("registry.toml");
        std::fs::write(&file, "registry = \"http://file/\"\nrealm = \"file\"\n").unwrap();
        let config = ["--config", file.to_str().unwrap()];
        let environment = |name: &str| match name {
            "SHOAL_REGISTRY" => Some("http://environment".to_owned()),
            other => nowhere(other),
        };

        let all = [&config[..], &["--registry", "http://option/"]].concat();
        let settings = Settings::gather(&global(&all), &environment).unwrap();
        assert_eq!(settings.registry.value, "http://option");
        assert_eq!(settings.realm.value, "file");
        assert_eq!(settings.realm.origin, Origin::File(file.clone()));

        let settings = Settings::gather(&global(&config), &environment).unwrap();
        assert_eq!(settings.registry.origin, Origin::Environment("SHOAL_REGISTRY"));
        let settings = Settings::gather(&global(&config), &nowhere).unwrap();
        assert_eq!(settings.registry.value, "http://file");
        assert_eq!(settings.data.origin, Origin::Default);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("registry.toml");
        std::fs::write(&file, "registri = \"http://file\"\n").unwrap();
        let options = global(&["--config", file.to_str().unwrap()]);
        let problem = Settings::gather(&options, &nowhere).unwrap_err();
        assert_eq!(problem.kind, Kind::Usage);
        assert!(problem.causes.iter().any(|cause| cause.contains("registri")), "{problem:?}");
    }
}
