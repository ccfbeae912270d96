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
use shared::human;
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

/// Lets the program start once it is written down that it runs; shuts if the agent dies before.
const GATE: &str = r#"read -r _ || exit; unset _ PWD OLDPWD SHLVL; exec "$0" "$@" < /dev/null"#;

/// Most output that is kept: the end of it, for journal and report.
const MAX_LOG: usize = 4096;

/// What a program is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It changes the host. It is asked to end before it is made to; what it leaves behind after a
    /// success lives on, but must have opened an output of its own.
    Change,
    /// It only looks. Nothing of it outlives its end, its deadline, or whoever waits for it.
    Look,
}

/// A program to run.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// What for.
    pub(crate) purpose: Purpose,
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
/// All that it starts is in one process group, which is ended with it if it fails.
pub(crate) async fn run(command: &Command) -> Result<String, Failed> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let ended = run_to_end(command, &log).await;
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let log = shown(&log);
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
        tracing::warn!(%error, "cannot write down that a program runs");
    }
    let mut killed = Killed(group.filter(|_| command.purpose == Purpose::Look));
    if let Some(mut gate) = child.stdin.take() {
        // Fails if the shell is gone already, which its status tells.
        drop(gate.write_all(b"\n").await);
    }
    let readers = [
        tokio::spawn(read_into(child.stdout.take(), Arc::clone(log))),
        tokio::spawn(read_into(child.stderr.take(), Arc::clone(log))),
    ];
    let status = match wait(&mut child, group, command).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Problem::Ended(status)),
        Err(problem) => Err(problem),
    };
    if status.is_err() {
        killed.0 = group;
    }
    drop(killed);
    // Whoever still holds the pipes is not waited for.
    for mut reader in readers {
        if timeout(DRAIN, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    status
}

/// A process group that is killed with the value, if there is any.
struct Killed(Option<Pid>);

impl Drop for Killed {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when nobody is left, which is what we want.
            let _sent = kill_process_group(group, Signal::KILL);
        }
    }
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

/// Starts the program behind the gate.
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
    command: &Command,
) -> Result<ExitStatus, Problem> {
    if let Ok(ended) = timeout(command.timeout, child.wait()).await {
        return ended.map_err(Problem::Start);
    }
    let signal = |signal| {
        if let Some(group) = group {
            let _sent = kill_process_group(group, signal);
        }
    };
    let grace = match command.purpose {
        Purpose::Change => GRACE,
        Purpose::Look => Duration::ZERO,
    };
    signal(Signal::TERM);
    if timeout(grace, child.wait()).await.is_err() {
        signal(Signal::KILL);
        child.wait().await.map_err(Problem::Start)?;
    }
    Err(Problem::Timeout(command.timeout))
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
        keep(&mut log, buffer.get(..length).unwrap_or_default());
    }
}

/// Adds output to a log, which keeps its end.
pub(super) fn keep(log: &mut Vec<u8>, bytes: &[u8]) {
    log.extend_from_slice(bytes);
    let excess = log.len().saturating_sub(MAX_LOG);
    log.drain(..excess);
}

/// Returns a log as people may see it.
pub(super) fn shown(log: &[u8]) -> String {
    human::plain_lines(&String::from_utf8_lossy(log))
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
        run(&Command { timeout: limit, ..command(&folder, program) }).await
    }

    fn command(folder: &tempfile::TempDir, program: PathBuf) -> Command {
        Command {
            purpose: Purpose::Change,
            program,
            arguments: vec!["/the/link".into()],
            environment: vec![("PATH", PATH.into()), ("SHOAL_PROFILE", "web".into())],
            account: None,
            state_dir: folder.path().to_owned(),
            timeout: LONG,
        }
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

    /// Waits until a process has taken the signal that ends it: when its turn comes.
    async fn ends(pid: &str) {
        let stat = format!("/proc/{}/stat", pid.trim());
        let begun = std::time::Instant::now();
        loop {
            let state = std::fs::read_to_string(&stat).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            assert!(begun.elapsed() < LONG, "{state}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended_with_all_it_started() {
        let script = "sleep 1000 & echo $!; wait";
        let failed = run_script(script, Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(failed.problem, Problem::Timeout(_)));
        ends(&failed.log).await;
    }

    #[tokio::test]
    async fn a_missing_program_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let missing = command(&folder, "/nonexistent/bin/activate".into());
        let failed = run(&missing).await.unwrap_err();
        assert!(failed.problem.to_string().starts_with("could not be run"));
    }

    #[tokio::test]
    async fn output_is_made_fit_to_be_shown() {
        let log = run_script(r"printf 'a\033[31m\377b\n\n'", LONG).await.unwrap();
        assert_eq!(log, "a [31m\u{fffd}b");
    }

    #[tokio::test]
    async fn of_what_only_looks_nothing_outlives_its_end_its_deadline_or_who_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let look = |script: String, seconds| Command {
            purpose: Purpose::Look,
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            timeout: Duration::from_secs(seconds),
            ..command(&folder, "/bin/sh".into())
        };
        let pid = folder.path().join("pid");
        let note = format!("echo $! > {0}.new; mv {0}.new {0}", pid.display());
        for (end, seconds) in [("", 60), ("; wait", 1), ("; wait", 6000)] {
            let script = format!("trap '' TERM; sleep 1000 >/dev/null 2>&1 & {note}{end}");
            let command = look(script, seconds);
            let mut running = Box::pin(run(&command));
            tokio::select! {
                outcome = &mut running => assert_eq!(outcome.is_ok(), end.is_empty()),
                () = async {
                    while seconds < 6000 || !pid.exists() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                } => {}
            }
            drop(running);
            let sleeper = std::fs::read_to_string(&pid).unwrap();
            ends(&sleeper).await;
            std::fs::remove_file(&pid).unwrap();
            assert_eq!(std::fs::read_dir(folder.path().join("running")).unwrap().count(), 0);
        }
    }
}
