//! Runs one program with a cleared environment, a deadline, and its last lines kept.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;
use tokio::time::timeout;

use super::leftover::Running;
use super::user::Account;

/// Where programs find theirs.
pub(crate) const PATH: &str = "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:\
    /usr/sbin:/usr/bin:/sbin:/bin";

/// Time between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// How long output is read after the program has ended, from what it left behind.
const DRAIN: Duration = Duration::from_millis(500);

/// Lets the program start once it is written down that it runs.
const GATE: &str = r#"read -r _ || exit; unset _ PWD OLDPWD SHLVL; exec "$0" "$@" < /dev/null"#;

/// Most output that is kept: the end of it, for journal and report.
const MAX_LOG: usize = 4096;

/// A program to run.
#[derive(Debug)]
pub(crate) struct Command {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// Whom it runs as, if not as us.
    pub(crate) account: Option<Account>,
    /// Where it is written down that it runs.
    pub(crate) state_dir: PathBuf,
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// A program that did not end well, and its last lines.
#[derive(Debug)]
pub(crate) struct Failed {
    /// What went wrong.
    pub(crate) problem: Problem,
    /// The last lines of its output.
    pub(crate) log: String,
}

/// What went wrong with a program.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It could not be started or waited for.
    Start(io::Error),
    /// It took too long.
    Timeout(Duration),
    /// It ended, but not with 0.
    Ended(ExitStatus),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "could not be run: {error}"),
            Self::Timeout(after) => write!(f, "took longer than {} s", after.as_secs()),
            Self::Ended(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "ended with {code}"),
                (None, signal) => write!(f, "was ended by signal {}", signal.unwrap_or_default()),
            },
        }
    }
}

/// Runs the program to its end, or to its deadline. Returns its last lines.
///
/// All that it starts is in one process group, which is ended with it if it fails. What it leaves
/// behind after a success lives on, but must have opened an output of its own.
pub(crate) async fn run(command: &Command) -> Result<String, Failed> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let ended = run_to_end(command, &log).await;
    let log = text(&log.lock().unwrap_or_else(PoisonError::into_inner));
    match ended {
        Ok(()) => Ok(log),
        Err(problem) => Err(Failed { problem, log }),
    }
}

async fn run_to_end(command: &Command, log: &Log) -> Result<(), Problem> {
    check_executable(command).map_err(Problem::Start)?;
    let mut child = spawn(command).map_err(Problem::Start)?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let recorded = group.map(|group| Running::record(&command.state_dir, group)).transpose();
    if let Err(error) = &recorded {
        // On a full disk, going back matters more than that a second accident finds a trace.
        tracing::warn!(%error, "cannot write down that an activation runs");
    }
    if let Some(mut gate) = child.stdin.take() {
        // Fails if the shell is gone already, which its status tells.
        drop(gate.write_all(b"\n").await);
    }
    let readers = [
        tokio::spawn(read_into(child.stdout.take(), Arc::clone(log))),
        tokio::spawn(read_into(child.stderr.take(), Arc::clone(log))),
    ];
    let status = match wait(&mut child, group, command.timeout).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Problem::Ended(status)),
        Err(problem) => Err(problem),
    };
    if let (Err(_), Some(group)) = (&status, group) {
        // Fails when nobody is left, which is what we want.
        let _sent = kill_process_group(group, Signal::KILL);
    }
    // Whoever still holds the pipes is not waited for.
    for mut reader in readers {
        if timeout(DRAIN, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    status
}

/// Finds a program of the host's.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// The shell only tells a number for what a person should read.
pub(super) fn check_executable(command: &Command) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(&command.program)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

/// Starts the program behind a gate, which opens when a line comes and shuts if we die before.
fn spawn(command: &Command) -> io::Result<Child> {
    let mut child = tokio::process::Command::new("/bin/sh");
    child
        .args(["-c", GATE])
        .arg(&command.program)
        .args(&command.arguments)
        .current_dir("/")
        .env_clear()
        .envs(command.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(Account { uid, gid }) = command.account {
        // With a user id, supplementary groups are dropped as well.
        child.uid(uid).gid(gid);
    }
    child.spawn()
}

async fn wait(
    child: &mut Child,
    group: Option<Pid>,
    limit: Duration,
) -> Result<ExitStatus, Problem> {
    if let Ok(ended) = timeout(limit, child.wait()).await {
        return ended.map_err(Problem::Start);
    }
    let signal = |signal| {
        if let Some(group) = group {
            let _sent = kill_process_group(group, signal);
        }
    };
    signal(Signal::TERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        signal(Signal::KILL);
        child.wait().await.map_err(Problem::Start)?;
    }
    Err(Problem::Timeout(limit))
}

type Log = Arc<Mutex<Vec<u8>>>;

/// Keeps the end of what comes.
async fn read_into(stream: Option<impl AsyncRead + Unpin>, log: Log) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0_u8; 4096];
    while let Ok(length) = stream.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.extend(buffer.iter().take(length));
        let excess = log.len().saturating_sub(MAX_LOG);
        log.drain(..excess);
    }
}

/// Makes text that any terminal and any JSON reader can show.
fn text(bytes: &[u8]) -> String {
    let printable = |character: char| match character {
        '\n' | '\t' => character,
        control if control.is_control() => ' ',
        other => other,
    };
    String::from_utf8_lossy(bytes).trim_end().chars().map(printable).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Runs a shell script as the program.
    async fn run_script(script: &str, limit: Duration) -> Result<String, Failed> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("activate");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let command = Command {
            program,
            arguments: vec!["/the/link".into()],
            environment: vec![("PATH", PATH.into()), ("SHOAL_PROFILE", "web".into())],
            account: None,
            state_dir: folder.path().to_owned(),
            timeout: limit,
        };
        run(&command).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn runs_in_an_environment_of_its_own() {
        let log = run_script(
            "pwd; echo \"$1\"; env | grep -v '^_\\|^PWD\\|^SHLVL\\|^OLDPWD' | sort",
            LONG,
        );
        let expected = format!("/\n/the/link\nPATH={PATH}\nSHOAL_PROFILE=web");
        assert_eq!(log.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_failure_keeps_the_last_lines_of_both_outputs() {
        let script = "seq 1 5000; echo why >&2; exit 3";
        let failed = run_script(script, LONG).await.unwrap_err();
        assert_eq!(failed.problem.to_string(), "ended with 3");
        assert!(failed.log.contains("5000") && failed.log.contains("why"), "{}", failed.log);
        assert!(failed.log.len() <= MAX_LOG);
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended_with_all_it_started() {
        let script = "sleep 1000 & echo $!; wait";
        let failed = run_script(script, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(failed.problem, Problem::Timeout(_)));
        let pid: i32 = failed.log.trim().parse().unwrap();
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }

    #[tokio::test]
    async fn a_missing_program_is_told() {
        let command = Command {
            program: "/nonexistent/bin/activate".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            account: None,
            state_dir: "/nonexistent".into(),
            timeout: LONG,
        };
        let failed = run(&command).await.unwrap_err();
        assert!(failed.problem.to_string().starts_with("could not be run"));
    }

    #[test]
    fn output_is_made_fit_to_be_shown() {
        assert_eq!(text(b"a\x1b[31m\xffb\n\n"), "a [31m\u{fffd}b");
    }
}
