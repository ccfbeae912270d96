//! What the stories need: the programs under test, real Nix, servers that misbehave on demand.
//!
//! Nothing here looks for a missing tool and goes on without it: a story that cannot be told
//! fails, and says how to install what it lacks. Start at [`process`].

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a harness fails its story by a panic with the reason"
)]

pub mod disk;
pub mod fault;
pub mod fleet;
pub mod guest;
pub mod host;
pub mod machine;
pub mod measure;
pub mod nix;
pub mod process;
pub mod proxy;
pub mod random;
pub mod realm;
pub mod server;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub use disk::{SmallDisk, user_namespace};
pub use fault::{Answer, Ask, FaultServer, Goods};
pub use guest::{Guest, Machine};
pub use host::{Builder, Host};
pub use measure::{Bounds, run_bounded};
pub use nix::{Daemon, Nix};
pub use process::{Ran, Service, bin, python, run, run_with_input, shoal, tool};
pub use proxy::Proxy;
pub use random::Random;
pub use realm::{Realm, Signer};
pub use server::{Request, Response, Server};

/// How long [`eventually`] waits; long, because a test machine may be busy with everything else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns a new folder that goes away with the value.
#[must_use]
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("shoal-").tempdir().expect("a temporary folder")
}

/// Returns a path below `tests/fixtures`.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    assert!(path.exists(), "there is no fixture {}", path.display());
    path
}

/// Copies a folder with everything in it; symlinks stay what they are.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Returns what `look` finds, which it may have to look for several times.
///
/// For the outside world alone: a process that starts, a host that converges. Where there is
/// something to wait on, wait on it.
///
/// # Panics
/// When it does not come within a minute.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for this: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Asks a server for a URL, and returns the body of its answer, whatever its status.
///
/// # Panics
/// When there is no answer within a minute.
#[must_use]
pub fn get(url: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
        let request = http.get(url).timeout(PATIENCE);
        request.send().await.unwrap().text().await.unwrap()
    })
}

/// Returns whether to run the long version of a story, as `tests/run --long` asks.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("SHOAL_LONG").is_some_and(|value| value == "1")
}
