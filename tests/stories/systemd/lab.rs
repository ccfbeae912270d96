//! A fleet with a registry, a builder and teams, and hosts that the agent runs on.

use std::{fs, path::Path, thread, time::Duration};

use serde_json::Value;
use tests::{
    Builder, Realm, Signer, eventually,
    machine::{Fleet, Machine},
};

/// A registry, a builder, and who publishes what.
pub(crate) struct Lab<'a> {
    fleet: &'a Fleet,
    pub(crate) builder: Builder,
    pub(crate) realm: Realm,
}

impl<'a> Lab<'a> {
    /// Sets a group `eu` up that takes these profiles, each with a team of its own name.
    pub(crate) fn new(fleet: &'a Fleet, profiles: &[&str]) -> Self {
        let builder = Builder::new();
        let realm = Realm::in_fleet(fleet, &builder.cache());
        let cache = realm.cache_url();
        let mut words = vec!["group", "create", "eu", "--cache", &cache];
        for profile in profiles {
            words.extend(["--profile", profile]);
        }
        realm.operator().sign(&words).ok();
        for profile in profiles {
            let name = profile.split(':').next().unwrap();
            let (key, may) = (realm.signer(name).key(name), format!("eu/{name}"));
            realm.operator().sign(&["team", "add", name, "--key", &key, "--may", &may]).ok();
        }
        Self { fleet, builder, realm }
    }

    /// Builds a root of these files: a unit of the profile's, `lib/systemd/system/<name>`, or
    /// anything else with a `/` in it. `DATA` in a text is a path that holds `data`.
    pub(crate) fn build(&self, profile: &str, data: &str, files: &[(&str, &str)]) -> String {
        let version = [("version", &*format!("{data}\n"), 0o644)];
        let held = self.builder.add_files(&format!("{profile}-data"), &version, &[]);
        let place = |name: &str| match name.contains('/') {
            true => name.to_owned(),
            false => format!("lib/systemd/system/{name}"),
        };
        let files: Vec<(String, String)> =
            files.iter().map(|(name, text)| (place(name), text.replace("DATA", &held))).collect();
        let mode = |text: &str| if text.starts_with("#!") { 0o755 } else { 0o644 };
        let files: Vec<_> =
            files.iter().map(|(name, text)| (&**name, &**text, mode(text))).collect();
        self.builder.add_files(profile, &files, &[&held])
    }

    /// Publishes a root; returns its store path.
    pub(crate) fn publish(&self, profile: &str, data: &str, files: &[(&str, &str)]) -> String {
        self.publish_with(profile, data, files, &[])
    }

    /// Publishes a root with further options; returns its store path.
    pub(crate) fn publish_with(
        &self,
        profile: &str,
        data: &str,
        files: &[(&str, &str)],
        options: &[&str],
    ) -> String {
        let path = self.build(profile, data, files);
        self.publish_path(profile, &path, options);
        path
    }

    /// Publishes a root that is built.
    pub(crate) fn publish_path(&self, profile: &str, path: &str, options: &[&str]) {
        self.builder.push(path).ok();
        let (target, root) = (format!("eu/{profile}"), self.builder.root());
        let root = root.to_str().unwrap();
        let line = ["publish", "manifest", &target, path, "--root", root];
        let chosen = options.contains(&"--activation");
        let activation: &[&str] = if chosen { &[] } else { &["--activation", "systemd"] };
        self.team(profile).sign(&[&line, activation, options].concat()).ok();
    }

    fn team(&self, name: &str) -> Signer<'_> {
        self.realm.signer(name)
    }

    /// Boots a machine and installs the agent on it, as deploy/README.md says.
    pub(crate) fn host(&self, name: &str, number: u8) -> HostMachine<'a> {
        self.host_with_disk(name, number, "2g")
    }

    /// Does so with so much room for all that is changed on it.
    pub(crate) fn host_with_disk(&self, name: &str, number: u8, disk: &str) -> HostMachine<'a> {
        let machine = self.fleet.machine_with_disk(name, number, disk);
        install(&machine);
        let data = self.realm.data();
        let data = data.to_str().unwrap();
        let token = ["host", "enroll-token", "--group", "eu", "--data", data];
        let token = self.realm.operator().run(&token).ok();
        machine.shell(&format!(
            "agent --quiet enroll {} --group eu --name {name} --trust {} --token {}",
            self.realm.url,
            self.realm.fingerprint,
            token.trim()
        ));
        HostMachine { machine }
    }
}

/// What makes stories quick.
pub(crate) const CONFIG: &str = "[activation]\nrunner = \"systemd\"\n[registry]\npoll = 1\nwait = 20\n\
    [store]\nmin_free = 0\n[gc]\nmin_free = 0\n";

