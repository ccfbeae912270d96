//! The dead man: undoes a switch that nobody lived to confirm.
//!
//! Before a switch, a timer of systemd is armed that will run `agent recover --attempt ID`: from a
//! copy of this program, and of the configuration that it runs by, which lie outside of every profile.
//! So it works also if what is switched to breaks the agent, replaces or removes it. It takes the
//! host's switch lock and reads the journal again; an attempt that has ended by then, or a link that
//! somebody moved on, it leaves alone: the lock decides, the timer only wakes. A boot forgets timers,
//! so `agent recover` arms them again at each one. A system that was booted to be tried may lack the unit
//! that runs it, and everything else of ours: for its boots, a timer is attached from outside of it.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use shared::nix::{STORE_DIR, StorePath};
use store::local::{LocalStore, LocalStoreError};

use crate::files::{self, FileError};

/// The folder below `state_dir`.
const FOLDER: &str = "recovery";

/// What it runs, and by which configuration.
const PROGRAM: &str = "agent";
const CONFIG: &str = "agent.toml";

/// Where systemd keeps what was made at run time.
const TRANSIENT: &str = "/run/systemd/transient";

/// Where systemd finds units that no system brings, at every boot.
const ATTACHED: &str = "/etc/systemd/system.attached";

/// Why the dead man cannot watch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeadManError {
    /// A file of his could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// This program could not be put where no profile can take it away.
    #[error("cannot keep a copy of this program in `{}`", path.display())]
    Program {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// This program could not be kept from the garbage collector.
    #[error("cannot root this program")]
    Root(#[source] LocalStoreError),
    /// systemd did not take the timer.
    #[error("cannot arm a timer: {0}")]
    Timer(String),
}

/// Watches over the switches of a host that systemd runs.
#[derive(Debug, Clone)]
pub(crate) struct DeadMan {
    folder: PathBuf,
    config: String,
    root: PathBuf,
}

impl DeadMan {
    /// Prepares; `config` is the configuration in one text, and `root` the store's.
    pub(crate) fn new(state_dir: &Path, config: String, root: &Path) -> Self {
        Self { folder: state_dir.join(FOLDER), config, root: root.to_owned() }
    }

    /// Wakes the dead man after this time, unless the attempt has ended by then.
    pub(crate) fn arm(&self, attempt: &str, after: Duration) -> Result<(), DeadManError> {
        if is_armed(attempt) {
            return Ok(());
        }
        self.equip()?;
        let seconds = after.as_secs().max(1);
        let mut command = Command::new("systemd-run");
        command
            .args(["--quiet", "--collect", "--no-ask-password"])
            .arg(format!("--unit={}", unit(attempt)))
            .arg("--description=Shoal: undoes a switch that nobody confirmed")
            .arg(format!("--on-active={seconds}s"))
            // The default lets it come a minute late.
            .arg("--timer-property=AccuracySec=1s")
            .arg("--")
            .arg(self.folder.join(PROGRAM))
            .arg("--config")
            .arg(self.folder.join(CONFIG))
            .args(["recover", "--attempt", attempt]);
        run(&mut command)
    }

    /// Wakes the dead man this time after every boot, whatever system is booted, until he is
    /// disarmed.
    pub(crate) fn arm_for_boots(&self, attempt: &str, after: Duration) -> Result<(), DeadManError> {
        self.equip()?;
        let attached = Attached::of(attempt);
        let wants = attached.wanted.parent().unwrap_or(&attached.wanted);
        let failed = |source| FileError { action: "create", path: wants.to_owned(), source };
        fs::create_dir_all(wants).map_err(failed)?;
        let program = self.folder.join(PROGRAM);
        let config = self.folder.join(CONFIG);
        let service = format!(
            "[Unit]\nDescription=Shoal: undoes a system that nobody confirmed\n\
             [Service]\nType=oneshot\nExecStart={} --config {} recover --attempt {attempt}\n",
            quoted(&program),
            quoted(&config),
        );
        let seconds = after.as_secs().max(1);
        let timer = format!(
            "[Unit]\nDescription=Shoal: waits for a system to be confirmed\n\
             [Timer]\nOnBootSec={seconds}s\nAccuracySec=1s\n"
        );
        files::replace_public(&attached.service, service.as_bytes())?;
        files::replace_public(&attached.timer, timer.as_bytes())?;
        let failed = |source| FileError { action: "create", path: attached.wanted.clone(), source };
        Ok(link(&attached.timer, &attached.wanted).map_err(failed)?)
    }

    /// Lets the dead man sleep: the attempt has ended.
    pub(crate) fn disarm(&self, attempt: &str) {
        for file in Attached::of(attempt).files() {
            if let Err(error) = remove(file) {
                tracing::warn!(path = %file.display(), %error, "cannot remove a file");
            }
        }
        if !is_armed(attempt) {
            return;
        }
        let timer = timer(attempt);
        // Were it to wake, it would find nothing to do.
        if let Err(error) = run(Command::new("systemctl").args(["--quiet", "stop", &timer])) {
            tracing::warn!("{error}");
        }
    }

    /// Puts program and configuration where he finds them.
    fn equip(&self) -> Result<(), DeadManError> {
        files::make_private_folder(&self.folder)?;
        files::replace(&self.folder.join(CONFIG), self.config.as_bytes())?;
        let path = self.folder.join(PROGRAM);
        let failed = |source| DeadManError::Program { path: path.clone(), source };
        let own = own_program().map_err(failed)?;
        if own == path {
            return Ok(());
        }
        match store_path(&own) {
            // Its libraries must stay with it, which a root sees to.
            Some(_) => {
                link(&own, &path).map_err(failed)?;
                let store = LocalStore::open(&self.root).map_err(DeadManError::Root)?;
                store.add_indirect_root(&path).map_err(DeadManError::Root)
            }
            None => copy(&own, &path).map_err(failed),
        }
    }
}

/// The units of an attempt that lie outside of every system.
struct Attached {
    service: PathBuf,
    timer: PathBuf,
    wanted: PathBuf,
}

impl Attached {
    fn of(attempt: &str) -> Self {
        let folder = Path::new(ATTACHED);
        let name = format!("{}-boots", unit(attempt));
        Self {
            service: folder.join(format!("{name}.service")),
            timer: folder.join(format!("{name}.timer")),
            wanted: folder.join("timers.target.wants").join(format!("{name}.timer")),
        }
    }

    fn files(&self) -> [&Path; 3] {
        // What asks for the others first.
        [&self.wanted, &self.timer, &self.service]
    }
}

/// Writes a path as a word of a unit's command line.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('%', "%%").replace('$', "$$"))
}

