//! Real Nix, on a store below a folder of the story.
//!
//! Every call names the store, has its own configuration and home, and knows no cache but those
//! it is told, so that nothing of the machine's own Nix is read or written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::process::{Ran, Service, run, tool};

/// A store of real Nix: `local?root=ROOT`.
#[derive(Debug)]
pub struct Nix {
    root: PathBuf,
    /// Home, configuration and caches of Nix.
    home: TempDir,
}

/// A running `nix-daemon`; ends with the value.
#[derive(Debug)]
pub struct Daemon {
    _service: Service,
    socket: PathBuf,
}

impl Nix {
    /// Takes the store below `root`, which Nix makes when it is not there.
    ///
    /// # Panics
    /// When there is no room for a temporary folder.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        let home = crate::scratch();
        let config = "build-users-group =\nsandbox = false\nsubstituters =\n\
            trusted-public-keys =\nexperimental-features = nix-command\nconnect-timeout = 5\n\
            trusted-users = *\n";
        fs::create_dir(home.path().join("conf")).unwrap();
        fs::write(home.path().join("conf/nix.conf"), config).unwrap();
        Self { root: root.to_owned(), home }
    }

    /// Returns the folder that the store is below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where a store path really is.
    ///
    /// # Panics
    /// When `path` is not absolute.
    #[must_use]
    pub fn real(&self, path: &str) -> PathBuf {
        self.root.join(path.strip_prefix('/').expect("an absolute path"))
    }

    /// Returns `program` ready to work on this store; it takes further arguments.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.prepare(program, &format!("local?root={}", self.root.display()))
    }

    fn prepare(&self, program: &str, store: &str) -> Command {
        let home = self.home.path();
        let mut command = tool(program);
        command.env("HOME", home);
        command.env("NIX_CONF_DIR", home.join("conf"));
        command.env("NIX_USER_CONF_FILES", home.join("none"));
        command.args(["--store", store]);
        command
    }

    /// Starts a `nix-daemon` for this store.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn daemon(&self) -> Daemon {
        let socket = self.home.path().join("socket");
        let mut command = self.command("nix-daemon");
        command.env("NIX_DAEMON_SOCKET_PATH", &socket);
        let service = Service::start_until(&mut command, || socket.exists());
        Daemon { _service: service, socket }
    }

    /// Returns `program` ready to have `daemon` work on this store; it takes further arguments.
    #[must_use]
    pub fn command_through(&self, daemon: &Daemon, program: &str) -> Command {
        let (socket, root) = (daemon.socket.display(), self.root.display());
        self.prepare(program, &format!("unix://{socket}?root={root}"))
    }

    /// Runs `nix-store` with these arguments.
    #[must_use]
    #[track_caller]
    pub fn nix_store(&self, arguments: &[&str]) -> Ran {
        run(self.command("nix-store").args(arguments))
    }

    /// Runs `nix` with these arguments, the sub-command first.
    ///
    /// # Panics
    /// When there is no argument.
    #[must_use]
    #[track_caller]
    pub fn nix(&self, arguments: &[&str]) -> Ran {
        run(self.command("nix").args(arguments))
    }

    /// Runs `nix-env` on the profile at `profile`.
    #[must_use]
    #[track_caller]
    pub fn nix_env(&self, profile: &Path, arguments: &[&str]) -> Ran {
        run(self.command("nix-env").arg("--profile").arg(profile).args(arguments))
    }

    /// Substitutes `path` and its closure from `cache`, trusting only `keys`.
    #[must_use]
    #[track_caller]
    pub fn substitute(&self, cache: &str, keys: &str, path: &str) -> Ran {
        let options = ["--option", "substituters", cache, "--option", "trusted-public-keys", keys];
        run(self.command("nix-store").args(["--realise", path]).args(options))
    }

    /// Has Nix check every path: registered, there, and with the hash that was registered.
    ///
    /// # Panics
    /// When Nix finds a fault, or says anything but that it looked.
    #[track_caller]
    pub fn verify(&self) {
        let outcome = self.nix_store(&["--verify", "--check-contents"]);
        let usual = |line: &&str| line.ends_with("...");
        assert!(outcome.code == Some(0) && outcome.stderr.lines().all(|l| usual(&l)), "{outcome}");
    }

    /// Returns every valid path, sorted.
    ///
    /// # Panics
    /// When Nix cannot read the store.
    #[must_use]
    #[track_caller]
    pub fn valid_paths(&self) -> Vec<String> {
        let listed = self.nix(&["path-info", "--all"]).ok();
        let mut paths: Vec<_> = listed.lines().map(str::to_owned).collect();
        paths.sort();
        paths
    }

    /// Returns the hash of the path's NAR as Nix computes it now, `sha256:` and base 32.
    ///
    /// # Panics
    /// When Nix cannot dump the path.
    #[must_use]
    #[track_caller]
    pub fn dump_hash(&self, path: &str) -> String {
        let output = self.command("nix-store").args(["--dump"]).arg(self.real(path)).output();
        let output = output.expect("nix-store runs");
        assert!(output.status.success(), "nix-store --dump {path}");
        shared::nix::Sha256::of(&output.stdout).to_string()
    }

    /// Collects garbage, and returns what Nix said.
    ///
    /// # Panics
    /// When Nix fails.
    #[track_caller]
    pub fn collect_garbage(&self) -> String {
        run(&mut self.command("nix-collect-garbage")).fails(0)
    }
}
