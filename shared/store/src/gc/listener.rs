//! The socket on which a running collector hears of new temporary roots.
//!
//! A process sends a path and a line break and may go on once it has read a `1`: from then on the
//! collector leaves the path alone. If the path is just being deleted the answer comes afterwards.
//! As Nix does it, only the hash part counts: locks and leftovers of a path live as long as it.

use std::{
    collections::HashSet,
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use shared::nix::StorePath;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::{oneshot, watch},
    task::JoinSet,
};

use crate::{
    folder::create_dir,
    local::{LocalStoreError, layout::io_error},
};

const NAME: &str = "socket";

/// Longest line that is read; a store path has at most 255 bytes.
const MAX_LINE: u64 = 4096;

/// What the collector and those who speak to it agree on, at any moment.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    /// Hash parts of temporary roots: all that begins with them is left alone.
    pub(super) kept: HashSet<String>,
    /// Hash parts of what is being deleted.
    pub(super) pending: HashSet<String>,
}

#[derive(Debug, Default)]
struct Shared {
    agreed: Mutex<Agreed>,
    /// Told whenever a deletion has ended.
    deleted: watch::Sender<()>,
}

impl Shared {
    fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the collector leave a path alone; returns once it is not being deleted.
    async fn keep(&self, hash_part: &str) {
        let mut deleted = self.deleted.subscribe();
        loop {
            {
                let mut agreed = self.agreed();
                agreed.kept.insert(hash_part.to_owned());
                if !agreed.pending.contains(hash_part) {
                    return;
                }
            }
            if deleted.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Serves the socket until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Makes sure that there is a socket, though nobody listens there yet.
///
/// Old versions of Nix give up when they find the lock held and no socket, which they might in the
/// moment before the first collector of a store has made it.
pub(super) fn prepare(folder: &Path) -> Result<(), LocalStoreError> {
    create_dir(folder).map_err(io_error("make", folder))?;
    let socket = folder.join(NAME);
    if socket.symlink_metadata().is_ok() {
        return Ok(());
    }
    let made = bind(folder).and_then(|(_, temporary)| {
        let linked = fs::hard_link(&temporary, &socket);
        fs::remove_file(&temporary)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    });
    made.map_err(io_error("make", &socket))
}

impl Listener {
    /// Starts to listen. The caller holds `gc.lock`.
    pub(super) fn start(folder: &Path) -> Result<Self, LocalStoreError> {
        let socket = folder.join(NAME);
        let start = || {
            let (listener, temporary) = bind(folder)?;
            fs::rename(temporary, &socket)?;
            listener.set_nonblocking(true)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let shared = Arc::new(Shared::default());
            let (stop, stopped) = oneshot::channel();
            let served = Arc::clone(&shared);
            let serve = move || {
                if let Err(error) = runtime.block_on(serve(listener, served, stopped)) {
                    // Whoever wants a root then waits for the end of the collection.
                    tracing::error!(%error, "the collector hears no more of new roots");
                }
            };
            let thread = std::thread::Builder::new().name("gc-socket".to_owned()).spawn(serve)?;
            Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
        };
        start().map_err(io_error("listen on", &socket))
    }

    /// Returns what is agreed on, for one step: nobody is answered as long as it is held.
    pub(super) fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.shared.agreed()
    }

    /// Lets those go on who waited for the end of a deletion.
    pub(super) fn deleted(&self, hash_part: &str) {
        self.agreed().pending.remove(hash_part);
        self.shared.deleted.send_replace(());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.stop.take().is_some_and(|stop| stop.send(()).is_err()) {
            tracing::debug!("nobody heard of new roots any more");
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that hears of new roots failed");
        }
    }
}

/// Binds a socket under a name of its own, open for everyone.
fn bind(folder: &Path) -> io::Result<(UnixListener, PathBuf)> {
    let name = format!(".{NAME}-{}", std::process::id());
    let path = folder.join(&name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // A socket's path may have 107 bytes, a store's root any number; the descriptor makes it short.
    let open = File::open(folder)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok((listener, path))
}

async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Cancel safe, all three: nothing is lost when another is ready first.
            _ = &mut stopped => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(hear(stream, Arc::clone(&shared)));
                }
                // The process went away again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Answers one process for as long as it speaks.
async fn hear(stream: UnixStream, shared: Arc<Shared>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut stream).take(MAX_LINE).read_until(b'\n', &mut line).await;
        if read.is_err() || line.pop() != Some(b'\n') {
            return;
        }
        let path = std::str::from_utf8(&line).ok().and_then(|line| StorePath::parse(line).ok());
        match path {
            Some(path) => shared.keep(path.hash_part()).await,
            None => tracing::warn!("a process sent something that is no store path as a root"),
        }
        if stream.write_all(b"1").await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
        sync::mpsc,
    };

    use super::*;

    const NAME: &str = "9a455acx720hx0zfwn0q7gn8y2jrvllr-x";

    fn ask(stream: &mut UnixStream) -> u8 {
        stream.write_all(format!("/nix/store/{NAME}\n").as_bytes()).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        answer[0]
    }

    #[test]
    fn the_answer_waits_for_the_end_of_the_deletion() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        let socket = folder.path().join(super::NAME);
        let refused = UnixStream::connect(&socket).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        let listener = Listener::start(folder.path()).unwrap();
        let hash_part = NAME[..32].to_owned();
        listener.agreed().pending.insert(hash_part.clone());
        let (sender, receiver) = mpsc::channel();
        let mut stream = UnixStream::connect(&socket).unwrap();
        let asked = std::thread::spawn(move || sender.send(ask(&mut stream)).unwrap());
        while listener.agreed().kept.is_empty() {
            std::thread::yield_now();
        }
        assert!(receiver.try_recv().is_err(), "it is still being deleted");
        listener.deleted(&hash_part);
        assert_eq!(receiver.recv().unwrap(), b'1');
        asked.join().unwrap();

        let mut stream = UnixStream::connect(&socket).unwrap();
        assert_eq!(ask(&mut stream), b'1');
        stream.write_all(b"garbage\n").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        drop(listener);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it was told that the collector has ended");
    }
}
