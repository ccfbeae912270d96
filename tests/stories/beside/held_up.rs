//! A process of Nix that is held up where it says something, by a pipe that is full.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{
    io::ioctl_fionread,
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
};
use tests::eventually;

/// A process that stops where it would say more than it may.
pub(super) struct HeldUp {
    child: Child,
    pipe: File,
}

impl HeldUp {
    /// Starts `command`, which may say `first` and stops at what it would say next.
    pub(super) fn start(command: &mut Command, first: &str) -> Self {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let size = fcntl_setpipe_size(&write, 4096).unwrap();
        let mut filler = File::from(write.try_clone().unwrap());
        filler.write_all(&vec![b'.'; size - first.len()]).unwrap();
        let child = command.stdout(Stdio::null()).stderr(write).spawn().unwrap();
        drop(filler);
        command.stderr(Stdio::null());
        let held = Self { child, pipe: File::from(read) };
        let syscall = format!("/proc/{}/syscall", held.child.id());
        eventually(&format!("Nix says more than {first:?}"), || {
            // Full, and in `write(2, …)`.
            let full = ioctl_fionread(&held.pipe).unwrap() == size as u64;
            let call = fs::read_to_string(&syscall).unwrap();
            (full && call.starts_with("1 0x2 ")).then_some(())
        });
        held
    }

    /// Lets it go on, and returns what it said when it has ended well.
    #[track_caller]
    pub(super) fn go_on(self) -> String {
        let (said, well) = self.go_on_to_its_end();
        assert!(well, "{said}");
        said
    }

    /// Lets it go on, and returns what it said, and whether it ended well.
    pub(super) fn go_on_to_its_end(mut self) -> (String, bool) {
        let mut pipe = self.pipe;
        let reader = thread::spawn(move || {
            let mut said = String::new();
            pipe.read_to_string(&mut said).unwrap();
            said
        });
        let status = self.child.wait().unwrap();
        let said = reader.join().unwrap();
        (said.trim_start_matches('.').to_owned(), status.success())
    }
}
