//! NARs on their way from a cache: the network's side is async, the reader's side blocks.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::Arc,
};

use bytes::{Buf as _, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{CacheError, http};

/// Bytes that may wait between the network and a reader that is slower.
const BUFFERED: usize = 768 * 1024;
/// Pieces that may wait; a sane server sends far bigger ones than this makes of [`BUFFERED`].
const BUFFERED_PIECES: usize = 256;
/// Least room that is taken before the network is asked for a piece.
const SMALL_PIECE: u32 = 64 * 1024;
/// Most room for one piece; the network gives little more at once.
const LARGE_PIECE: u32 = 512 * 1024;
/// Bytes that are read at once from a file.
const FILE_BUFFER: usize = 64 * 1024;

/// Room for bytes of NARs that nobody reads yet, shared by many bodies.
///
/// A connection can so gather speed while it waits for a decoder, and many that wait still take
/// bounded memory. A body whose reader has begun has room of its own.
#[derive(Debug, Clone)]
pub struct WaitingRoom(Arc<Semaphore>);

impl WaitingRoom {
    /// Makes room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.max(LARGE_PIECE as usize))))
    }

    /// Makes room for so many bytes more.
    pub fn widen(&self, bytes: usize) {
        self.0.add_permits(bytes);
    }
}

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
    pub fn split(self, waiting: &WaitingRoom) -> (NarReader, Pump) {
        match self.0 {
            Source::File(file) => {
                let file = BufReader::with_capacity(FILE_BUFFER, file);
                (NarReader(Reader::File(file)), Pump(None))
            }
            Source::Http(body) => {
                let (sender, receiver) = mpsc::channel(BUFFERED_PIECES);
                let own = Arc::new(Semaphore::new(0));
                let running =
                    Running { body, sender, waiting: waiting.clone(), own: Arc::clone(&own) };
                let (current, held) = (Bytes::new(), None);
                let reader = Pieces { receiver, unopened: Some(own), current, held, ended: false };
                (NarReader(Reader::Pieces(reader)), Pump(Some(running)))
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
    waiting: WaitingRoom,
    /// Room that is there once the reader has begun.
    own: Arc<Semaphore>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes, Option<OwnedSemaphorePermit>),
    End,
    Failed(CacheError),
}

impl Pump {
    /// Runs to the end; what goes wrong is told to the reader.
    pub async fn run(self) {
        let Some(Running { mut body, sender, waiting, own }) = self.0 else { return };
        let mut expected = SMALL_PIECE;
        loop {
            // Taken before the network is asked, which by then has as much in its own hands.
            let room = tokio::select! {
                biased;
                room = Arc::clone(&own).acquire_many_owned(expected) => room,
                room = Arc::clone(&waiting.0).acquire_many_owned(expected) => room,
                () = sender.closed() => return,
            };
            let Ok(mut room) = room else { return };
            let piece = match body.chunk().await {
                Ok(Some(bytes)) => {
                    let length = u32::try_from(bytes.len()).unwrap_or(LARGE_PIECE);
                    expected = length.saturating_mul(2).clamp(SMALL_PIECE, LARGE_PIECE);
                    let taken = room.split(bytes.len().min(room.num_permits()));
                    Piece::Bytes(bytes, taken)
                }
                Ok(None) => Piece::End,
                Err(error) => Piece::Failed(error),
            };
            drop(room);
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
    File(BufReader<File>),
    Pieces(Pieces),
}

#[derive(Debug)]
struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    /// The room that the pump may use as soon as reading has begun.
    unopened: Option<Arc<Semaphore>>,
    current: Bytes,
    held: Option<OwnedSemaphorePermit>,
    ended: bool,
}

impl BufRead for NarReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.0 {
            Reader::File(file) => file.fill_buf(),
            Reader::Pieces(pieces) => pieces.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.0 {
            Reader::File(file) => file.consume(amount),
            Reader::Pieces(pieces) => pieces.current.advance(amount),
        }
    }
}

impl Read for NarReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Some(own) = self.unopened.take() {
            own.add_permits(BUFFERED);
        }
        while self.current.is_empty() && !self.ended {
            self.held = None;
            match self.receiver.blocking_recv() {
                Some(Piece::Bytes(bytes, room)) => {
                    self.current = bytes;
                    self.held = room;
                }
                Some(Piece::End) => self.ended = true,
                Some(Piece::Failed(error)) => return Err(io::Error::other(error)),
                // Not `Interrupted`: every reader would try again, for ever.
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "given up")),
            }
        }
        Ok(&self.current)
    }
}
