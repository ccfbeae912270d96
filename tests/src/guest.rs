//! A machine with a kernel and disks of its own, whose power can be cut.
//!
//! Debian's cloud kernel in `qemu-system-x86_64`, by software emulation, so that it runs wherever
//! the tests run, and takes seconds to boot. Its system disk is the same for all; what a story
//! adds is a folder with a program `main`, which runs as root once the machine is up, and
//! any number of disks ([`disk`]), which it finds as `/dev/vda`, `/dev/vdb` and so on. It says on
//! its console how far it is, and there the story listens.
//!
//! A power cut is SIGKILL to qemu: what the guest's kernel had not written is lost. What a real
//! disk may lose beyond that, because nobody asked it to flush its cache, shows [`write_log`].

pub mod computer;
pub mod disk;
mod system;
pub mod write_log;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{Service, tool};

/// How long a guest may be silent about what is waited for; an emulated machine on a busy one.
const PATIENCE: Duration = Duration::from_secs(900);
/// Memory of a guest in MiB.
const MEMORY: &str = "768";

/// Returns the kernel of all guests.
///
/// # Panics
/// When it was not downloaded.
#[must_use]
pub fn kernel() -> PathBuf {
    system::kernel()
}

/// What a guest is started with.
#[derive(Debug, Clone)]
pub struct Machine {
    payload: PathBuf,
    drives: Vec<Drive>,
}

#[derive(Debug, Clone)]
struct Drive {
    image: PathBuf,
    log: Option<PathBuf>,
}

impl Machine {
    /// Describes a machine that runs the program `main` of the disk image `payload`.
    ///
    /// The guest has it at `/payload`, read-only; see [`disk::make`].
    #[must_use]
    pub fn new(payload: &Path) -> Self {
        Self { payload: payload.to_owned(), drives: Vec::new() }
    }

    /// Adds a disk: an image, which the guest changes.
    #[must_use]
    pub fn disk(mut self, image: &Path) -> Self {
        self.drives.push(Drive { image: image.to_owned(), log: None });
        self
    }

    /// Adds a disk that writes down in `log` all that it is asked to do.
    #[must_use]
    pub fn logged_disk(mut self, image: &Path, log: &Path) -> Self {
        self.drives.push(Drive { image: image.to_owned(), log: Some(log.to_owned()) });
        self
    }

    /// Switches it on. `words` go onto the kernel's command line, for `main` to read.
    ///
    /// # Panics
    /// When what guests need is not installed, or the machine does not start.
    #[must_use]
    #[track_caller]
    pub fn start(&self, words: &str) -> Guest {
        let system = system::System::get();
        let mut qemu = emulator();
        qemu.arg("-kernel").arg(&system.kernel);
        // Namespaces of one controller keep their order; controllers do not.
        qemu.args([
            "-append",
            &format!("{KERNEL_WORDS} acpi=off root=/dev/nvme0n1 ro init=/init {words}"),
            "-device",
            "nvme,id=nvme,serial=1",
        ]);
        for (number, image) in [(1, &system.image), (2, &self.payload)] {
            let file = format!("driver=file,read-only=on,filename={}", plain(image));
            qemu.args(["-blockdev", &format!("node-name=n{number},{file}")]);
            qemu.args(["-device", &format!("nvme-ns,bus=nvme,nsid={number},drive=n{number}")]);
        }
        for (number, drive) in self.drives.iter().enumerate() {
            for option in drive.options(number) {
                qemu.args(["-blockdev", &option]);
            }
            // Not NVMe: qemu answers a write with FUA there before it is on disk.
            qemu.args(["-device", &format!("virtio-blk-pci,drive=d{number}")]);
        }
        let mut guest = Guest { service: Service::begin(&mut qemu) };
        guest.says(system::UP);
        guest
    }
}

/// A guest ends by a reboot. The kernel says nothing in between the lines of others unless it dies, not
/// even that the machine below it was too busy to run it. With ACPI, half of the time of a boot goes by.
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=0 nowatchdog \
    rcupdate.rcu_cpu_stall_suppress=1 panic=-1 mitigations=off";

/// Prepares to emulate a machine that has nothing yet but memory and a console.
fn emulator() -> Command {
    let mut qemu = tool("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", MEMORY, "-nodefaults"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu
}

impl Drive {
    /// Returns the options of the block devices that make up disk `number`.
    fn options(&self, number: usize) -> Vec<String> {
        // The machine that qemu runs on keeps its power: it need not sync.
        let file = |name: String, path: &Path| {
            format!("driver=file,node-name={name},cache.no-flush=on,filename={}", plain(path))
        };
        let Some(log) = &self.log else { return vec![file(format!("d{number}"), &self.image)] };
        fs::File::create(log).expect("a place for the log");
        vec![
            file(format!("f{number}"), &self.image),
            file(format!("l{number}"), log),
            format!("driver=blklogwrites,node-name=d{number},file=f{number},log=l{number}"),
        ]
    }
}

/// Returns a path as qemu's options take it.
fn plain(path: &Path) -> &str {
    let path = path.to_str().expect("a plain path");
    assert!(!path.contains(','), "{path} has a comma");
    path
}

/// A machine that runs; dropping it cuts its power.
#[derive(Debug)]
pub struct Guest {
    service: Service,
}

impl Guest {
    /// Returns the first line on the console that begins with `words`, once it is there.
    ///
    /// # Panics
    /// When the machine goes off before, or does not say so for a quarter of an hour.
    #[track_caller]
    pub fn says(&mut self, words: &str) -> String {
        let start = Instant::now();
        loop {
            let running = self.service.is_running();
            let console = self.console();
            if let Some(line) = line_of(&console, words) {
                return line;
            }
            assert!(running, "the guest went off before it said `{words}`:\n{console}");
            let late = start.elapsed() > PATIENCE;
            assert!(!late, "the guest did not say `{words}` in {PATIENCE:?}:\n{console}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it run for so long, but no longer than until a line begins with `words`.
    pub fn runs_for(&mut self, time: Duration, words: &str) {
        let start = Instant::now();
        while start.elapsed() < time && line_of(&self.console(), words).is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns all that the console showed, as whole lines.
    #[must_use]
    pub fn console(&self) -> String {
        let talk = self.service.talk().replace('\r', "");
        talk.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned()
    }

    /// Cuts its power; returns all that the console had shown.
    #[must_use]
    pub fn cut(self) -> String {
        self.service.stop().replace('\r', "")
    }

    /// Waits until it ends by itself, when `main` does; returns all that the console had shown.
    ///
    /// # Panics
    /// When it does not within a quarter of an hour.
    #[must_use]
    #[track_caller]
    pub fn ends(mut self) -> String {
        let start = Instant::now();
        while self.service.is_running() {
            assert!(start.elapsed() < PATIENCE, "the guest does not end:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.service.talk().replace('\r', "")
    }
}

/// Returns the first whole line of a console that begins with `words`.
#[must_use]
pub fn line_of(console: &str, words: &str) -> Option<String> {
    console.lines().find(|line| line.starts_with(words)).map(ToOwned::to_owned)
}
