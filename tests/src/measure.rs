//! A program within bounds, and how much memory it took.

use std::{fs, process::Command};

use crate::process::{Ran, run, tool};

/// Runs a program with no file above a size, kills it after a time, and notes its peak memory.
const SCRIPT: &str = r#"
import resource, subprocess, sys
note, largest, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
try:
    code = subprocess.run(sys.argv[4:], timeout=seconds).returncode
except subprocess.TimeoutExpired:
    code = 124
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
open(note, "w").write(str(peak))
sys.exit(code if code >= 0 else 128 - code)
"#;

/// What a program may do before it is stopped.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the largest file that it may write.
    pub file: u64,
    /// Seconds after which it counts as hanging; its exit code is 124 then.
    pub seconds: u64,
}

/// Runs a program to its end within bounds; returns also its peak memory in bytes.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
#[must_use]
pub fn run_bounded(command: &Command, bounds: Bounds) -> (Ran, u64) {
    let folder = crate::scratch();
    let note = folder.path().join("peak");
    let mut python = tool("python3");
    python.args(["-S", "-E", "-c", SCRIPT]).arg(&note);
    python.args([bounds.file.to_string(), bounds.seconds.to_string()]);
    python.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let ran = Ran { line: format!("{command:?}"), ..run(&mut python) };
    let peak = fs::read_to_string(&note).unwrap_or_else(|_| panic!("nothing was noted: {ran}"));
    (ran, peak.trim().parse::<u64>().expect("a number") * 1024)
}
