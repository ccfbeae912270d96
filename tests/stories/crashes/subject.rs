//! Who is killed: an agent, in one of the ways in which it brings a closure to a host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use shared::nix::StorePath;
use store::local::{CheckContents, LocalStore};
use tempfile::TempDir;
use tests::{
    Host, Nix, Random, Realm, Server, Service, copy_folder, eventually, run, scratch, shoal,
};

use super::{
    closure::Closure,
    listing::{Listing, differences, list},
};

/// How a closure comes to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `agent copy-closure` with an index, from a folder.
    Folder,
    /// `agent copy-closure` by narinfos, from a server.
    Server,
    /// `agent once`, as a manifest says.
    Once,
    /// `agent run`, as a manifest says.
    Daemon,
}

pub(super) const WAYS: [Way; 4] = [Way::Folder, Way::Server, Way::Once, Way::Daemon];

/// What all rounds have in common.
pub(super) struct World {
    pub(super) closure: Closure,
    server: Server,
    _realm: Realm,
    /// Enrolled, and nothing else yet.
    host: Host,
    /// What each way leaves if nobody disturbs it, and how long it takes.
    undisturbed: Vec<(Listing, Duration)>,
}

impl World {
    pub(super) fn new() -> Self {
        let closure = Closure::new();
        let server = Server::new(&closure.builder.cache());
        let realm = Realm::new();
        let cache = server.url();
        let group = ["group", "create", "eu", "--cache", &cache, "--profile", "web:none"];
        realm.operator().sign(&group).ok();
        let team = realm.signer("web");
        let words = ["team", "add", "web", "--key", &team.key("web"), "--may", "eu/web"];
        realm.operator().sign(&words).ok();
        let (root, store) = (closure.root.to_string(), closure.builder.root());
        let words = ["publish", "manifest", "eu/web", &root, "--activation", "none", "--root"];
        team.sign(&[&words[..], &[store.to_str().unwrap()]].concat()).ok();
        let host = Host::enrol(&realm, "eu", "host-1");
        let mut world = Self { closure, server, _realm: realm, host, undisturbed: Vec::new() };
        for way in WAYS {
            let subject = Subject::new(&world, way);
            let started = Instant::now();
            subject.arrive(&world);
            world.undisturbed.push((list(&subject.folder()), started.elapsed()));
            subject.check_store();
        }
        world
    }

    fn undisturbed(&self, way: Way) -> &(Listing, Duration) {
        &self.undisturbed[way as usize]
    }
}

/// A host that the closure is to come to.
pub(super) struct Subject {
    way: Way,
    place: Place,
}

enum Place {
    Bare(TempDir),
    Enrolled(Host),
}

impl Subject {
    pub(super) fn new(world: &World, way: Way) -> Self {
        let place = match way {
            Way::Folder | Way::Server => Place::Bare(scratch()),
            Way::Once | Way::Daemon => Place::Enrolled(world.host.copy()),
        };
        Self { way, place }
    }

    pub(super) const fn way(&self) -> Way {
        self.way
    }

    /// Everything that is the agent's, or Nix's.
    fn folder(&self) -> PathBuf {
        match &self.place {
            Place::Bare(folder) => folder.path().to_owned(),
            Place::Enrolled(host) => host.root().parent().unwrap().to_owned(),
        }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    pub(super) fn command(&self, world: &World) -> Command {
        match &self.place {
            Place::Bare(_) => {
                let mut agent = shoal("agent");
                agent.args(["copy-closure", "--root"]).arg(self.root()).arg("--from");
                if self.way == Way::Folder {
                    agent.arg(world.closure.builder.cache());
                    agent.arg("--closure-index").arg(&world.closure.index);
                } else {
                    agent.arg(world.server.url()).arg(world.closure.root.to_string());
                }
                agent
            }
            Place::Enrolled(host) => {
                let mut agent = host.agent();
                agent.arg(if self.way == Way::Daemon { "run" } else { "once" });
                agent
            }
        }
    }

    /// Starts the agent and lets it alone until a random moment; it may have ended by then.
    pub(super) fn run_for_a_while(&self, world: &World, random: &mut Random) -> Child {
        let mut agent = self.command(world);
        agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut agent = agent.spawn().unwrap();
        if random.once_in(2) {
            let whole = world.undisturbed(self.way).1.as_micros();
            let whole = u64::try_from(whole).unwrap();
            thread::sleep(Duration::from_micros(random.below(whole + whole / 10)));
            return agent;
        }
        // However busy the machine is: when so much is there, and a little later.
        let enough = usize::try_from(random.below(world.closure.paths as u64)).unwrap();
        let store = self.root().join("nix/store");
        while agent.try_wait().unwrap().is_none()
            && fs::read_dir(&store).map_or(0, Iterator::count) < enough
        {
            thread::sleep(Duration::from_micros(500));
        }
        thread::sleep(Duration::from_micros(random.below(20_000)));
        agent
    }

    /// Kills the agent at a random moment; returns whether it was still at work.
    pub(super) fn kill(&self, world: &World, random: &mut Random) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let mut agent = self.run_for_a_while(world, random);
        agent.kill().unwrap();
        agent.wait().unwrap().signal() == Some(9)
    }

