//! Runs the real programs, for the stories below `stories/`.
//!
//! `tests/run` builds all programs first; by hand that is `cargo build --workspace`.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
    thread::JoinHandle,
};

/// Returns where the program `name` was built: in `SHOAL_PROGRAMS`, or beside the tests.
///
/// # Panics
/// When it was not built.
#[must_use]
#[expect(clippy::panic, reason = "a test cannot go on without the program")]
pub fn program(name: &str) -> PathBuf {
    let folder = env::var_os("SHOAL_PROGRAMS").map(PathBuf::from).or_else(|| {
        // target/debug/deps/stories-0123456789abcdef
        Some(env::current_exe().ok()?.parent()?.parent()?.to_owned())
    });
    let path = folder.unwrap_or_default().join(name);
    if !path.is_file() {
        panic!("{} is not built: cargo build --workspace", path.display());
    }
    path
}

/// Prepares to run one of our programs, in an environment that holds nothing of the user's.
#[must_use]
pub fn shoal(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command
}

/// Prepares to run a program of this machine.
#[must_use]
pub fn tool(name: &str) -> Command {
    Command::new(name)
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
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// Returns what a program said that ended with this exit code.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

/// Runs a program to its end, with nothing to read on its standard input.
///
/// # Panics
/// When it cannot be started; for a tool of this machine it names the Debian package.
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, b"")
}

/// Runs a program to its end, with `input` on its standard input.
///
/// # Panics
/// When it cannot be started, as [`run`].
#[expect(clippy::panic, reason = "a test cannot go on without the program")]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    let line = format!("{command:?}");
    let spawned =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => panic!("{line}: {error}{}", advice(command.get_program())),
    };
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program may end without reading all of it.
        let _unread = stdin.map(|mut stdin| stdin.write_all(&input));
    });
    let output = match child.wait_with_output() {
        Ok(output) => output,
        Err(error) => panic!("{line}: {error}"),
    };
    let _written = writer.join();
    Ran {
        line,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

fn advice(program: &OsStr) -> &'static str {
    match program.to_str() {
        Some(nix) if nix.starts_with("nix") => ": apt-get install nix-bin",
        Some("openssl") => ": apt-get install openssl",
        Some("python3") => ": apt-get install python3",
        _ => "",
    }
}

/// A program that runs beside the test, and is killed when this is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    reader: Option<JoinHandle<String>>,
    /// The line that said that it is ready.
    pub ready: String,
}

impl Service {
    /// Starts a program, and waits until a line that it says holds `ready`.
    ///
    /// Only stderr is read, where programs talk; what comes later is kept for [`Service::stop`].
    ///
    /// # Panics
    /// When it ends before it says so; shows what it said.
    #[expect(clippy::panic, reason = "a test cannot go on without the program")]
    pub fn start(command: &mut Command, ready: &str) -> Self {
        let line = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{line}: {error}"),
        };
        let mut said = String::new();
        let mut stderr: Option<BufReader<ChildStderr>> = child.stderr.take().map(BufReader::new);
        let found = loop {
            let mut next = String::new();
            match stderr.as_mut().map(|stderr| stderr.read_line(&mut next)) {
                Some(Ok(length)) if length > 0 => {
                    said.push_str(&next);
                    if next.contains(ready) {
                        break next;
                    }
                }
                _ => panic!("{line} ended before `{ready}`:\n{said}"),
            }
        };
        let reader = std::thread::spawn(move || {
            let _closed = stderr.map(|mut stderr| stderr.read_to_string(&mut said));
            said
        });
        Self { child, reader: Some(reader), ready: found.trim().to_owned() }
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

    /// Kills it as a power cut would, and returns all that it said.
    #[must_use]
    pub fn stop(mut self) -> String {
        self.kill()
    }

    fn kill(&mut self) -> String {
        // It may be dead already; either way it is gone afterwards.
        let _killed = self.child.kill();
        let _waited = self.child.wait();
        self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let said = self.kill();
        if std::thread::panicking() {
            let mut stderr = std::io::stderr();
            let _shown = stderr.write_all(said.as_bytes());
        }
    }
}
