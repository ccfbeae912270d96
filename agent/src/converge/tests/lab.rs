//! A host in a folder: a builder's store and cache beside it, and orders as a client makes them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shared::closure::ClosureIndex;
use shared::hints::Hints;
use shared::id::{Digest, ProfileName};
use shared::nix::nar::Writer;
use shared::nix::narinfo::Compression;
use shared::nix::{StorePath, TrustedKeys};
use shared::version::VersionNumber;
use store::archive::dump;
use store::cache::{CacheWriter, Location, Network, NetworkOptions};
use store::local::LocalStore;
use store::profile::Profile as Links;
use store::substitute::Limits;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::config::{Gc, Reboots, Registry, Runner};
use crate::converge::{Closures, Converger, Order, Place, Stop};
use crate::health::Tools;
use crate::state::{Activation, Checkup, Code, Desired, EpochVersion, Profile, Reason, Wanted};

/// Writes down how it was run, where [`Lab::active`] looks.
pub(super) const ACTIVATE: &str = "\
    echo \"$1|$SHOAL_GROUP|$SHOAL_PROFILE|$SHOAL_VERSION|$SHOAL_OLD|$SHOAL_NEW|$SHOAL_ROOT|$(pwd)\" \
    > $SHOAL_ROOT/active-$SHOAL_PROFILE; echo >> $SHOAL_ROOT/runs-$SHOAL_PROFILE";

/// A host, and whoever publishes to it.
pub(super) struct Lab {
    folder: PathBuf,
    _scratch: Option<tempfile::TempDir>,
}

pub(super) fn name(text: &str) -> ProfileName {
    ProfileName::parse(text).unwrap()
}

