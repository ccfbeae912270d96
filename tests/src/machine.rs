//! Real systemd machines: containers that boot Debian's own `systemd`, on a network of their own.
//!
//! A [`Fleet`] is a mount, network and process namespace with a bridge; each [`Machine`] in it has an
//! overlay over one Debian (`target/machine`, which `tests/run` makes once), a network namespace of
//! its own, and `systemd-nspawn --boot`. The agent under test is its `/usr/local/bin/agent`.
//!
//! Nothing of it outlives the story, however that ends: all processes hang on the first one of the
//! fleet's process namespace, which ends when the story's end of a pipe closes. What they changed
//! lies on a tmpfs of that namespace, and their cgroups are removed by the keeper that waits for it.

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::{
    eventually,
    process::{Ran, Service, bin, run, tool},
};

/// The address of the fleet's bridge, where listens whoever is [`on_the_network_of`] it.
pub const GATEWAY: &str = "10.77.0.1";

/// What keeps a fleet: it ends with its standard input, and leaves nothing behind.
const KEEPER: &str = r#"
    unshare --mount --net --pid --fork --kill-child --mount-proc sh -euc "$HOLDER" <&0 || true
    for tree in /sys/fs/cgroup "/sys/fs/cgroup/systemd" "/sys/fs/cgroup/unified"; do
        for group in "$tree/$FLEET"*; do
            [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
        done
    done
"#;

/// The first process of a fleet's namespaces.
const HOLDER: &str = r#"
    mount -t tmpfs -o mode=755 none "$FOLDER"
    mount -t tmpfs -o mode=755 none /run
    mkdir /run/netns
    ip link set lo up
    ip link add bridge type bridge
    ip address add "$GATEWAY/24" dev bridge
    ip link set bridge up
    echo "the fleet is there"
    read -r end || true
"#;

/// What a machine needs before it boots for the first time.
const PREPARE: &str = r#"
    ip netns add "$NAME"
    ip link add "$NAME" type veth peer name host0 netns "$NAME"
    ip link set "$NAME" master bridge up
    ip -n "$NAME" link set lo up
    ip -n "$NAME" address add "$ADDRESS/24" dev host0
    ip -n "$NAME" link set host0 up
    mkdir "$FOLDER/$NAME"
    mount -t tmpfs -o "mode=755,size=$DISK" none "$FOLDER/$NAME"
    cd "$FOLDER/$NAME"
    mkdir upper work root
    mount -t overlay -o "lowerdir=$BASE,upperdir=upper,workdir=work" overlay root
"#;

/// Boots it, in a cgroup of its own: two machines in one would end each other's services.
const BOOT: &str = r#"
    trees="/sys/fs/cgroup/systemd /sys/fs/cgroup/unified"
    [ ! -e /sys/fs/cgroup/cgroup.controllers ] || trees=/sys/fs/cgroup
    for tree in $trees; do
        [ -d "$tree" ] || continue
        mkdir -p "$tree/$FLEET-$NAME"
        echo $$ > "$tree/$FLEET-$NAME/cgroup.procs"
    done
    exec systemd-nspawn --quiet --register=no --keep-unit --directory="$FOLDER/$NAME/root" \
        --machine="$NAME" --network-namespace-path="/run/netns/$NAME" \
        --bind-ro="$AGENT:/usr/local/bin/agent" --boot
"#;

/// Prepares to run a program of this machine in the network of a fleet, at [`GATEWAY`].
#[must_use]
pub fn on_the_network_of(holder: Pid, program: &Path) -> Command {
    let mut entered = tool("nsenter");
    entered.arg(format!("--target={}", holder.as_raw_nonzero())).arg("--net");
    entered.arg("--").arg(program);
    entered
}

/// Machines that reach each other, and nothing else.
#[derive(Debug)]
pub struct Fleet {
    keeper: Child,
    /// Closing it ends everything.
    pipe: Option<ChildStdin>,
    holder: Pid,
    folder: TempDir,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// Makes an empty one.
    ///
    /// # Panics
    /// When it cannot be made: only root can, and only with `systemd-nspawn` and `ip`.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        assert!(geteuid().is_root(), "only root boots machines");
        let folder = crate::scratch();
        let talk = folder.path().join("talk");
        let file = fs::File::create(&talk).expect("it is ours");
        let mut keeper = tool("sh");
        keeper.args(["-euc", KEEPER]).env("HOLDER", HOLDER).env("GATEWAY", GATEWAY);
        keeper.env("FOLDER", folder.path()).env("FLEET", fleet_name(&folder));
        keeper.stdin(Stdio::piped()).stdout(file.try_clone().expect("it is ours")).stderr(file);
        // A story that is interrupted by hand must not interrupt who tidies up behind it.
        let mut keeper = keeper.process_group(0).spawn().expect("there is a shell");
        let pipe = keeper.stdin.take();
        let mut fleet = Self { keeper, pipe, holder: Pid::INIT, folder };
        fleet.holder = eventually("a fleet is made", || {
            let said = fs::read_to_string(&talk).expect("it is ours");
            let ended = fleet.keeper.try_wait().expect("it is our own child").is_some();
            assert!(!ended, "cannot make a fleet:\n{said}");
            let made = said.contains("the fleet is there");
            made.then(|| first_child(first_child(Pid::from_child(&fleet.keeper))?)).flatten()
        });
        fleet
    }

    /// Boots a new machine; `number` is the end of its address.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn machine(&self, name: &str, number: u8) -> Machine<'_> {
        self.machine_with_disk(name, number, "2g")
    }

    /// Boots a new machine with so much room for all that it changes, such as `64m`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn machine_with_disk(&self, name: &str, number: u8, disk: &str) -> Machine<'_> {
        let address = format!("10.77.0.{number}");
        let mut prepare = self.held("sh");
        prepare.args(["-euc", PREPARE]).env("BASE", base()).env("DISK", disk);
        run(prepare.env("NAME", name).env("ADDRESS", &address)).ok();
        let mut machine = Machine { fleet: self, name: name.to_owned(), address, running: None };
        machine.start();
        machine
    }

    /// Returns the process id of whoever holds all namespaces.
    #[must_use]
    pub const fn holder(&self) -> Pid {
        self.holder
    }

    /// Prepares to run a program of this machine in all of the fleet's namespaces.
    fn held(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.arg(format!("--target={}", self.holder.as_raw_nonzero()));
        command.args(["--mount", "--net", "--pid", "--", program]);
        command.env("FOLDER", self.folder.path()).env("FLEET", fleet_name(&self.folder));
        command
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The folder can go once nothing is mounted on it.
        drop(self.keeper.wait());
    }
}

