//! Programs, started as a person or systemd would start them.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

/// Returns the path of one of our own programs, `agent` or `registry`.
///
/// `tests/run` names their folder in `SHOAL_BIN_DIR`; without it they are looked for beside the
/// folder of the running test.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn bin(name: &str) -> PathBuf {
    let folder = env::var_os("SHOAL_BIN_DIR").map_or_else(
        || {
            // target/debug/deps/stories-0123456789abcdef
            let test = env::current_exe().expect("a test knows its own file");
            test.ancestors().nth(2).expect("a test lies in target/debug/deps").to_owned()
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "there is no {}; build it: cargo build --workspace (tests/run does)",
        path.display(),
    );
    path
}

/// Prepares to run one of our programs, in an environment that holds nothing of the user's.
#[must_use]
pub fn shoal(name: &str) -> Command {
    tool(bin(name))
}

/// Prepares to run a program of this machine, in an environment that holds nothing but `PATH`.
#[must_use]
pub fn tool(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command
}

/// Returns the Python that has the reference implementation of TUF.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn python() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python");
    let path = env::var_os("SHOAL_PYTHON").map_or(default, PathBuf::from);
    assert!(
        path.is_file(),
        "there is no {}; install it: python3 -m venv target/python && \
         target/python/bin/pip install -r tests/requirements.txt (.ci/run does)",
        path.display(),
    );
    path
}

/// What a program left when it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// What it printed as its answer.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
}

impl Ran {
    /// Returns the answer of a program that ended well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// Returns what a program said that ended with this exit code.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self}");
        self.stderr
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => writeln!(f, "{} ended with {code}", self.line)?,
            None => writeln!(f, "{} was ended by a signal", self.line)?,
        }
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, with nothing to read on its standard input.
///
/// # Panics
/// When it cannot be started; for a tool of this machine it names the Debian package.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, b"")
}

/// Runs a program to its end, with `input` on its standard input.
///
/// # Panics
/// When it cannot be started, as [`run`].
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command);
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A program may end without reading all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it is our own child");
    drop(writer.join());
    Ran {
        line: format!("{command:?}"),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

#[track_caller]
fn spawn(command: &mut Command) -> Child {
    let error = match command.spawn() {
        Ok(child) => return child,
        Err(error) => error,
    };
    let program = command.get_program().to_string_lossy();
    let package = match &*program {
        "nix" | "nix-store" | "nix-daemon" | "nix-env" | "nix-collect-garbage" => "nix-bin",
        "busybox" => "busybox-static",
        "debugfs" | "e2fsck" | "mke2fs" => "e2fsprogs",
        "grub-mkimage" => "grub-common",
        "mcopy" => "mtools",
        "mkfs.fat" => "dosfstools",
        "sfdisk" => "fdisk",
        "qemu-system-x86_64" => "qemu-system-x86",
        "ip" => "iproute2",
        "systemd-nspawn" => "systemd-container",
        "tinyproxy" => "tinyproxy-bin",
        "openssl" | "sqlite3" | "python3" => &program,
        _ => panic!("cannot start {program}: {error}"),
    };
    if error.kind() == ErrorKind::NotFound {
        panic!("there is no {program}; install it: apt-get install {package} (.ci/run does)");
    }
    panic!("cannot start {program}: {error}");
}

/// A program that runs beside the test, and is killed when this is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    line: String,
    talk: NamedTempFile,
    /// The line that said that it is ready.
    pub ready: String,
}

impl Service {
    /// Starts a program, and waits until a line that it says holds `ready`.
    ///
    /// # Panics
    /// When it ends before it says so, or does not say so within a minute.
    #[track_caller]
    pub fn start(command: &mut Command, ready: &str) -> Self {
        let mut service = Self::begin(command);
        service.ready = service.says(ready);
        service
    }

    /// Starts a program that does not say when it is ready, and waits until `look` finds that it
    /// is.
    ///
    /// # Panics
    /// When it ends before, or that takes more than a minute.
    #[track_caller]
    pub fn start_until(command: &mut Command, mut look: impl FnMut() -> bool) -> Self {
        let mut service = Self::begin(command);
        let ready = format!("{} is ready", service.line);
        crate::eventually(&ready, || {
            let running = service.is_running();
            assert!(running, "{} ended:\n{}", service.line, service.talk());
            look().then_some(())
        });
        service
    }

    /// Starts a program, and waits for nothing.
    #[track_caller]
    pub(crate) fn begin(command: &mut Command) -> Self {
        let talk = NamedTempFile::new().expect("a temporary file");
        let append = || fs::OpenOptions::new().append(true).open(talk.path()).expect("it is ours");
        command.stdin(Stdio::null()).stdout(append()).stderr(append());
        let child = spawn(command);
        Self { child, line: format!("{command:?}"), talk, ready: String::new() }
    }

    /// Returns the first line that it says with `words` in it, once it does.
    ///
    /// # Panics
    /// When it ends before, or does not say so within a minute.
    #[track_caller]
    pub fn says(&mut self, words: &str) -> String {
        crate::eventually(&format!("{} says `{words}`", self.line), || {
            // Asked first, so that all that an ended program said is read below.
            let running = self.is_running();
            let talk = self.talk();
            // The last line may not be complete yet.
            let whole = talk.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let found = whole.lines().find(|line| line.contains(words));
            assert!(running || found.is_some(), "{} ended before `{words}`:\n{talk}", self.line);
            found.map(|line| line.trim().to_owned())
        })
    }

    /// Returns all that it said so far, on either stream.
    #[must_use]
    pub fn talk(&self) -> String {
        let bytes = fs::read(self.talk.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the first `http://…` in the line that said that it is ready.
    #[must_use]
    pub fn url(&self) -> String {
        let from = self.ready.find("http://").unwrap_or(0);
        let rest = self.ready.get(from..).unwrap_or_default();
        let end = rest.find(|c: char| c.is_whitespace() || "\"'`,".contains(c));
        rest.get(..end.unwrap_or(rest.len())).unwrap_or_default().trim_end_matches('/').to_owned()
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it as a power cut would, and returns all that it said.
    pub fn stop(mut self) -> String {
        self.kill();
        self.talk()
    }

    /// Asks it to end (SIGTERM), waits for it, and returns its exit code, if it chose one.
    ///
    /// # Panics
    /// When it does not end within a minute.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.end_by(Signal::TERM)
    }

    /// Stops it as Ctrl-C does (SIGINT), waits for it, and returns its exit code, if it chose one.
    ///
    /// # Panics
    /// When it does not end within a minute.
    #[track_caller]
    pub fn interrupt(&mut self) -> Option<i32> {
        self.end_by(Signal::INT)
    }

    #[track_caller]
    fn end_by(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our own child");
        let ended = format!("{} ends", self.line);
        crate::eventually(&ended, || self.child.try_wait().expect("it is our own child")).code()
    }

    fn kill(&mut self) {
        // It may be dead already; either way it is gone afterwards.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let talk = format!("{} said:\n{}", self.line, self.talk());
            drop(std::io::stderr().write_all(talk.as_bytes()));
        }
    }
}
