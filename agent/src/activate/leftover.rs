//! A program that outlived the agent which ran it: ended before anything else is activated.
//!
//! While a program runs, a file names its process group. Whoever finds that file under the host's
//! lock knows that the agent died meanwhile, and that the program may still be at work.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde::{Deserialize, Serialize};

use super::exec::GRACE;
use crate::{files, host};

/// Name of the file in the state folder.
const NAME: &str = "activation.json";

/// Longest such file.
const MAX_LEN: u64 = 4096;

/// A process group of ours, told apart from a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    /// The id of the group, and of the process that leads it.
    id: i32,
    /// When that process started, in the kernel's ticks since boot.
    started: u64,
    /// The boot in which it did.
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
        let id = group.as_raw_nonzero().get();
        let started = started(id).unwrap_or_default();
        let group = Group { id, started, boot_id: host::boot_id() };
        let path = state_dir.join(NAME);
        files::replace(&path, &serde_json::to_vec(&group)?).map_err(|error| error.source)?;
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

/// Ends the program of an agent that died; the caller has the host's lock.
pub(crate) fn end(state_dir: &Path) {
    let path = state_dir.join(NAME);
    let Ok(Some(bytes)) = files::read(&path, MAX_LEN) else { return };
    if let Ok(group) = serde_json::from_slice::<Group>(&bytes)
        && let Some(id) = group.alive()
    {
        tracing::warn!(group = group.id, "ends an activation whose agent died");
        end_group(id);
    }
    drop(Running { path });
}

impl Group {
    /// Returns the group's id if anything of it is still there.
    fn alive(&self) -> Option<Pid> {
        let id = Pid::from_raw(self.id)?;
        // A leader that started at another time leads another group. Without any leader it is
        // ours: its number is not given away as long as a process is in the group.
        let same = started(self.id).is_none_or(|started| started == self.started);
        (self.boot_id == host::boot_id() && same && test_kill_process_group(id).is_ok())
            .then_some(id)
    }
}

/// Asks the group to end, and makes it once its leader is gone or takes too long.
fn end_group(group: Pid) {
    let deadline = Instant::now() + GRACE;
    // Failing means that nobody is left.
    let asked = kill_process_group(group, Signal::TERM);
    while asked.is_ok() && is_led(group) && Instant::now() < deadline {
        // Not our child: there is nothing to wait on.
        thread::sleep(Duration::from_millis(20));
    }
    let _sent = kill_process_group(group, Signal::KILL);
}

/// Returns whether the leader lives; nobody may be there to bury it.
fn is_led(group: Pid) -> bool {
    let stat = stat(group.as_raw_nonzero().get()).unwrap_or_default();
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

    #[test]
    fn ends_what_a_dead_agent_left_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        std::mem::forget(Running::record(folder.path(), id).unwrap());
        // Reaped while it is waited for, as init would.
        let waiting = std::thread::spawn(move || child.wait().unwrap());
        end(folder.path());
        assert!(!waiting.join().unwrap().success());
        assert!(!folder.path().join(NAME).exists());
    }

    #[test]
    fn leaves_alone_who_has_the_number_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        std::mem::forget(Running::record(folder.path(), id).unwrap());
        let path = folder.path().join(NAME);
        let mut group: Group = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        group.started += 1;
        fs::write(&path, serde_json::to_vec(&group).unwrap()).unwrap();
        end(folder.path());
        assert!(child.try_wait().unwrap().is_none(), "it still runs");
        assert!(!path.exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn nothing_is_written_down_once_a_program_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        drop(Running::record(folder.path(), id).unwrap());
        assert!(!folder.path().join(NAME).exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