/// Returns this program's file. If it was replaced meanwhile, that is the old one all the same.
fn own_program() -> io::Result<PathBuf> {
    let path = fs::read_link("/proc/self/exe")?;
    let replaced = path.to_str().is_some_and(|path| path.ends_with(" (deleted)"));
    Ok(if replaced { PathBuf::from("/proc/self/exe") } else { path })
}

fn store_path(file: &Path) -> Option<StorePath> {
    let rest = file.strip_prefix(STORE_DIR).ok()?;
    let name = rest.components().next()?.as_os_str().to_str()?;
    StorePath::from_base_name(name).ok()
}

fn link(target: &Path, path: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|known| known == target) {
        return Ok(());
    }
    let new = path.with_extension("new");
    remove(&new)?;
    std::os::unix::fs::symlink(target, &new)?;
    fs::rename(new, path)
}

/// Copies a program, unless it is there: of the same length and written at the same moment.
fn copy(own: &Path, path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(own)?;
    let modified = metadata.modified()?;
    let is_there = |known: fs::Metadata| {
        known.is_file()
            && known.len() == metadata.len()
            && known.modified().is_ok_and(|time| time == modified)
    };
    if fs::symlink_metadata(path).is_ok_and(is_there) {
        return Ok(());
    }
    let new = path.with_extension("new");
    remove(&new)?;
    fs::copy(own, &new)?;
    let file = fs::OpenOptions::new().write(true).open(&new)?;
    file.set_permissions(fs::Permissions::from_mode(0o700))?;
    file.set_modified(modified)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unit(attempt: &str) -> String {
    format!("shoal-recover-{attempt}")
}

fn timer(attempt: &str) -> String {
    format!("{}.timer", unit(attempt))
}

fn is_armed(attempt: &str) -> bool {
    Path::new(TRANSIENT).join(timer(attempt)).exists()
}

fn run(command: &mut Command) -> Result<(), DeadManError> {
    let ended = command.stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| {
        let program = command.get_program().to_string_lossy();
        DeadManError::Timer(format!("cannot run `{program}`: {error}"))
    })?;
    if ended.status.success() {
        return Ok(());
    }
    Err(DeadManError::Timer(String::from_utf8_lossy(&ended.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_configuration_lie_where_no_profile_can_take_them_away() {
        let state = tempfile::tempdir().unwrap();
        let dead_man = DeadMan::new(state.path(), "realm = \"main\"\n".to_owned(), state.path());
        for _ in 0..2 {
            dead_man.equip().unwrap();
            let kept = state.path().join("recovery/agent");
            assert_eq!(fs::read(&kept).unwrap(), fs::read(own_program().unwrap()).unwrap());
            assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
        }
        let config = fs::read_to_string(state.path().join("recovery/agent.toml")).unwrap();
        assert_eq!(config, "realm = \"main\"\n");
    }

    #[test]
    fn a_program_that_was_replaced_is_copied_again() {
        let folder = tempfile::tempdir().unwrap();
        let (own, kept) = (folder.path().join("own"), folder.path().join("kept"));
        fs::write(&own, "one").unwrap();
        copy(&own, &kept).unwrap();
        fs::write(&own, "longer").unwrap();
        copy(&own, &kept).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"longer");
    }

    #[test]
    fn a_path_stays_itself_in_a_unit() {
        let path = Path::new("/a 100%/$x\\\"y");
        assert_eq!(quoted(path), "\"/a 100%%/$$x\\\\\\\"y\"");
    }

    #[test]
    fn a_program_of_the_store_is_known_by_its_path() {
        let name = "0c6kzph7l0dcbfmjap64f0czdafn3b7x-agent";
        let path = format!("/nix/store/{name}/bin/agent");
        assert_eq!(store_path(Path::new(&path)).unwrap().base_name(), name);
        assert_eq!(store_path(Path::new("/usr/bin/agent")), None);
    }
}
