//! Commands that run at the same time, and a watch over them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::{self, BufRead as _, BufReader},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

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

    /// Returns what the command said that a user would take for a fault.
    fn complaints(&self, said: &[String]) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Ours(_) => &["error", "warning", "cannot", "panicked"],
            Self::Nix(_) => &["error", "terminate called", "ssertion"],
        };
        // It tries again then; see `nix_alone`.
        let is_usual = |line: &&String| {
            line.starts_with("warning: error: SQLite database") && line.ends_with("is busy")
        };
        let lines = said.iter().filter(|line| !is_usual(line));
        lines.filter(|line| words.iter().any(|word| line.contains(word))).cloned().collect()
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

/// A command that did not end as a user wants it.
struct Fault {
    lane: &'static str,
    ended_well: bool,
    is_nix: bool,
    complaints: Vec<String>,
}

impl Fault {
    /// Returns whether it is one of those that Nix makes beside nobody but Nix; see `deleted`, which
    /// has what 2.34 says, and what 2.8 does.
    fn is_usual(&self, told: &Told) -> bool {
        let lost = &told.forgotten() | &told.deleted();
        let is_usual = |line: &String| {
            let line = line.strip_prefix("BUG: ").unwrap_or(line);
            if line.starts_with("error: cannot delete path '") {
                return line.contains("' because it is in use by '");
            }
            if line.ends_with("Assertion `worker.store.isValidPath(i)' failed.") {
                return !lost.is_empty();
            }
            let of_lost = |start, end| {
                let rest = line.strip_prefix(start).and_then(|rest: &str| rest.split_once('\''));
                rest.is_some_and(|(path, rest)| lost.contains(path) && rest.ends_with(end))
            };
            of_lost("error: reference '", "' is not a valid path")
                // Forgotten before it could say that it had it.
                || of_lost("error: path '", " does not exist and cannot be created")
        };
        self.is_nix && !self.complaints.is_empty() && self.complaints.iter().all(is_usual)
    }
}

/// What happened in a round, of all lanes, in its order.
#[derive(Default)]
pub(super) struct Told {
    lines: Vec<Line>,
    /// Whether real Nix could not realise something for which nobody else is to blame.
    pub(super) gave_up: bool,
}

struct Line {
    at: Duration,
    lane: &'static str,
    what: What,
}

enum What {
    /// A process began; its number, and the command.
    Began(u32, String),
    Said(String),
    Ended(ExitStatus),
}

impl Told {
    /// Returns the paths whose rows `nix-store --verify` removed.
    pub(super) fn forgotten(&self) -> BTreeSet<String> {
        self.quoted("path ", " disappeared, removing from database...")
    }

    /// Returns the paths that the collector of Nix deleted.
    pub(super) fn deleted(&self) -> BTreeSet<String> {
        self.quoted("deleting ", "")
    }

    /// Returns the paths that real Nix quoted on lines that begin and end like this.
    fn quoted(&self, start: &str, end: &str) -> BTreeSet<String> {
        let said = self.lines.iter().filter_map(|line| match &line.what {
            What::Said(text) => Some(text),
            What::Began(..) | What::Ended(_) => None,
        });
        let quoted = said.filter_map(|line| {
            let (path, rest) = line.strip_prefix(start)?.strip_prefix('\'')?.split_once('\'')?;
            (rest == end).then(|| path.to_owned())
        });
        quoted.collect()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { at, lane, what } in &self.lines {
            write!(f, "{:>7.3} {lane:>15} ", at.as_secs_f64())?;
            match what {
                What::Began(process, command) => writeln!(f, "+ {process}: {command}")?,
                What::Said(text) => writeln!(f, "| {text}")?,
                What::Ended(status) => writeln!(f, "= {status}")?,
            }
        }
        Ok(())
    }
}

/// One round while it runs.
struct Round {
    begin: Instant,
    told: Mutex<Told>,
    /// Which process runs in which lane.
    running: Mutex<BTreeMap<&'static str, u32>>,
}

