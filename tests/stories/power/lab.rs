//! A realm that has published several versions, and the disk from which a host takes them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tests::{Builder, Host, Nix, Realm, bin, copy_folder, guest::disk, run, scratch};

/// Bytes of the file system whose power is cut.
pub(super) const DISK: u64 = 160 * 1024 * 1024;

/// Paths of each closure: a root, and small ones that it refers to.
pub(super) const PATHS: usize = 101;

/// Closures; what is published is one after the other, and the first again. The host keeps two
/// generations, so that it has to fetch all of the next, also where one of them was cut off.
const CLOSURES: usize = 4;

/// All that the stories start from.
pub(super) struct Lab {
    folder: TempDir,
    fingerprint: String,
    closures: Vec<String>,
}

impl Lab {
    /// Publishes so many versions, and lets a host enrol.
    pub(super) fn new(versions: usize) -> Self {
        let (builder, realm) = (Builder::new(), Realm::new());
        let closures = (0..CLOSURES).map(|number| closure(&builder, number)).collect();
        let lab = Self { folder: scratch(), fingerprint: realm.fingerprint.clone(), closures };
        let payload = lab.path("payload");
        let stamps = payload.join("timestamps");
        fs::create_dir_all(&stamps).unwrap();

        let cache = builder.cache_url();
        let group = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
        realm.operator().sign(&group).ok();
        let web = realm.signer("web");
        let team = ["team", "add", "web", "--key", &web.key("web"), "--may", "eu/web"];
        realm.operator().sign(&team).ok();
        let host = Host::enrol(&realm, "eu", "host-1");
        let store = builder.root();
        for version in 1..=versions {
            let words = ["publish", "manifest", "eu/web", lab.root(version)];
            let more = ["--activation", "none", "--root", store.to_str().unwrap()];
            web.sign(&[words, more].concat()).ok();
            let stamp = realm.files().join("metadata/timestamp.json");
            fs::copy(stamp, stamps.join(version.to_string())).unwrap();
        }

        copy_folder(&realm.files(), &lab.mirror().join("r/main"));
        copy_folder(&builder.cache(), &payload.join("cache"));
        copy_folder(&host.state_dir(), &payload.join("state"));
        let (data, cache) = (Path::new("/data"), Path::new("/payload/cache"));
        fs::write(payload.join("agent.toml"), lab.config("http://127.0.0.1", data, cache)).unwrap();
        fs::copy(bin("agent"), payload.join("agent")).unwrap();
        let main = payload.join("main");
        fs::write(&main, include_str!("host.sh")).unwrap();
        fs::set_permissions(&main, fs::Permissions::from_mode(0o755)).unwrap();
        disk::make(&lab.path("payload.img"), disk::size_for(&payload), Some(&payload));
        lab
    }

    /// Returns the root of the closure of a version; the first is 1.
    pub(super) fn root(&self, version: usize) -> &str {
        &self.closures[version % CLOSURES]
    }

    /// Returns a path of the lab's, which goes away with it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the folder that a web server of the realm serves.
    pub(super) fn mirror(&self) -> PathBuf {
        self.path("payload/mirror")
    }

    /// Returns the configuration of the host.
    pub(super) fn config(&self, registry: &str, data: &Path, cache: &Path) -> String {
        format!(
            "groups = ['eu']\n\
             state_dir = '{data}/state'\n\
             host.name = 'host-1'\n\
             trust.root_sha256 = '{}'\n\
             trust.caches = []\n\
             registry.urls = ['{registry}']\n\
             registry.poll = 3600\n\
             store.root = '{data}/root'\n\
             store.min_free = 0\n\
             [[cache]]\n\
             url = 'file://{}'\n",
            self.fingerprint,
            cache.display(),
            data = data.display(),
        )
    }

    /// Returns what the host may run, of which so many rounds are over and the next may be at work.
    pub(super) fn may_run(&self, over: usize) -> [&str; 2] {
        let before = if over == 0 { "" } else { self.root(over) };
        [before, self.root(over + 1)]
    }
}

/// Builds and pushes a closure of small paths; returns its root.
fn closure(builder: &Builder, number: usize) -> String {
    let sources = scratch();
    let mut add = Nix::at(&builder.root()).command("nix-store");
    add.arg("--add");
    for leaf in 1..PATHS {
        let folder = sources.path().join(format!("leaf-{number}-{leaf}"));
        fs::create_dir_all(folder.join("share/doc")).unwrap();
        // From some bytes to some blocks.
        let text = format!("{number} {leaf}\n").repeat(1 + leaf * leaf / 4);
        fs::write(folder.join("share/doc/text"), text).unwrap();
        fs::write(folder.join("name"), format!("{leaf}\n")).unwrap();
        symlink("share/doc", folder.join("doc")).unwrap();
        add.arg(folder);
    }
    let added = run(&mut add).ok();
    let leaves: Vec<&str> = added.lines().collect();
    let root = builder.add(&format!("web-{number}"), &[("bin/web", "")], &leaves);
    builder.push(&root).ok();
    root
}
