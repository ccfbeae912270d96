//! The host's own configuration: `agent.toml` and `agent.toml.d/*.toml`.
//!
//! As written (every key optional) becomes [`Settings`] (valid, built once). A key that this
//! program does not know is an error, because a misspelt narrowing narrows nothing.

mod keys;
mod settings;
mod written;

use std::path::{Path, PathBuf};

use shared::id::Digest;

pub(crate) use self::keys::{did_you_mean, near_matches};
pub(crate) use self::settings::{
    ExtraCache, Gc, ProfilePattern, Readers, Reboots, Registry, RootOfTrust, Runner, Settings,
};

/// Where the configuration is unless `--config` says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/shoal/agent.toml";

/// Files of configuration above this size are a mistake.
const MAX_FILE: u64 = 1 << 20;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// There is no configuration at all.
    #[error("there is no configuration at `{}`", path.display())]
    Absent { path: PathBuf },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file is not TOML, or a value has the wrong type.
    #[error("cannot parse `{}`", path.display())]
    Parse { path: PathBuf, source: toml::de::Error },
    /// A key is not known.
    #[error("`{}`: unknown key `{key}`{}", path.display(), keys::did_you_mean(near))]
    UnknownKey { path: PathBuf, key: String, near: Vec<String> },
    /// A value cannot be used.
    #[error("`{origin}`: `{key}`: {why}")]
    Invalid { origin: String, key: String, why: String },
}

/// The merged configuration, with the origin of every value.
#[derive(Debug)]
pub(crate) struct Config {
    /// Valid, and built once.
    pub(crate) settings: Settings,
    /// Each key in use: its value and where it was written.
    pub(crate) values: Vec<(String, toml::Value, Origin)>,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In this file.
    File(PathBuf),
    /// Nowhere: our default.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Default => formatter.write_str("default"),
        }
    }
}

/// Reads `path` and the files of the folder `<path>.d`, in the order of their names.
///
/// A later file replaces single values; its `[[cache]]` entries are added.
pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
    let mut merged = written::Merged::new()?;
    let folder = path.with_extension("toml.d");
    let mut files = Vec::new();
    if path.exists() {
        files.push(path.to_owned());
    }
    files.extend(drop_ins(&folder)?);
    if files.is_empty() {
        return Err(ConfigError::Absent { path: path.to_owned() });
    }
    for file in files {
        let text = read(&file)?;
        merged.add(&file, &text)?;
    }
    finish(&merged)
}

/// Reads one text as if it were the file at `path`, alone.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let mut merged = written::Merged::new()?;
    merged.add(path, text)?;
    finish(&merged)
}

/// Reads the fingerprint of a root: 64 hexadecimal digits, as `registry init` prints them.
pub(crate) fn parse_fingerprint(text: &str) -> Option<Digest> {
    let prefix = text.get(..7).filter(|prefix| prefix.eq_ignore_ascii_case("sha256:"));
    let digits = prefix.and_then(|prefix| text.get(prefix.len()..)).unwrap_or(text);
    Digest::parse(digits).ok()
}

fn finish(merged: &written::Merged) -> Result<Config, ConfigError> {
    let settings = Settings::build(merged)?;
    let values = merged.values();
    Ok(Config { settings, values })
}

fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: folder.to_owned(), source }),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry =
            entry.map_err(|source| ConfigError::Read { path: folder.to_owned(), source })?;
        if entry.path().extension().is_some_and(|extension| extension == "toml") {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(failed(std::io::Error::other(format!("larger than {MAX_FILE} bytes"))));
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUST: &str = "[trust]\nroot_sha256 = \
        \"0000000000000000000000000000000000000000000000000000000000000000\"\n";

    /// Loads files written into an empty folder.
    fn load_files(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Config, ConfigError>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("agent.toml.d")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let config = load(&folder.path().join("agent.toml"));
        (folder, config)
    }

    fn refused(text: &str) -> String {
        let (folder, config) = load_files(&[("agent.toml", text)]);
        let error = config.unwrap_err();
        let mut message = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            message.push_str(&format!(": {source}"));
        }
        message.replace(&folder.path().display().to_string(), "")
    }

    #[test]
    fn a_later_file_replaces_values_and_adds_caches() {
        let cache = |url: &str| format!("[[cache]]\nurl = \"{url}\"\n");
        let (folder, config) = load_files(&[
            (
                "agent.toml",
                &format!(
                    "groups = [\"a\"]\n[host]\nname = \"web-1\"\n{TRUST}{}",
                    cache("file:///one")
                ),
            ),
            ("agent.toml.d/10-b.toml", &format!("groups = [\"b\"]\n{}", cache("file:///two"))),
            ("agent.toml.d/20-c.toml", "[host]\nname = \"web-2\"\n"),
            ("agent.toml.d/ignored", "not = [toml"),
        ]);
        let config = config.unwrap();
        assert_eq!(config.settings.host.name.as_str(), "web-2");
        assert_eq!(config.settings.groups.len(), 1);
        assert_eq!(config.settings.extra_caches.len(), 2);
        let origin = |key: &str| {
            config.values.iter().find(|(name, ..)| name == key).map(|(.., origin)| origin.clone())
        };
        let file = |name: &str| Some(Origin::File(folder.path().join(name)));
        assert_eq!(origin("groups"), file("agent.toml.d/10-b.toml"));
        assert_eq!(origin("trust.root_sha256"), file("agent.toml"));
        assert_eq!(origin("registry.poll"), Some(Origin::Default));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let check = |text: &str, expected: &str| assert_eq!(refused(text), expected);
        check("relm = \"x\"", "`/agent.toml`: unknown key `relm`; did you mean `realm`?");
        check("[metrics]\nlisten = \"\"", "`/agent.toml`: unknown key `metrics.listen`");
        let switched = refused("[windows]\nswitched = []");
        assert!(switched.contains("unknown key `windows.switched`"), "{switched}");
        let window = "[[windows.switch]]\ncron = \"0 2 * *\"\nzone = \"UTC\"\nlength = 60\n";
        assert!(refused(&format!("{TRUST}{window}")).contains("`windows`: window `0 2 * *` has"));
        assert!(refused("realm = 5").contains("invalid type: integer"));
        assert!(refused(&format!("realm = \"A\"\n{TRUST}")).contains("`realm`: `A` is not"));
        let daemon = |text: &str| refused(&format!("{TRUST}[daemon]\n{text}"));
        assert!(daemon("metrics = \"0.0.0.0:1\"").contains("is no address of the loopback"));
        assert!(daemon("readers = \"wheel\"").contains("neither `everyone` nor `root`"));
        assert!(refused("").contains("`trust`: needs `root` (a file) or `root_sha256`"));
        assert!(refused(&format!("{TRUST}[registry]\npoll = 0")).contains("not between 1 and"));
        assert!(
            refused(&format!("{TRUST}[registry]\nurls = [\"ftp://x\"]"))
                .contains("`https` or `http`")
        );
        assert!(refused(&format!("state_dir = \"x\"\n{TRUST}")).contains("`x` is not absolute"));
        assert!(
            refused(&format!("{TRUST}[store]\nbandwidth = 7")).contains("not between 1024 and")
        );
        let cache = "[[cache]]\nurl = \"https://c.example\"\n";
        let refused = refused(&format!("{TRUST}{cache}netrc = \"netrc\""));
        assert!(refused.contains("`netrc` is not absolute"), "{refused}");
    }

    #[test]
    fn the_configuration_in_deploy_holds_every_key_and_is_valid() {
        let text = include_str!("../../deploy/config/agent.toml");
        parse(Path::new("agent.toml"), text).unwrap();
        // With what it only shows; one of two keys for the same thing has to go.
        let shown: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("root_sha256"))
            .map(|line| line.strip_prefix('#').filter(|it| !it.starts_with(' ')).unwrap_or(line))
            .collect();
        let config = parse(Path::new("agent.toml"), &shown.join("\n")).unwrap();
        let file = Origin::File("agent.toml".into());
        let missing: Vec<_> = config.values.iter().filter(|(.., origin)| *origin != file).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn having_no_file_is_an_error_of_its_own() {
        let (_folder, config) = load_files(&[]);
        assert!(matches!(config, Err(ConfigError::Absent { .. })));
    }
}
