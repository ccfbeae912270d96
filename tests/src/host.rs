//! A host that follows a realm, and whoever builds what it is to run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Nix, Ran, Realm, copy_folder, run, scratch, shoal};

/// A host: an agent's configuration, its state, and a store of its own.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
}

impl Host {
    /// Lets a new host follow `group`.
    ///
    /// # Panics
    /// When it is not let in.
    #[must_use]
    pub fn enrol(realm: &Realm, group: &str, name: &str) -> Self {
        Self::enrol_at(realm, &realm.url, group, name)
    }

    /// Lets a new host follow `group`, by way of whatever passes things on at `url`.
    ///
    /// # Panics
    /// When it is not let in.
    #[must_use]
    pub fn enrol_at(realm: &Realm, url: &str, group: &str, name: &str) -> Self {
        let host = Self { folder: scratch() };
        let data = realm.data();
        let data = data.to_str().expect("a plain path");
        let token =
            realm.operator().run(&["host", "enroll-token", "--group", group, "--data", data]).ok();
        let mut enroll = host.agent();
        enroll.args(["enroll", url, "--group", group, "--name", name]);
        enroll.args(["--trust", &realm.fingerprint, "--token", token.trim()]);
        enroll.arg("--state-dir").arg(host.state_dir()).arg("--root").arg(host.root());
        run(&mut enroll).ok();
        host
    }

    /// Makes a host that is like this one in everything but its place.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self { folder: scratch() };
        copy_folder(self.folder.path(), copy.folder.path());
        let config = copy.folder.path().join("agent.toml");
        let text = fs::read_to_string(&config).expect("enrolling wrote it");
        let place = |host: &Self| host.folder.path().to_str().expect("a plain path").to_owned();
        fs::write(&config, text.replace(&place(self), &place(&copy))).expect("it is ours");
        copy
    }

    /// Adds a file of configuration, which outranks what is there.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, text: &str) {
        let folder = self.folder.path().join("agent.toml.d");
        fs::create_dir_all(&folder).expect("it is ours");
        let count = fs::read_dir(&folder).expect("it is ours").count();
        fs::write(folder.join(format!("{count:02}.toml")), text).expect("it is ours");
    }

    /// Prepares a command of this host's agent.
    #[must_use]
    pub fn agent(&self) -> Command {
        let mut command = shoal("agent");
        command.arg("--config").arg(self.folder.path().join("agent.toml"));
        command
    }

    /// Runs a command of this host's agent.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(self.agent().args(arguments))
    }

    /// Returns the agent's state folder.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the store root.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Returns real Nix's view of the store.
    #[must_use]
    pub fn nix(&self) -> Nix {
        Nix::at(&self.root())
    }

    /// Returns what `agent status --json` says of a profile.
    ///
    /// # Panics
    /// When it says nothing of it.
    #[must_use]
    pub fn profile(&self, name: &str) -> Value {
        let status: Value =
            serde_json::from_str(&self.run(&["status", "--json"]).ok()).expect("it is JSON");
        let profiles = status.pointer("/profiles").and_then(Value::as_array);
        let profiles = profiles.expect("there is a list");
        let found = profiles.iter().find(|it| it.get("profile").is_some_and(|it| it == name));
        found.unwrap_or_else(|| panic!("no profile `{name}` in {status}")).clone()
    }

    /// Returns a profile's state and the code of its reason, joined by a space.
    ///
    /// # Panics
    /// When `agent status` says nothing of it.
    #[must_use]
    pub fn state(&self, name: &str) -> String {
        let profile = self.profile(name);
        let word = |pointer| profile.pointer(pointer).and_then(Value::as_str);
        let state = word("/state").expect("a word");
        let code = word("/reason/code").unwrap_or_default();
        format!("{state} {code}").trim_end().to_owned()
    }

    /// Returns the store path that a profile leads to, as its links on disk say.
    #[must_use]
    pub fn current(&self, name: &str) -> Option<String> {
        let folder = self.profiles();
        let generation = fs::read_link(folder.join(name)).ok()?;
        let path = fs::read_link(folder.join(generation)).ok()?;
        path.to_str().map(ToOwned::to_owned)
    }

    /// Returns the folder of the profiles' links.
    #[must_use]
    pub fn profiles(&self) -> PathBuf {
        self.root().join("nix/var/nix/profiles/shoal")
    }
}

/// Whoever builds: a store without Nix, and a binary cache.
#[derive(Debug)]
pub struct Builder {
    folder: TempDir,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Starts with an empty store and an empty cache.
    ///
    /// # Panics
    /// When there is no room for them.
    #[must_use]
    pub fn new() -> Self {
        let folder = scratch();
        let cache = folder.path().join("cache");
        fs::create_dir(&cache).expect("it is ours");
        fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").expect("it is ours");
        Self { folder }
    }

    /// Returns the root of the builder's store.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Returns the folder of the cache.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Returns the cache as policies name it.
    #[must_use]
    pub fn cache_url(&self) -> String {
        format!("file://{}", self.cache().display())
    }

    /// Builds a root of these executable files, with references; returns its store path.
    #[must_use]
    pub fn add(&self, name: &str, files: &[(&str, &str)], references: &[&str]) -> String {
        // Mentioned, as everything that is referred to is.
        let mention = |text: &str| format!("{text}\n# {}\n", references.join(" "));
        let files: Vec<_> = files.iter().map(|(file, text)| (*file, mention(text))).collect();
        let files: Vec<_> = files.iter().map(|(file, text)| (*file, &**text, 0o755)).collect();
        self.add_files(name, &files, references)
    }

    /// Builds a root of exactly these files, each with its mode; returns its store path.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn add_files(
        &self,
        name: &str,
        files: &[(&str, &str, u32)],
        references: &[&str],
    ) -> String {
        let source = tempfile::tempdir_in(self.folder.path()).expect("a temporary folder");
        for (file, text, mode) in files {
            let file = source.path().join(file);
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).expect("it is ours");
            fs::write(&file, text).expect("it is ours");
            fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).expect("it is ours");
        }
        self.add_folder(name, source.path(), references)
    }

    /// Builds a root of what is in a folder; returns its store path.
    #[must_use]
    pub fn add_folder(&self, name: &str, folder: &Path, references: &[&str]) -> String {
        let mut add = shoal("agent");
        add.args(["store", "add", "--name", name, "--root"]).arg(self.root()).arg(folder);
        for reference in references {
            add.args(["--reference", reference]);
        }
        run(&mut add).ok().trim().to_owned()
    }

    /// Builds a root whose `bin/activate` is this shell script.
    #[must_use]
    pub fn service(&self, name: &str, activate: &str, references: &[&str]) -> String {
        let deactivate = "#!/bin/sh\nrm -f \"$SHOAL_ROOT/active-$SHOAL_PROFILE\"";
        let activate = format!("#!/bin/sh\nset -e\n{activate}");
        let files = [("bin/activate", activate.as_str()), ("bin/deactivate", deactivate)];
        self.add(name, &files, references)
    }

    /// Puts a path and all it refers to into the cache.
    pub fn push(&self, path: &str) -> Ran {
        self.push_with(path, &[])
    }

    /// Puts a path into the cache with further options.
    pub fn push_with(&self, path: &str, options: &[&str]) -> Ran {
        let mut push = shoal("registry");
        push.env("HOME", self.folder.path());
        push.args(["cache", "push", "--to", &self.cache_url(), "--root"]).arg(self.root());
        run(push.args(options).arg(path))
    }
}
