//! Decoding on a thread of its own, while there is a core that nobody uses.
//!
//! A NAR is decoded, hashed and written one after the other. That is the quickest for many NARs, of
//! which each keeps a core busy; for a large one that is alone it would leave the other cores idle.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use tokio_util::sync::CancellationToken;

/// Pieces that are on their way between the threads, or empty and on their way back.
const PIECES: usize = 3;
/// Bytes of one piece.
const PIECE_LEN: usize = 256 * 1024;
/// Bytes that must be left for another thread to be worth its start.
const WORTH_IT: u64 = 1024 * 1024;

/// How many threads decode or unpack, and how many could.
#[derive(Debug, Clone)]
pub(super) struct Load {
    busy: Arc<AtomicUsize>,
    cores: usize,
}

impl Load {
    pub(super) fn of_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { busy: Arc::default(), cores }
    }

    /// Counts one more thread, until what it returns is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.busy))
    }

    fn leaves_a_core(&self) -> bool {
        self.busy.load(Ordering::Relaxed) < self.cores
    }

    fn is_too_much(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > self.cores
    }
}

/// A thread at work.
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads `R` on this thread, or ahead of it on another one: whichever the load makes better.
pub(super) struct ReadAhead<R> {
    /// Absent while the other thread has it, and for ever if that one panicked.
    here: Option<R>,
    ahead: Option<Ahead<R>>,
    current: Buffer,
    /// Bytes until the end, those in `current` left out.
    left: u64,
    load: Load,
    /// Cancelled to make a read that blocks on the other thread end soon.
    abandoned: CancellationToken,
}

/// The other thread, seen from this one.
struct Ahead<R> {
    pieces: Receiver<Piece<R>>,
    empty: SyncSender<Buffer>,
}

/// Reading failed because the other thread panicked: whoever delivers is not to blame.
#[derive(Debug, thiserror::Error)]
#[error("the thread that decodes has panicked")]
pub(super) struct Panicked;

/// What comes from the other thread.
enum Piece<R> {
    Bytes(Buffer),
    /// The reader itself: it has ended or failed, or there is no core for it any more.
    Back(R, io::Result<()>),
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Buffer {
    /// Reads once, at most `most` bytes.
    fn fill(&mut self, reader: &mut impl Read, most: usize) -> io::Result<()> {
        if self.bytes.len() < most {
            self.bytes.resize(most, 0);
        }
        (self.taken, self.filled) = (0, 0);
        self.filled = reader.read(self.bytes.split_at_mut(most).0)?;
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..self.filled).unwrap_or_default()
    }
}

impl<R: Read + Send + 'static> ReadAhead<R> {
    /// Reads `length` bytes, which is all that `inner` has.
    ///
    /// If this is dropped earlier, `abandoned` is cancelled, and reads of `inner` must fail soon.
    pub(super) fn new(inner: R, length: u64, load: Load, abandoned: CancellationToken) -> Self {
        let (here, current) = (Some(inner), Buffer::default());
        Self { here, ahead: None, current, left: length, load, abandoned }
    }

    /// Reads the next piece, on the other thread if there is a core for it.
    fn refill(&mut self) -> io::Result<()> {
        if self.ahead.is_none() && self.left >= WORTH_IT && self.load.leaves_a_core() {
            self.ahead = self.here.take().map(|inner| Ahead::start(inner, &self.load));
        }
        if let Some(ahead) = &self.ahead {
            match ahead.next(std::mem::take(&mut self.current)) {
                Some(Piece::Bytes(buffer)) => {
                    self.current = buffer;
                    return Ok(());
                }
                Some(Piece::Back(inner, result)) => {
                    (self.here, self.ahead) = (Some(inner), None);
                    result?;
                }
                None => self.ahead = None,
            }
        }
        let inner = self.here.as_mut().ok_or_else(|| io::Error::other(Panicked))?;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE_LEN);
        self.current.fill(inner, most)
    }
}

impl<R: Read + Send + 'static> BufRead for ReadAhead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.rest().is_empty() {
            self.refill()?;
            self.left = self.left.saturating_sub(self.current.filled as u64);
        }
        Ok(self.current.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.current.taken += amount;
    }
}

impl<R: Read + Send + 'static> Read for ReadAhead<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R> Drop for ReadAhead<R> {
    fn drop(&mut self) {
        let Some(Ahead { pieces, empty }) = self.ahead.take() else { return };
        if self.left > 0 {
            self.abandoned.cancel();
        }
        // Without buffers it comes to its end, and then nobody counts or decodes any more.
        drop(empty);
        while pieces.recv().is_ok() {}
    }
}

impl<R: Read + Send + 'static> Ahead<R> {
    fn start(inner: R, load: &Load) -> Self {
        let (full, pieces) = sync_channel(PIECES);
        let (empty, buffers) = sync_channel(PIECES);
        // The one that is read here is the last of them.
        for _ in 1..PIECES {
            drop(empty.try_send(Buffer::default()));
        }
        let (load, busy) = (load.clone(), load.begin());
        drop(tokio::task::spawn_blocking(move || run(inner, &full, &buffers, &load, busy)));
        Self { pieces, empty }
    }

    /// Returns what was read, for a buffer that is empty; nothing if the other thread panicked.
    fn next(&self, used: Buffer) -> Option<Piece<R>> {
        // There is room for it; it fails only if that thread has ended, which the next line tells.
        drop(self.empty.try_send(used));
        self.pieces.recv().ok()
    }
}

/// The other thread: fills buffers until the reader ends, or the load is too much.
fn run<R: Read>(
    mut inner: R,
    full: &SyncSender<Piece<R>>,
    buffers: &Receiver<Buffer>,
    load: &Load,
    busy: Busy,
) {
    let result = loop {
        if load.is_too_much() {
            break Ok(());
        }
        let Ok(mut buffer) = buffers.recv() else { return };
        match buffer.fill(&mut inner, PIECE_LEN) {
            Ok(()) if buffer.filled == 0 => break Ok(()),
            Ok(()) => {}
            Err(error) => break Err(error),
        }
        if full.send(Piece::Bytes(buffer)).is_err() {
            return;
        }
    };
    drop(busy);
    // Whoever does not wait for it any more does not need it.
    drop(full.send(Piece::Back(inner, result)));
}

#[cfg(test)]
mod tests;
