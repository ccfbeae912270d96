//! The memory that decoders share.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use zstd::stream::raw::{Decoder, Operation as _};

/// What every decoder is counted with at least: the window of `zstd -19`, the dictionary of
/// `xz -6`, and all that the other formats need.
pub(super) const LEAST: u64 = 8 * 1024 * 1024;
/// Largest window that is decoded at all; the most that any level of zstd or xz makes.
pub(super) const MOST: u64 = 128 * 1024 * 1024;

/// A file asks for a larger window than any decoder may have.
#[derive(Debug, thiserror::Error)]
#[error("it needs a window of {needed}, and no decoder may take more than {}", human(MOST))]
struct TooLarge {
    needed: String,
}

/// Memory for decoders that run at the same time.
///
/// Who needs more than there is gets all of it, and runs alone.
#[derive(Debug, Clone)]
pub struct DecoderMemory {
    shared: Arc<Shared>,
}

struct Shared {
    total: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// Contexts of zstd that nobody uses: the kernel does not have to clear their windows again.
    spare: Mutex<Vec<Decoder<'static>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("total", &self.total).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    free: u64,
    /// Turns are taken in order, so that who needs much is not passed for ever.
    next_turn: u64,
    turn: u64,
}

impl DecoderMemory {
    /// Divides `total` bytes among all decoders that are made with this.
    #[must_use]
    pub fn new(total: u64) -> Self {
        let total = total.max(LEAST);
        let state = Mutex::new(State { free: total, next_turn: 0, turn: 0 });
        let (changed, spare) = (Condvar::new(), Mutex::default());
        Self { shared: Arc::new(Shared { total, state, changed, spare }) }
    }

    /// Takes a share, waiting until there is enough. Blocks.
    pub(super) fn share(&self, needed: u64) -> io::Result<Share> {
        let mut share = Share { shared: Arc::clone(&self.shared), size: 0 };
        share.resize(needed)?;
        Ok(share)
    }
}

impl Share {
    /// Returns a context of zstd for this share.
    pub(super) fn context(&self) -> io::Result<Decoder<'static>> {
        let spare = self.shared.spare().pop();
        spare.map_or_else(Decoder::new, |mut decoder| decoder.reinit().map(|()| decoder))
    }

    /// Gives a context back; one whose window may be large ends with its share.
    pub(super) fn put_back(&self, context: Decoder<'static>) {
        if self.size == LEAST {
            self.shared.spare().push(context);
        }
    }
}

impl Shared {
    fn spare(&self) -> MutexGuard<'_, Vec<Decoder<'static>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, size: u64) {
        let mut state = self.state();
        let turn = state.next_turn;
        state.next_turn += 1;
        while state.turn != turn || state.free < size {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.turn += 1;
        state.free -= size;
        drop(state);
        self.changed.notify_all();
    }

    fn give_back(&self, size: u64) {
        self.state().free += size;
        self.changed.notify_all();
    }
}

/// One decoder's share; ends with it.
#[derive(Debug)]
pub(super) struct Share {
    shared: Arc<Shared>,
    size: u64,
}

impl Share {
    /// Changes the share to what is needed, waiting until there is enough. Blocks.
    ///
    /// # Errors
    /// When it is more than any decoder may have.
    pub(super) fn resize(&mut self, needed: u64) -> io::Result<()> {
        if needed > MOST {
            return Err(too_large(human(needed)));
        }
        // Given back before more is taken: two that hold on to theirs would wait for each other.
        self.shared.give_back(std::mem::take(&mut self.size));
        let size = needed.max(LEAST).min(self.shared.total);
        self.shared.take(size);
        self.size = size;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.give_back(self.size);
    }
}

/// The error about a window that is larger than any decoder may have.
pub(super) fn too_large(needed: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, TooLarge { needed })
}

fn human(bytes: u64) -> String {
    shared::human::size(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_small_window_counts_as_the_least() {
        let memory = DecoderMemory::new(64 * MIB);
        let shares: Vec<Share> = (0..8).map(|_| memory.share(1).unwrap()).collect();
        assert_eq!(memory.shared.state().free, 0);
        drop(shares);
        assert_eq!(memory.shared.state().free, 64 * MIB);
    }

    #[test]
    fn a_window_larger_than_the_memory_runs_alone() {
        let memory = DecoderMemory::new(64 * MIB);
        let small = memory.share(8 * MIB).unwrap();
        let (sender, receiver) = mpsc::channel();
        let others = memory.clone();
        let large = std::thread::spawn(move || {
            let share = others.share(MOST).unwrap();
            sender.send(others.shared.state().free).unwrap();
            share
        });
        while memory.shared.state().next_turn < 2 {
            std::thread::yield_now();
        }
        assert!(receiver.try_recv().is_err(), "it runs beside another");
        drop(small);
        assert_eq!(receiver.recv().unwrap(), 0);
        drop(large.join().unwrap());
        assert_eq!(memory.shared.state().free, 64 * MIB);
    }

    #[test]
    fn who_needs_much_is_not_passed_by_those_who_need_little() {
        let memory = DecoderMemory::new(16 * MIB);
        let first = memory.share(8 * MIB).unwrap();
        let (sender, receiver) = mpsc::channel();
        let waiters: Vec<_> = [("large", 16 * MIB), ("small", 8 * MIB)]
            .into_iter()
            .zip(1_u64..)
            .map(|((name, size), waiting)| {
                let (memory, sender) = (memory.clone(), sender.clone());
                let counted = memory.clone();
                let waiter = std::thread::spawn(move || {
                    let share = memory.share(size).unwrap();
                    sender.send(name).unwrap();
                    drop(share);
                });
                while counted.shared.state().next_turn <= waiting {
                    std::thread::yield_now();
                }
                waiter
            })
            .collect();
        drop(first);
        assert_eq!([receiver.recv().unwrap(), receiver.recv().unwrap()], ["large", "small"]);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    }

    #[test]
    fn more_than_any_decoder_may_have_is_refused_at_once() {
        let memory = DecoderMemory::new(64 * MIB);
        let error = memory.share(MOST + 1).unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
    }
}
