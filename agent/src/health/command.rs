//! One try of a check by a command: as the profile's own user, alone, and not for long.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use shared::human;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Most output that is kept: the end of it.
const MAX_LOG: usize = 2048;

/// How long output is read after the command has ended.
const DRAIN: Duration = Duration::from_millis(200);

/// A command to try.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Its whole environment.
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// User and group that it runs as, if not as us.
    pub(crate) account: Option<(u32, u32)>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// All processes of one try; killed with the value, whatever becomes of it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Fails when nobody is left, which is what we want.
            let _sent = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs the command; what is wrong in a clause for people, and the last lines of output.
pub(crate) async fn run(setting: &Setting) -> (Result<(), String>, String) {
    let log = Log::default();
    let outcome = run_to_end(setting, &log).await;
    let log = text(&log.lock().unwrap_or_else(PoisonError::into_inner));
    (outcome, log)
}

async fn run_to_end(setting: &Setting, log: &Log) -> Result<(), String> {
    let mut child = spawn(setting).map_err(|error| format!("could not be run: {error}"))?;
    let _group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let readers = [
        tokio::spawn(read_into(child.stdout.take(), Arc::clone(log))),
        tokio::spawn(read_into(child.stderr.take(), Arc::clone(log))),
    ];
    let ended = timeout(setting.limit, child.wait()).await;
    for mut reader in readers {
        if timeout(DRAIN, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    match ended {
        Err(_) => Err(format!("took longer than {} s", setting.limit.as_secs())),
        Ok(Err(error)) => Err(format!("could not be waited for: {error}")),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(describe(status)),
    }
}

/// Makes text that any terminal and any JSON reader can show.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text.trim_end().lines().map(human::plain).collect();
    lines.join("\n")
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with {code}"),
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    }
}

fn spawn(setting: &Setting) -> io::Result<Child> {
    let mut child = Command::new(&setting.program);
    child
        .args(&setting.arguments)
        .current_dir("/")
        .env_clear()
        .envs(setting.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some((uid, gid)) = setting.account {
        // With a user id, supplementary groups are dropped as well.
        child.uid(uid).gid(gid);
    }
    child.spawn()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, seconds: u64) -> Setting {
        Setting {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("SHOAL_PROFILE", "web".into())],
            account: None,
            limit: Duration::from_secs(seconds),
        }
    }

    #[tokio::test]
    async fn runs_alone_and_says_how_it_ended() {
        let (outcome, log) = run(&sh("pwd; echo $SHOAL_PROFILE; echo ${HOME-no home}", 60)).await;
        assert_eq!((outcome, log.as_str()), (Ok(()), "/\nweb\nno home"));
        let (outcome, log) = run(&sh("echo down >&2; exit 4", 60)).await;
        assert_eq!((outcome, log.as_str()), (Err("ended with 4".to_owned()), "down"));
        let (outcome, _) = run(&sh("kill -9 $$", 60)).await;
        assert_eq!(outcome, Err("was ended by signal 9".to_owned()));
        let missing = Setting { program: "/no/such/check".into(), ..sh("", 60) };
        let (outcome, _) = run(&missing).await;
        assert!(outcome.unwrap_err().contains("could not be run"));
        let (_, log) = run(&sh("seq 1 9999", 60)).await;
        assert!(log.ends_with("9999") && log.len() <= MAX_LOG, "{}", log.len());
    }

    #[tokio::test]
    async fn ends_with_all_that_it_started_when_it_takes_too_long_and_when_it_is_done() {
        for script in ["sleep 1000 & echo $!; wait", "sleep 1000 >/dev/null 2>&1 & echo $!"] {
            let (outcome, log) = run(&sh(script, 1)).await;
            assert_eq!(outcome.is_ok(), script.contains("null"), "{outcome:?}");
            let pid: i32 = log.trim().parse().unwrap();
            let stat = format!("/proc/{pid}/stat");
            // The kernel takes its time, above all on a machine that is busy.
            for _ in 0..6000 {
                let state = std::fs::read_to_string(&stat).unwrap_or_default();
                if state.is_empty() || state.contains(") Z ") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let state = std::fs::read_to_string(&stat).unwrap_or_default();
            assert!(state.is_empty() || state.contains(") Z "), "{state}");
        }
    }
}
