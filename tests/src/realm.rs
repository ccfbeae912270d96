//! A realm with its registry, and the people who publish there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use rustix::process::Pid;

use crate::{
    Service, bin,
    machine::{Fleet, GATEWAY, on_the_network_of},
    run, scratch, shoal,
};

/// A registry that runs, and whoever set its realm up.
#[derive(Debug)]
pub struct Realm {
    folder: TempDir,
    /// The SHA-256 of its first root.
    pub fingerprint: String,
    /// Where the registry is.
    pub url: String,
    server: Option<Service>,
    network: Option<Network>,
}

/// Where a realm is that is not on this machine's own network.
#[derive(Debug)]
struct Network {
    holder: Pid,
    /// What its registry serves as a binary cache.
    cache: PathBuf,
}

impl Default for Realm {
    fn default() -> Self {
        Self::new()
    }
}

impl Realm {
    /// Sets a realm `main` up and starts its registry.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new() -> Self {
        Self::on(None)
    }

    /// Sets a realm `main` up on the network of a fleet, and starts its registry there, which serves
    /// the folder `cache` at [`Realm::cache_url`].
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn in_fleet(fleet: &Fleet, cache: &Path) -> Self {
        Self::on(Some(Network { holder: fleet.holder(), cache: cache.to_owned() }))
    }

    fn on(network: Option<Network>) -> Self {
        let folder = scratch();
        fs::write(folder.path().join("passphrase"), "open sesame\n").expect("it is ours");
        let mut realm =
            Self { folder, fingerprint: String::new(), url: String::new(), server: None, network };
        let data = realm.data();
        let init = ["init", "--data", data.to_str().expect("a plain path")];
        let printed = run(realm.operator().registry().args(init).args(realm.passphrase())).ok();
        realm.fingerprint = printed.trim().to_owned();
        realm.start();
        realm
    }

    /// Starts the registry, again after [`Realm::stop`], at an address of its own choice.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&mut self) {
        let mut serve = self.registry();
        let address = if self.network.is_some() { GATEWAY } else { "127.0.0.1" };
        serve.args(["serve", "--listen", &format!("{address}:0"), "--data"]).arg(self.data());
        if let Some(network) = &self.network {
            serve.arg("--cache").arg(&network.cache);
        }
        serve.env("HOME", self.folder.path());
        let server = Service::start(&mut serve, "http://");
        self.url = server.url();
        self.server = Some(server);
    }

    /// Returns where the registry of a fleet serves a cache.
    #[must_use]
    pub fn cache_url(&self) -> String {
        format!("{}/cache/", self.url)
    }

    fn registry(&self) -> Command {
        match &self.network {
            Some(network) => on_the_network_of(network.holder, &bin("registry")),
            None => shoal("registry"),
        }
    }

    /// Stops the registry as a power cut would.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Returns what the registry has written to its log since it started.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.as_ref().expect("it runs").talk()
    }

    /// Returns the server's folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns the folder that static files are served from.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.data().join("r/main")
    }

    /// Returns a folder of the realm's that goes away with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns whoever set the realm up, with the keys of `root` and `targets`.
    #[must_use]
    pub fn operator(&self) -> Signer<'_> {
        Signer { realm: self, home: self.folder.path().join("home-operator") }
    }

    /// Returns someone else, who goes by the realm's root and has a key of their own name.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn signer(&self, name: &str) -> Signer<'_> {
        let signer = Signer { realm: self, home: self.folder.path().join(format!("home-{name}")) };
        if !signer.home.exists() {
            signer.run(&["trust", "pin", &self.fingerprint]).ok();
            run(signer.registry().args(["key", "new", name]).args(self.passphrase())).ok();
        }
        signer
    }

    /// Returns the options that give everyone's passphrase.
    #[must_use]
    pub fn passphrase(&self) -> [String; 2] {
        let file = self.folder.path().join("passphrase");
        ["--passphrase-file".to_owned(), file.to_str().expect("a plain path").to_owned()]
    }

    /// Replaces what differs from run to run: addresses, folders, keys, digests of them, times.
    #[must_use]
    pub fn plain(&self, text: &str) -> String {
        let folder = self.folder.path().to_str().expect("a plain path");
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
        let text = text
            .replace(&self.url, "REGISTRY")
            .replace(folder, "FOLDER")
            .replace(fixtures, "FIXTURES");
        let mut plain = String::new();
        let mut word = String::new();
        for letter in text.chars().chain(['\n']) {
            if letter.is_ascii_alphanumeric() || "-:".contains(letter) {
                word.push(letter);
                continue;
            }
            plain.push_str(plain_word(&word));
            word.clear();
            plain.push(letter);
        }
        plain.pop();
        plain
    }
}

fn plain_word(word: &str) -> &str {
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let time = word.len() == 20 && word.ends_with('Z') && word.as_bytes().get(10) == Some(&b'T');
    match word.len() {
        64 if hex(word) => "HEX",
        8 if hex(word) => "ID",
        _ if time => "TIME",
        _ => word,
    }
}

/// Someone with a home folder, who types commands.
#[derive(Debug, Clone)]
pub struct Signer<'a> {
    realm: &'a Realm,
    home: PathBuf,
}

impl Signer<'_> {
    /// Prepares a command of theirs.
    #[must_use]
    pub fn registry(&self) -> Command {
        let mut command = self.realm.registry();
        command.env("HOME", &self.home).env("SHOAL_REGISTRY", &self.realm.url);
        command
    }

    /// Runs a command of theirs.
    pub fn run(&self, arguments: &[&str]) -> crate::Ran {
        run(self.registry().args(arguments))
    }

    /// Runs a command that signs, without being asked.
    pub fn sign(&self, arguments: &[&str]) -> crate::Ran {
        run(self.registry().args(arguments).args(self.realm.passphrase()).arg("--yes"))
    }

    /// Returns their key of this name, as others are given it.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        self.run(&["key", "show", name]).ok().trim().to_owned()
    }

    /// Returns their folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }
}
