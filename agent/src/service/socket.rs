//! The socket at which `agent status` asks the daemon: who connects is told, and nothing is read.
//!
//! So there is nothing to parse, and nothing that a process of this host could make the daemon do.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Shown;
use crate::config::Readers;
use crate::status::Status;

/// How many are told at once; more wait.
const READERS: usize = 16;

/// How long one may take to hear it, and a client waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than the status of any host takes.
const MAX_STATUS: u64 = 16 << 20;

/// Listens at `path`, in the place of a daemon that has died.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_alive) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "a daemon listens")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path)?,
    }
    let listener = UnixListener::bind(path)?;
    // Who may hear it is settled by who connects, not by the mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Tells whoever connects, until cancelled; then the socket is gone.
pub(super) async fn serve(listener: UnixListener, shown: Arc<Shown>, cancel: CancellationToken) {
    let room = Arc::new(Semaphore::new(READERS));
    loop {
        let accepted = tokio::select! {
            // Cancel safe: a connection that is not accepted waits for the next daemon.
            () = cancel.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, permit)) = accepted else { continue };
        let shown = Arc::clone(&shown);
        tokio::spawn(async move {
            // Whoever does not listen is told nothing.
            let _told = tokio::time::timeout(PATIENCE, tell(stream, &shown)).await;
            drop(permit);
        });
    }
    // Nobody listens from here on; the next daemon replaces what is left.
    drop(std::fs::remove_file(&shown.settings.daemon.socket));
}

async fn accept(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _peer)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot answer `agent status`");
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        }
    }
}

async fn tell(mut stream: UnixStream, shown: &Shown) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if !may_read(shown.settings.daemon.readers, peer) {
        tracing::debug!(uid = peer, "not told how the host is: `daemon.readers` is `root`");
        return Ok(());
    }
    let status = shown.status().map_err(io::Error::other)?;
    let mut line = serde_json::to_vec(&status)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.shutdown().await
}

fn may_read(readers: Readers, uid: u32) -> bool {
    match readers {
        Readers::Everyone => true,
        Readers::Root => uid == 0 || uid == own_uid(),
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Asks the daemon how the host is; nothing if none answers, or none that may be believed.
pub(crate) async fn ask(socket: &Path) -> Option<Status> {
    let owner = std::fs::symlink_metadata(socket).ok()?.uid();
    if owner != 0 && owner != own_uid() {
        return None;
    }
    let asking = async {
        // Does not wait where the queue of the daemon is full.
        let stream = UnixStream::connect(socket).await.ok()?;
        let mut bytes = Vec::new();
        stream.take(MAX_STATUS).read_to_end(&mut bytes).await.ok()?;
        Status::parse(&bytes)
    };
    tokio::time::timeout(PATIENCE, asking).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_daemons_own_user_are_told_where_readers_is_root() {
        assert!(may_read(Readers::Everyone, 12_345));
        assert!(may_read(Readers::Root, 0));
        assert!(may_read(Readers::Root, own_uid()));
        assert!(!may_read(Readers::Root, own_uid() + 1));
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        let first = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = listen(&path).unwrap();
        assert!(ask(&folder.path().join("other.sock")).await.is_none());
        drop(second);
        assert!(ask(&path).await.is_none());
    }
}
