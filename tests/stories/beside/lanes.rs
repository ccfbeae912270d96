//! Commands that run at the same time, and a watch over them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use tempfile::NamedTempFile;

/// How long nothing may end. Each command takes less than a second of work; this is for machines
/// that are busy with everything else.
const PATIENCE: Duration = Duration::from_secs(180);

/// A command, and whose it is.
pub(super) enum Work {
    Ours(Command),
    Nix(Command),
}

impl Work {
    const fn command(&mut self) -> &mut Command {
        match self {
            Self::Ours(command) | Self::Nix(command) => command,
        }
    }

    /// Returns whether the command said what a user would take for a fault.
    fn complained(&self, said: &str) -> bool {
        let words: &[&str] = match self {
            Self::Ours(_) => &["error", "warning", "cannot", "panicked"],
            Self::Nix(_) => &["error", "terminate called", "ssertion"],
        };
        // It tries again then; see `nix_alone`.
        let is_usual = |line: &&str| {
            line.starts_with("warning: error: SQLite database") && line.ends_with("is busy")
        };
        let mut lines = said.lines().filter(|line| !is_usual(line));
        lines.any(|line| words.iter().any(|word| line.contains(word)))
    }
}

/// Commands that run one after the other, beside those of other lanes.
pub(super) struct Lane {
    name: &'static str,
    works: Vec<Work>,
}

impl Lane {
    pub(super) const fn new(name: &'static str, works: Vec<Work>) -> Self {
        Self { name, works }
    }
}

/// A command that ended.
struct Ended {
    line: String,
    status: ExitStatus,
    said: String,
    complained: bool,
}

/// What is running, by lane: the command line, its process, where it talks.
type Running = Mutex<BTreeMap<&'static str, (String, u32, std::path::PathBuf)>>;

/// Runs all lanes at once, until every command ended well; returns what they said.
#[track_caller]
pub(super) fn run_all(round: u32, lanes: Vec<Lane>) -> String {
    let running = Running::default();
    let (sender, receiver) = mpsc::channel();
    let (mut failed, mut told) = (Vec::new(), String::new());
    thread::scope(|scope| {
        for lane in lanes {
            let (sender, running) = (sender.clone(), &running);
            scope.spawn(move || {
                for mut work in lane.works {
                    sender.send(run(lane.name, &mut work, running)).unwrap();
                }
            });
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(ended) => {
                    let said = format!("{}: {}\n{}\n", ended.line, ended.status, ended.said);
                    told.push_str(&said);
                    if !ended.status.success() || ended.complained {
                        failed.push(said);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => give_up(round, &running),
            }
        }
    });
    assert!(failed.is_empty(), "round {round}:\n{}", failed.join("\n"));
    told
}

fn run(lane: &'static str, work: &mut Work, running: &Running) -> Ended {
    let talk = NamedTempFile::new().unwrap();
    let append = || File::options().append(true).open(talk.path()).unwrap();
    let command = work.command();
    command.stdin(Stdio::null()).stdout(append()).stderr(append());
    let line = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let running = || running.lock().unwrap_or_else(PoisonError::into_inner);
    running().insert(lane, (line.clone(), child.id(), talk.path().to_owned()));
    let status = child.wait().unwrap();
    running().remove(lane);
    let said = fs::read(talk.path()).unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    let complained = work.complained(&said);
    Ended { line, status, said, complained }
}

/// Tells who waits for whom, and ends the test.
fn give_up(round: u32, running: &Running) -> ! {
    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
    let mut told = format!("round {round}: nothing ended within {PATIENCE:?}; these wait:\n");
    for (line, id, talk) in running.values() {
        let wait = fs::read_to_string(format!("/proc/{id}/wchan")).unwrap_or_default();
        let said = fs::read_to_string(talk).unwrap_or_default();
        told.push_str(&format!("{line}\n  process {id} in {wait}, it said:\n{said}\n"));
    }
    told.push_str(&fs::read_to_string("/proc/locks").unwrap_or_default());
    // The scope would wait for the very threads that wait.
    eprintln!("{told}");
    for (_, id, _) in running.values() {
        drop(Command::new("kill").args(["-KILL", &id.to_string()]).status());
    }
    panic!("{told}")
}
