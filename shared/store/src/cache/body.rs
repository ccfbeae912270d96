//! NARs on their way from a cache: the network's side is async, the reader's side blocks.

use std::{
    fs::File,
    io::{self, Read},
    sync::Arc,
};

use bytes::{Buf as _, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{CacheError, http};

/// Bytes that may wait between the network and a reader that is slower.
const BUFFERED: u32 = 1024 * 1024;
/// Pieces that may wait; a sane server sends far bigger ones than this makes of [`BUFFERED`].
const BUFFERED_PIECES: usize = 256;

/// The file of a NAR, of which nothing has been read yet.
#[derive(Debug)]
pub struct NarBody(Source);

#[derive(Debug)]
enum Source {
    File(File),
    Http(Box<http::Body>),
}

impl NarBody {
    pub(super) const fn file(file: File) -> Self {
        Self(Source::File(file))
    }

    pub(super) fn http(body: http::Body) -> Self {
        Self(Source::Http(Box::new(body)))
    }

    /// Splits into the side that blocks and the side that does not; run them at the same time.
    pub fn split(self) -> (NarReader, Pump) {
        match self.0 {
            Source::File(file) => (NarReader(Reader::File(file)), Pump(None)),
            Source::Http(body) => {
                let (sender, receiver) = mpsc::channel(BUFFERED_PIECES);
                let room = Arc::new(Semaphore::new(BUFFERED as usize));
                let reader = Pieces { receiver, current: Bytes::new(), held: None, ended: false };
                (NarReader(Reader::Pieces(reader)), Pump(Some(Running { body, sender, room })))
            }
        }
    }
}

/// The network's side: carries bytes to the [`NarReader`] until the end, or until it is dropped.
#[derive(Debug)]
#[must_use = "the reader waits for ever if the pump does not run"]
pub struct Pump(Option<Running>);

#[derive(Debug)]
struct Running {
    body: Box<http::Body>,
    sender: mpsc::Sender<Piece>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes, OwnedSemaphorePermit),
    End,
    Failed(CacheError),
}

impl Pump {
    /// Runs to the end; what goes wrong is told to the reader.
    pub async fn run(self) {
        let Some(Running { mut body, sender, room }) = self.0 else { return };
        loop {
            let piece = match body.chunk().await {
                Ok(Some(bytes)) => {
                    let needed = u32::try_from(bytes.len()).unwrap_or(BUFFERED).min(BUFFERED);
                    let room = tokio::select! {
                        room = Arc::clone(&room).acquire_many_owned(needed) => room,
                        () = sender.closed() => return,
                    };
                    let Ok(room) = room else { return };
                    Piece::Bytes(bytes, room)
                }
                Ok(None) => Piece::End,
                Err(error) => Piece::Failed(error),
            };
            let goes_on = matches!(piece, Piece::Bytes(..));
            if sender.send(piece).await.is_err() || !goes_on {
                return;
            }
        }
    }
}

/// The reader's side; blocks, so it must not be read on a thread that runs async tasks.
#[derive(Debug)]
pub struct NarReader(Reader);

#[derive(Debug)]
enum Reader {
    File(File),
    Pieces(Pieces),
}

#[derive(Debug)]
struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    current: Bytes,
    held: Option<OwnedSemaphorePermit>,
    ended: bool,
}

impl Read for NarReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Reader::File(file) => file.read(buffer),
            Reader::Pieces(pieces) => pieces.read(buffer),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            self.held = None;
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes, room)) => {
                    self.current = bytes;
                    self.held = Some(room);
                }
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(io::Error::other(error)),
                // Not `Interrupted`: every reader would try again, for ever.
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up")),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
