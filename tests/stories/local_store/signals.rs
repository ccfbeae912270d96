//! Signals that end a command, and one that a command was told not to hear.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use store::lock::LockFile;
use tests::{bin, eventually, shoal, tool};

use super::Both;

/// Starts `agent store add` of a file that somebody else has locked, and returns it as soon as it
/// waits.
fn waiting(both: &Both, mut agent: Command, held: &LockFileOf) -> Child {
    agent.args(["store", "add", "--root"]).arg(&both.root).arg(both.file("file", "file"));
    let child = agent.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let open_files = format!("/proc/{}/fd", child.id());
    eventually("it waits for the lock", || {
        let files = fs::read_dir(&open_files).unwrap();
        let mut files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.any(|file| file == held.path).then_some(())
    });
    child
}

struct LockFileOf {
    path: std::path::PathBuf,
    _held: LockFile,
}

fn lock(both: &Both) -> LockFileOf {
    // Only to learn its path.
    let added = Both::new();
    let path = both.nix.real(&format!("{}.lock", added.add(&added.file("file", "file"), &[])));
    let held = LockFile::acquire(&path, Duration::ZERO).unwrap();
    LockFileOf { path, _held: held }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn ended(mut child: Child) -> ExitStatus {
    child.wait().unwrap()
}

#[test]
fn each_signal_that_asks_for_an_end_is_heard_and_nothing_is_left_behind() {
    let both = Both::new();
    both.nix.verify();
    let held = lock(&both);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let child = waiting(&both, shoal("agent"), &held);
        send(&child, signal);
        let status = ended(child);
        assert_eq!((status.code(), status.signal()), (Some(130), None), "{signal:?}");
        let roots = fs::read_dir(both.root.join("nix/var/nix/temproots")).unwrap();
        assert_eq!(roots.count(), 0, "{signal:?}");
    }
    drop(held);
    let names = fs::read_dir(both.nix.real("/nix/store")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [".links"]);
    both.nix.verify();
}

#[test]
fn a_terminal_that_ends_is_no_matter_to_who_was_started_with_nohup() {
    let both = Both::new();
    both.nix.verify();
    let held = lock(&both);
    let mut shell = tool("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(bin("agent"));
    let child = waiting(&both, shell, &held);
    send(&child, Signal::HUP);
    drop(held);
    assert_eq!(ended(child).code(), Some(0));
    assert_eq!(both.nix.valid_paths().len(), 1);
    both.nix.verify();
}