pub(super) fn set_timeout(desired: &mut Desired, seconds: u32) {
    if let Desired::Run { wanted } = desired
        && let Activation::Exec { timeout, .. } = &mut wanted.activation
    {
        *timeout = seconds;
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        Self { _scratch: Some(scratch), ..Self::at(&folder) }
    }

    /// Uses a folder that somebody else made and removes.
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), _scratch: None }
    }

    pub(super) fn root(&self) -> PathBuf {
        let root = self.folder.join("host");
        std::fs::create_dir_all(&root).unwrap();
        root
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(super) fn converger(&self) -> Converger {
        let realm: shared::id::RealmName = "main".parse().unwrap();
        let registry = Registry::plain("http://127.0.0.1:1".parse().unwrap());
        let tools = Tools { realm, registry, units: None };
        let realm = tools.realm.clone();
        Converger::new(Place {
            state_dir: self.state_dir(),
            realm,
            root: self.root(),
            runner: Runner::Child,
            tools,
            dead_man: None,
            reboots: Reboots::Never,
        })
    }

    /// Builds a root with this activation, puts it into the cache, and wants it.
    pub(super) fn publish(&self, profile: &str, version: u32, script: &str) -> Desired {
        let builder = LocalStore::open(&self.folder.join("builder")).unwrap();
        let library = self.add(&builder, "library", "share/library", "shared by all", &[]);
        let root = self.add(&builder, profile, "bin/activate", script, &[&library]);
        let closure = builder.closure(&BTreeSet::from([root])).unwrap();
        let cache = CacheWriter::open(&self.cache(), Compression::Zstd, None).unwrap();
        for path in [&library, closure.keys().find(|path| **path != library).unwrap()] {
            let real = builder.real_path(path);
            let dumped = |to: &mut dyn std::io::Write| {
                let mut writer = Writer::new(to);
                dump(&real, &mut writer).map_err(std::io::Error::other)?;
                writer.finish().map(drop).map_err(std::io::Error::other)
            };
            cache.upload(&closure[path], dumped).unwrap();
        }
        self.want(version, &closure.into_values().collect::<Vec<_>>())
    }

    /// Wants something that no cache has.
    pub(super) fn publish_nowhere(&self, profile: &str, version: u32) -> Desired {
        let builder = LocalStore::open(&self.folder.join("builder")).unwrap();
        let root = self.add(&builder, profile, "bin/activate", "true", &[]);
        let info = builder.path_info(&root).unwrap().unwrap();
        self.want(version, &[info])
    }

    fn want(&self, version: u32, closure: &[shared::nix::PathInfo]) -> Desired {
        let root = closure.iter().find(|info| info.path.name() != "library").unwrap();
        let index = ClosureIndex::from_paths(&root.path, closure).unwrap();
        let digest = index.digest();
        std::fs::create_dir_all(self.folder.join("closures")).unwrap();
        std::fs::write(self.closure_file(digest), index.to_bytes()).unwrap();
        // Whoever runs the tests runs the programs.
        let privileged = rustix::process::geteuid().is_root();
        let version = EpochVersion { epoch: 0, version: VersionNumber::new(version).unwrap() };
        let activation = Activation::Exec { timeout: 60, user: None, privileged };
        Desired::Run {
            wanted: Wanted {
                version,
                path: root.path.clone(),
                closure: digest,
                activation,
                checkup: Checkup { privileged, ..Checkup::default() },
            },
        }
    }

    fn add(
        &self,
        store: &LocalStore,
        name: &str,
        file: &str,
        script: &str,
        references: &[&StorePath],
    ) -> StorePath {
        let source = tempfile::tempdir_in(&self.folder).unwrap();
        let file = source.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mentioned: Vec<String> = references.iter().map(ToString::to_string).collect();
        let text = format!("#!/bin/sh\nset -e\n# {}\n{script}\n", mentioned.join(" "));
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        if file.ends_with("bin/activate") {
            let deactivate = file.with_file_name("deactivate");
            std::fs::copy(&file, &deactivate).unwrap();
            let text = "#!/bin/sh\nrm -f $SHOAL_ROOT/active-$SHOAL_PROFILE\n";
            std::fs::write(deactivate, text).unwrap();
        }
        let references = references.iter().copied().cloned().collect();
        store.add(source.path(), name, &references).unwrap().path
    }

    fn closure_file(&self, digest: Digest) -> PathBuf {
        self.folder.join("closures").join(digest.to_string())
    }

    fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// Drives a profile as far as it gets.
    pub(super) async fn run(&self, profile: &str, desired: &Desired) -> Profile {
        self.run_by(&self.converger(), profile, desired).await
    }

    /// Drives a profile as far as it gets, by a converger that goes on to live.
    pub(super) async fn run_by(
        &self,
        converger: &Converger,
        profile: &str,
        desired: &Desired,
    ) -> Profile {
        self.run_in("lab", converger, profile, desired).await
    }

    /// Drives a profile of a group as far as it gets.
    pub(super) async fn run_in(
        &self,
        group: &str,
        converger: &Converger,
        profile: &str,
        desired: &Desired,
    ) -> Profile {
        let network = Network::new(&NetworkOptions::default()).unwrap();
        let location = Location::parse(&format!("file://{}", self.cache().display())).unwrap();
        let locations = vec![(location, None)];
        let order = Order {
            group: group.parse().unwrap(),
            profile: name(profile),
            desired: desired.clone(),
            windows: None,
            caches: Caches { locations, trusted: TrustedKeys::default(), network },
            limits: Limits::default(),
            gc: Gc::default(),
            observer: Arc::new(|_| {}),
        };
        converger.converge(&order, self, &Stop::on(&CancellationToken::new())).await.unwrap()
    }

    /// Takes the cache away.
    pub(super) fn lose_cache(&self) {
        std::fs::rename(self.cache(), self.folder.join("lost")).unwrap();
    }

    /// Makes a generation as `nix-env --set` would.
    pub(super) fn set_by_hand(&self, profile: &str) -> StorePath {
        let store = LocalStore::open(&self.root()).unwrap();
        let path = self.add(&store, "by-hand", "share/by-hand", "by hand", &[]);
        self.links(profile).set(&path).unwrap();
        path
    }

    fn links(&self, profile: &str) -> Links {
        Links::open(&self.converger().link(&name(profile))).unwrap()
    }

    pub(super) fn generations(&self, profile: &str) -> Vec<u64> {
        self.links(profile).generations().unwrap().iter().map(|it| it.number).collect()
    }

    /// Returns the number of the generation that the link leads to.
    pub(super) fn current(&self, profile: &str) -> Option<u64> {
        self.links(profile).current().unwrap().map(|it| it.number)
    }

    /// Returns what was activated last, if it was not deactivated.
    pub(super) fn active(&self, profile: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root().join(format!("active-{profile}"))).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Returns how often something was activated.
    pub(super) fn runs(&self, profile: &str) -> usize {
        let text = std::fs::read_to_string(self.root().join(format!("runs-{profile}")));
        text.map_or(0, |text| text.lines().count())
    }

    /// Returns the garbage collector's roots that fetches made and nobody removed.
    pub(super) fn roots(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root().join("nix/var/nix/gcroots/shoal")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Closures for Lab {
    async fn closure(&self, digest: Digest) -> Result<(ClosureIndex, Option<Hints>), Reason> {
        let bytes = std::fs::read(self.closure_file(digest)).unwrap();
        let index = ClosureIndex::parse_named(&bytes, digest);
        let index = index.map_err(|error| Reason::new(Code::ClosureIndex, error.to_string()))?;
        Ok((index, None))
    }
}