impl Round {
    fn note(&self, lane: &'static str, what: What) {
        let mut told = lock(&self.told);
        told.lines.push(Line { at: self.begin.elapsed(), lane, what });
    }

    /// Runs a command to its end; returns what was wrong with that.
    fn run(&self, lane: &'static str, work: &mut Work) -> Option<Fault> {
        let (reader, writer) = io::pipe().unwrap();
        let command = work.command();
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let line = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        // Else the pipe never ends.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        lock(&self.running).insert(lane, child.id());
        self.note(lane, What::Began(child.id(), line));
        let mut said = Vec::new();
        for line in BufReader::new(reader).split(b'\n') {
            let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
            self.note(lane, What::Said(line.clone()));
            said.push(line);
        }
        let status = child.wait().unwrap();
        lock(&self.running).remove(lane);
        self.note(lane, What::Ended(status));
        let (ended_well, is_nix) = (status.success(), matches!(work, Work::Nix(_)));
        let complaints = work.complaints(&said);
        let well = ended_well && complaints.is_empty();
        (!well).then_some(Fault { lane, ended_well, is_nix, complaints })
    }

    /// Tells who waits for whom, and ends the test.
    fn give_up(&self, number: u32) -> ! {
        let mut told = format!("round {number}: nothing ended within {PATIENCE:?}\n");
        told.push_str(&lock(&self.told).to_string());
        let running = lock(&self.running);
        for (lane, id) in running.iter() {
            let wait = fs::read_to_string(format!("/proc/{id}/wchan")).unwrap_or_default();
            told.push_str(&format!("{lane}: process {id} waits in {wait}\n"));
        }
        told.push_str(&fs::read_to_string("/proc/locks").unwrap_or_default());
        // The scope would wait for the very threads that wait.
        eprintln!("{told}");
        for id in running.values() {
            drop(Command::new("kill").args(["-KILL", &id.to_string()]).status());
        }
        panic!("{told}")
    }
}

/// Runs all lanes at once, until every command ended well; returns what they said.
#[track_caller]
pub(super) fn run_all(number: u32, lanes: Vec<Lane>) -> Told {
    let (told, running) = (Mutex::default(), Mutex::default());
    let round = Round { begin: Instant::now(), told, running };
    let (sender, receiver) = mpsc::channel();
    let mut faults = Vec::new();
    thread::scope(|scope| {
        for mut lane in lanes {
            let (sender, round) = (sender.clone(), &round);
            scope.spawn(move || {
                for work in &mut lane.works {
                    sender.send(round.run(lane.name, work)).unwrap();
                }
            });
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(fault) => faults.extend(fault),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => round.give_up(number),
            }
        }
    });
    let mut told = round.told.into_inner().unwrap_or_else(PoisonError::into_inner);
    told.gave_up = faults.iter().any(|fault| !fault.ended_well);
    let failed = faults.iter().filter(|fault| !fault.is_usual(&told)).map(|fault| fault.lane);
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "round {number}: {failed:?} failed:\n{told}");
    for fault in faults {
        eprintln!("round {number}: as usual, Nix says: {}", fault.complaints.join("; "));
    }
    told
}

#[test]
fn what_real_nix_says_that_it_lost_is_understood() {
    let said = [
        "path '/nix/store/h9baxsdv6gia78aivgnyb5zjm4jc4glx-a' disappeared, removing from database...",
        "path '/nix/store/64a34py63qql47bapaxdwmm076nywda8-b' disappeared, but it still has valid referrers!",
        "deleting '/nix/store/pj1fhhzihd1asha4ygnflnw9x453h4s6-c'",
    ];
    let line =
        |text: &str| Line { at: Duration::ZERO, lane: "", what: What::Said(text.to_owned()) };
    let told = Told { lines: said.map(line).into(), gave_up: false };
    let only = |path: &str| BTreeSet::from([path.to_owned()]);
    assert_eq!(told.forgotten(), only("/nix/store/h9baxsdv6gia78aivgnyb5zjm4jc4glx-a"));
    assert_eq!(told.deleted(), only("/nix/store/pj1fhhzihd1asha4ygnflnw9x453h4s6-c"));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