    /// Asks the agent at a random moment to end, and waits for that.
    pub(super) fn stop(&self, world: &World, random: &mut Random, signal: Signal) -> ExitStatus {
        let mut agent = self.run_for_a_while(world, random);
        if let Some(ended) = agent.try_wait().unwrap() {
            return ended;
        }
        kill_process(Pid::from_child(&agent), signal).unwrap();
        agent.wait().unwrap()
    }

    /// What holds once an agent has ended by itself before all was there: nobody has to tidy up.
    pub(super) fn check_stopped(&self) {
        let root = self.root();
        if !root.join("nix/var/nix/db/schema").exists() {
            return;
        }
        let left = fs::read_dir(root.join("nix/var/nix/temproots")).unwrap();
        assert_eq!(left.count(), 0, "temporary roots of nobody");
        let store = LocalStore::open_for_reading(&root).unwrap();
        for entry in fs::read_dir(root.join("nix/store")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name == ".links" {
                continue;
            }
            assert!(!name.ends_with(".lock"), "{name} is left behind");
            let path = StorePath::from_base_name(&name).unwrap();
            let info = store.path_info(&path).unwrap();
            assert!(info.is_some(), "{name} is left behind, and not valid");
        }
    }

    /// What holds right after any death: whatever is valid is whole.
    ///
    /// Looks at a copy, so that whoever comes next finds all as the dead left it.
    pub(super) fn check_interrupted(&self) {
        let (root, copy) = (self.root(), scratch());
        if !root.join("nix/var/nix/db/schema").exists() {
            return;
        }
        copy_folder(&root, copy.path());
        check_store(copy.path());
        if let Place::Enrolled(host) = &self.place {
            host.run(&["status"]).ok();
            if let Some(current) = host.current("web") {
                let store = LocalStore::open_for_reading(copy.path()).unwrap();
                let path = current.parse().unwrap();
                assert!(store.path_info(&path).unwrap().is_some(), "the profile leads to nothing");
            }
        }
    }

    /// Lets the agent come to its end.
    pub(super) fn arrive(&self, world: &World) {
        let mut agent = self.command(world);
        let Place::Enrolled(host) = &self.place else {
            run(&mut agent).ok();
            return;
        };
        if self.way == Way::Daemon {
            let mut daemon = Service::start(&mut agent, "the agent runs");
            // It counts its reports in a file.
            let reports = host.state_dir().join("reports.json");
            eventually("the daemon converges, and says so", || {
                let profiles = host.run(&["status", "--json"]).stdout;
                let converged = profiles.contains("\"state\":\"converged\"");
                (converged && reports.exists()).then_some(())
            });
            assert_eq!(daemon.terminate(), Some(0));
        } else {
            run(&mut agent).ok();
        }
    }

    /// What holds once the agent has come to its end, whatever came before.
    pub(super) fn check_arrived(&self, world: &World) {
        let root = self.root();
        let found = differences(&list(&self.folder()), &world.undisturbed(self.way).0);
        assert!(found.is_empty(), "{:?} left another host behind:\n{}", self.way, found.join("\n"));
        check_store(&root);
        let store = LocalStore::open_for_reading(&root).unwrap();
        let top = [world.closure.root.clone()].into();
        assert_eq!(store.closure(&top).unwrap().len(), world.closure.paths);
        if let Place::Enrolled(host) = &self.place {
            let profile = host.profile("web");
            assert_eq!(profile["state"], "converged", "{profile}");
            assert_eq!(profile["running"]["generation"], 1, "{profile}");
            assert_eq!(host.current("web"), Some(world.closure.root.to_string()));
        }
    }

    fn check_store(&self) {
        check_store(&self.root());
    }
}

/// Has real Nix look at every byte, and our own program at the references.
fn check_store(root: &Path) {
    Nix::at(root).verify();
    let store = LocalStore::open_for_reading(root).unwrap();
    store.verify(CheckContents::No, &mut |damage| panic!("{damage}")).unwrap();
}