/// A machine; dropping it switches it off.
#[derive(Debug)]
pub struct Machine<'a> {
    fleet: &'a Fleet,
    name: String,
    /// Where the others reach it.
    pub address: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    nspawn: Service,
    init: Pid,
}

impl Machine<'_> {
    /// Switches it on, with the disk as it was left.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start(&mut self) {
        let mut boot = self.fleet.held("sh");
        boot.args(["-euc", BOOT]).env("NAME", &self.name).env("AGENT", bin("agent"));
        let mut nspawn = Service::begin(&mut boot);
        let outer = Pid::from_raw(nspawn.id().try_into().expect("a process id")).expect("not 0");
        let init = eventually(&format!("{} has an init", self.name), || {
            assert!(nspawn.is_running(), "{} does not start:\n{}", self.name, nspawn.talk());
            first_child(first_child(outer)?).filter(|pid| is_init(*pid))
        });
        self.running = Some(Running { nspawn, init });
        eventually(&format!("{} is up", self.name), || {
            // Fails as long as nobody answers; says `degraded` if a unit failed.
            let state = self.run(&["systemctl", "is-system-running", "--wait"]).stdout;
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
    }

    /// Prepares to run a program in it, as root.
    ///
    /// # Panics
    /// When it is off.
    #[must_use]
    #[track_caller]
    pub fn command(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.arg(format!("--target={}", self.init().as_raw_nonzero()));
        command.args(["--all", "--", program]);
        // Not the environment of whoever runs the tests.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Runs a program in it, as root.
    #[track_caller]
    pub fn run(&self, line: &[&str]) -> Ran {
        let (program, arguments) = line.split_first().expect("a program");
        run(self.command(program).args(arguments))
    }

    /// Runs a shell script in it, as root; returns what it printed.
    ///
    /// # Panics
    /// When it does not end well.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.run(&["sh", "-euc", script]).ok().trim().to_owned()
    }

    /// Asks it to reboot, as its operator would, and waits until it is up again.
    ///
    /// # Panics
    /// When it does not come up again.
    #[track_caller]
    pub fn reboot(&mut self) {
        // The one who asks may well be ended with the rest.
        drop(self.run(&["systemctl", "reboot"]));
        self.comes_back();
    }

    /// Waits until it has gone down by itself, for a reboot, and is up again.
    ///
    /// # Panics
    /// When it does not go down, or does not come up again.
    #[track_caller]
    pub fn comes_back(&mut self) {
        let mut running = self.running.take().expect("it is on");
        eventually(&format!("{} goes down", self.name), || {
            (!running.nspawn.is_running()).then_some(())
        });
        self.start();
    }

    /// Kills its init, and with that everything in it; its disk stays as it is.
    ///
    /// # Panics
    /// When it is off.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("it is on");
        kill_process(running.init, Signal::KILL).expect("it is ours");
        eventually(&format!("{} is dead", self.name), || {
            (!running.nspawn.is_running()).then_some(())
        });
    }

    /// Pulls its network cable.
    ///
    /// # Panics
    /// When that fails.
    pub fn unplug(&self) {
        run(self.fleet.held("ip").args(["link", "set", &self.name, "down"])).ok();
    }

    /// Plugs its network cable in again.
    ///
    /// # Panics
    /// When that fails.
    pub fn plug_in(&self) {
        run(self.fleet.held("ip").args(["link", "set", &self.name, "up"])).ok();
    }

    /// Returns where a path of it is, for whoever is outside; also while it is off.
    #[must_use]
    pub fn outside(&self, path: &str) -> PathBuf {
        let root = self.fleet.folder.path().join(&self.name).join("root");
        let root = root.strip_prefix("/").expect("an absolute path");
        let holder = self.fleet.holder.as_raw_nonzero();
        let seen = PathBuf::from(format!("/proc/{holder}/root")).join(root);
        seen.join(path.trim_start_matches('/'))
    }

    /// Writes a file of it, and the folders above.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.outside(path);
        fs::create_dir_all(path.parent().expect("a file")).expect("it is ours");
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    #[track_caller]
    fn init(&self) -> Pid {
        self.running.as_ref().expect("the machine is on").init
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if self.running.is_none() {
            return;
        }
        if std::thread::panicking() {
            // What it has to say of the story's end.
            let mut journal = self.command("journalctl");
            journal.args(["--boot", "--no-pager", "--lines=80", "--output=short-monotonic"]);
            if let Ok(told) = journal.output() {
                let mut stderr = std::io::stderr();
                drop(writeln!(stderr, "--- the journal of {}", self.name));
                drop(stderr.write_all(&told.stdout));
            }
        }
        // Fails if it has just gone.
        let _sent = kill_process(self.init(), Signal::KILL);
    }
}

/// Returns the Debian that all machines share.
pub(crate) fn base() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/machine");
    let path = std::env::var_os("SHOAL_MACHINE").map_or(default, PathBuf::from);
    let made = path.join("usr/lib/systemd/systemd").exists();
    assert!(made, "there is no machine at {}; make it as root: tests/run", path.display());
    path.canonicalize().expect("it is there")
}

/// Returns the name under which the fleet's cgroups go.
fn fleet_name(folder: &TempDir) -> String {
    let name = folder.path().file_name().expect("a folder has a name");
    name.to_string_lossy().into_owned()
}

/// Returns the child of a process that has one.
fn first_child(parent: Pid) -> Option<Pid> {
    let parent = parent.as_raw_nonzero().get().to_string();
    fs::read_dir("/proc").expect("/proc is mounted").flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name before, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        (fields.split(' ').nth(1) == Some(&parent)).then(|| Pid::from_raw(pid)).flatten()
    })
}

/// Returns whether a process is the first one of a namespace.
fn is_init(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    status
        .unwrap_or_default()
        .lines()
        .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
}