/// Hands on what `deploy/` has for a host: each file's place, and what is in it.
pub(crate) fn deploy(mut write: impl FnMut(&str, Vec<u8>)) {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    for (folder, place) in [
        ("systemd", "/etc/systemd/system"),
        ("sysusers.d", "/etc/sysusers.d"),
        ("tmpfiles.d", "/etc/tmpfiles.d"),
    ] {
        for entry in fs::read_dir(deploy.join(folder)).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap();
            write(&format!("{place}/{name}"), fs::read(&file).unwrap());
        }
    }
}

/// Copies that onto a machine, and a configuration that makes stories quick.
fn install(machine: &Machine<'_>) {
    deploy(|path, bytes| machine.write(path, bytes));
    machine.write("/etc/shoal/agent.toml.d/story.toml", CONFIG);
    machine.shell(
        "systemctl daemon-reload; systemctl --quiet enable shoal-boot shoal-recover shoal-agent",
    );
}

/// A machine with the agent on it.
pub(crate) struct HostMachine<'a> {
    pub(crate) machine: Machine<'a>,
}

impl HostMachine<'_> {
    /// Starts the daemon.
    pub(crate) fn start(&self) {
        self.machine.shell("systemctl start shoal-agent");
    }

    /// Makes a system user for a profile, as `systemd-sysusers` does from a file.
    pub(crate) fn add_user(&self, name: &str) {
        let line = format!("u {name} - \"Profile {name}\" /var/lib/{name}\n");
        self.machine.write(&format!("/etc/sysusers.d/{name}.conf"), line);
        self.machine.shell("systemd-sysusers");
    }

    /// Returns what `agent status` says of a profile, in full; nothing if it does not know it.
    pub(crate) fn status(&self, profile: &str) -> Option<Value> {
        let ran = self.machine.run(&["agent", "status", "--json"]);
        let status: Value = serde_json::from_str(&ran.stdout).ok()?;
        let profiles = status.pointer("/profiles")?.as_array()?;
        profiles.iter().find(|it| it.get("profile").is_some_and(|it| it == profile)).cloned()
    }

    /// Returns state, code of the reason, and the version that runs.
    pub(crate) fn state(&self, profile: &str) -> String {
        let Some(status) = self.status(profile) else { return "unknown".into() };
        let word = |pointer| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let running = status.pointer("/running/version").map(ToString::to_string);
        let running = running.unwrap_or_default();
        let words = [word("/state"), word("/reason/code"), &running];
        words.into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Waits until a profile is in a state, as [`HostMachine::state`] tells it.
    #[track_caller]
    pub(crate) fn becomes(&self, profile: &str, expected: &str) {
        let mut last = String::new();
        eventually(&format!("{profile} becomes {expected}"), || {
            let state = self.state(profile);
            if state != last {
                eprintln!("{profile}: {state}");
                last.clone_from(&state);
            }
            // Asking is work for a machine that has other work.
            thread::sleep(Duration::from_millis(100));
            (state == expected).then_some(())
        });
    }

    /// Returns the timers that would wake the dead man.
    pub(crate) fn dead_men(&self) -> Vec<String> {
        let script = "systemctl list-units --plain --no-legend 'shoal-recover-*.timer'";
        let listed = self.machine.shell(script);
        listed.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    }

    /// Lets the time of such a timer come sooner: a second after it was armed.
    pub(crate) fn hasten(&self, timer: &str) {
        let left = self.property(timer, "NextElapseUSecMonotonic");
        assert!(!left.is_empty() && left != "infinity", "it would come by itself: {left}");
        self.machine.shell(&format!(
            "mkdir -p /run/systemd/system/{timer}.d
             printf '[Timer]\\nOnActiveSec=\\nOnActiveSec=1s\\n' >/run/systemd/system/{timer}.d/soon.conf
             systemctl daemon-reload"
        ));
    }

    /// Returns a property of a unit, such as `MainPID`.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.machine.shell(&format!("systemctl show --value --property={property} {unit}"))
    }

    /// Runs `systemctl` in the manager of a user; returns what it printed.
    pub(crate) fn of_user(&self, user: &str, words: &str) -> String {
        let line = format!("systemctl --user --machine={user}@ {words} 2>&1 || true");
        self.machine.shell(&line)
    }

    /// Asks a machine's port, as any neighbour may.
    pub(crate) fn answer(&self, port: u16) -> String {
        let script =
            format!("exec 3<>/dev/tcp/{}/{port}; timeout 10 cat <&3", self.machine.address);
        self.machine.run(&["bash", "-c", &script]).stdout.trim().to_owned()
    }
}
