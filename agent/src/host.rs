//! What this host is like right now: its boot, its clock, its room.

use std::path::Path;

/// Exists while systemd-timesyncd holds the clock to be synchronised.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// The kernel's name for the current boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Returns Nix's name for what this machine can run, such as `x86_64-linux`.
pub(crate) fn system() -> String {
    let cpu = match std::env::consts::ARCH {
        "x86" => "i686",
        other => other,
    };
    format!("{cpu}-{}", std::env::consts::OS)
}

/// Exists in a container that systemd runs in.
const CONTAINER: &str = "/run/systemd/container";

/// Returns the id of the current boot; `unknown` where the kernel does not tell.
///
/// In a container that is known by when its first process started: a unit with
/// `ProtectKernelTunables=` sees the id of the machine around it, which may not have booted at all.
pub(crate) fn boot_id() -> String {
    if Path::new(CONTAINER).exists()
        && let Some(started) = first_process_started()
    {
        return format!("container-{started}");
    }
    let id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    let id = id.trim();
    if id.is_empty() { "unknown".to_owned() } else { id.to_owned() }
}

/// Returns when process 1 started, in the kernel's ticks since boot.
fn first_process_started() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/1/stat").ok()?;
    // The name before, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Says whether somebody keeps the clock right.
pub(crate) fn is_clock_synchronised() -> bool {
    Path::new(TIMESYNC).exists()
}

/// Returns how many bytes an unprivileged writer may still write below a path.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    // The store may not exist yet; the nearest folder above it is on the same file system.
    let existing = path.ancestors().find(|folder| folder.exists())?;
    let statistics = rustix::fs::statvfs(existing).ok()?;
    statistics.f_bavail.checked_mul(statistics.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_every_linux_host_knows() {
        assert!(system().ends_with("-linux"));
        assert_eq!(boot_id(), boot_id());
        assert!(free_space(Path::new("/nonexistent/below")).is_some_and(|bytes| bytes > 0));
    }
}
