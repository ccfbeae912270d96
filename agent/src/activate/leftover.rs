//! A program that outlived the agent which ran it: ended before anything else is activated.
//!
//! While a program runs, a file names its process group and the agent that waits for it. If that agent
//! is not there any more, it died meanwhile, and the program may still be at work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process_group, test_kill_process_group};
use serde::{Deserialize, Serialize};

use super::exec::GRACE;
use crate::{files, host};

/// The folder of these files, below the state folder.
const FOLDER: &str = "running";

/// Longest such file.
const MAX_LEN: u64 = 4096;

/// A process of this boot, told apart from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    /// Its number.
    id: i32,
    /// When it started, in the kernel's ticks since boot.
    started: u64,
}

/// A process group of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    /// Its leader, which it has its number from.
    leader: Process,
    /// The agent that waits for it.
    agent: Process,
    /// The boot in which it was started.
    boot_id: String,
}

/// Writes down which group is at work; erased with the value.
#[derive(Debug)]
pub(super) struct Running {
    path: PathBuf,
}

impl Running {
    /// Writes the group down.
    pub(super) fn record(state_dir: &Path, group: Pid) -> io::Result<Self> {
        let (leader, agent) = (Process::find(group), Process::find(getpid()));
        let path = state_dir.join(FOLDER).join(format!("{}.json", leader.id));
        let group = Group { leader, agent, boot_id: host::boot_id() };
        let written = files::replace_for_this_boot(&path, &serde_json::to_vec(&group)?);
        written.map_err(|error| error.source)?;
        Ok(Self { path })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a file");
        }
    }
}

/// Ends the programs of agents that died.
pub(crate) fn end(state_dir: &Path) {
    let Ok(entries) = fs::read_dir(state_dir.join(FOLDER)) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        // What a dead writer left half-written, somebody else removes.
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        // One that has just ended has no file any more.
        let Ok(Some(bytes)) = files::read(&path, MAX_LEN) else { continue };
        if let Ok(group) = serde_json::from_slice::<Group>(&bytes) {
            if group.is_waited_for() {
                continue;
            }
            if let Some(id) = group.alive() {
                tracing::warn!(group = group.leader.id, "ends a program whose agent died");
                end_group(id);
            }
        }
        drop(Running { path });
    }
}

impl Process {
    fn find(id: Pid) -> Self {
        let id = id.as_raw_nonzero().get();
        Self { id, started: started(id).unwrap_or_default() }
    }
}

impl Group {
    /// Tells whether the agent that started it is still there.
    fn is_waited_for(&self) -> bool {
        let Process { id, started: then } = self.agent;
        self.boot_id == host::boot_id() && is_at_work(id) && started(id) == Some(then)
    }

    /// Returns the group's id if anything of it is still there.
    fn alive(&self) -> Option<Pid> {
        let id = Pid::from_raw(self.leader.id)?;
        // A leader that started at another time leads another group. Without any leader it is
        // ours: its number is not given away as long as a process is in the group.
        let same = started(self.leader.id).is_none_or(|started| started == self.leader.started);
        (self.boot_id == host::boot_id() && same && test_kill_process_group(id).is_ok())
            .then_some(id)
    }
}

/// Asks the group to end, and makes it once its leader is gone or takes too long.
fn end_group(group: Pid) {
    let deadline = Instant::now() + GRACE;
    // Failing means that nobody is left.
    let asked = kill_process_group(group, Signal::TERM);
    while asked.is_ok() && is_at_work(group.as_raw_nonzero().get()) && Instant::now() < deadline {
        // Not our child: there is nothing to wait on.
        thread::sleep(Duration::from_millis(20));
    }
    let _sent = kill_process_group(group, Signal::KILL);
}

/// Returns whether a process lives; nobody may be there to bury one that does not.
fn is_at_work(id: i32) -> bool {
    let stat = stat(id).unwrap_or_default();
    !matches!(stat.first().map(String::as_str), None | Some("Z" | "X"))
}

/// Returns when a process started, in ticks since boot.
fn started(id: i32) -> Option<u64> {
    stat(id)?.get(19)?.parse().ok()
}

/// Returns what the kernel says of a process, from its state on.
fn stat(id: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;

    fn sleeper() -> (std::process::Child, Pid) {
        let child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        (child, id)
    }

    /// Writes down that a process group runs, on behalf of an agent that is gone.
    fn forsake(folder: &Path, id: Pid, change: impl FnOnce(&mut Group)) -> PathBuf {
        let running = Running::record(folder, id).unwrap();
        let path = running.path.clone();
        std::mem::forget(running);
        let mut group: Group = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        group.agent.started += 1;
        change(&mut group);
        fs::write(&path, serde_json::to_vec(&group).unwrap()).unwrap();
        path
    }

    #[test]
    fn ends_what_a_dead_agent_left_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        let path = forsake(folder.path(), id, |_| {});
        // Reaped while it is waited for, as init would.
        let waiting = std::thread::spawn(move || child.wait().unwrap());
        end(folder.path());
        assert!(!waiting.join().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn leaves_alone_who_has_the_number_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        let path = forsake(folder.path(), id, |group| group.leader.started += 1);
        end(folder.path());
        assert!(child.try_wait().unwrap().is_none(), "it still runs");
        assert!(!path.exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn leaves_alone_what_an_agent_still_waits_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        let running = Running::record(folder.path(), id).unwrap();
        end(folder.path());
        assert!(child.try_wait().unwrap().is_none(), "it still runs");
        let path = running.path.clone();
        assert!(path.exists());
        drop(running);
        assert!(!path.exists(), "nothing is written down once it has ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
