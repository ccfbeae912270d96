use std::sync::mpsc::channel;

use super::*;

const LENGTH: u64 = 5 * WORTH_IT + 3;

fn load(cores: usize) -> Load {
    Load { busy: Arc::default(), cores }
}

fn bytes() -> Vec<u8> {
    (0..=250).cycle().take(usize::try_from(LENGTH).unwrap()).collect()
}

/// Reads a lot on whichever thread, and says which.
struct Told<R> {
    inner: R,
    thread: std::sync::mpsc::Sender<std::thread::ThreadId>,
}

impl<R: Read> Read for Told<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.thread.send(std::thread::current().id()).unwrap();
        self.inner.read(into)
    }
}

fn read_ahead<R: Read + Send + 'static>(inner: R, load: &Load) -> ReadAhead<R> {
    ReadAhead::new(inner, LENGTH, load.clone(), CancellationToken::new())
}

/// Reads all, on a thread of the runtime that may block.
async fn read_all<R: Read + Send + 'static>(mut reader: ReadAhead<R>) -> io::Result<Vec<u8>> {
    let read = move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Returns on how many threads were read.
async fn threads(load: &Load) -> usize {
    let (thread, threads) = channel();
    let inner = Told { inner: io::Cursor::new(bytes()), thread };
    assert!(read_all(read_ahead(inner, load)).await.unwrap() == bytes());
    threads.into_iter().collect::<std::collections::HashSet<_>>().len()
}

#[tokio::test]
async fn bytes_are_the_same_whoever_reads_them() {
    let (one, two) = (load(1), load(2));
    let busy = one.begin();
    assert_eq!(threads(&one).await, 1);
    drop(busy);
    let busy = two.begin();
    // The end, which is not worth another thread, may be read here.
    assert!((1..=2).contains(&threads(&two).await));
    drop(busy);
    assert_eq!(two.busy.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_thread_that_there_is_no_core_for_any_more_gives_the_reader_back() {
    let load = load(2);
    let _own = load.begin();
    let mut reader = read_ahead(io::Cursor::new(bytes()), &load);
    let others = load.clone();
    let read = move || {
        assert!(!reader.fill_buf().unwrap().is_empty());
        assert!(reader.ahead.is_some());
        let _more = [others.begin(), others.begin()];
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(reader.ahead.is_none() && reader.here.is_some());
        assert!(all == bytes());
    };
    tokio::task::spawn_blocking(read).await.unwrap();
}

#[tokio::test]
async fn what_fails_on_the_other_thread_fails_here() {
    struct Broken(u32);
    impl Read for Broken {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 < 3 { Ok(into.len()) } else { Err(io::ErrorKind::TimedOut.into()) }
        }
    }
    let error = read_all(read_ahead(Broken(0), &load(2))).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_panic_on_the_other_thread_is_an_error_here() {
    struct Panics;
    impl Read for Panics {
        fn read(&mut self, _into: &mut [u8]) -> io::Result<usize> {
            panic!("on purpose")
        }
    }
    let error = read_all(read_ahead(Panics, &load(2))).await.unwrap_err();
    assert!(error.get_ref().is_some_and(|inner| inner.is::<Panicked>()), "{error}");
}

#[tokio::test]
async fn a_reader_that_nobody_wants_any_more_has_ended_when_it_is_dropped() {
    /// Blocks until it is abandoned, and takes its time then.
    struct Waits(CancellationToken, Arc<AtomicUsize>);
    impl Read for Waits {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
            if first {
                return Ok(into.len());
            }
            while !self.0.is_cancelled() {
                std::thread::yield_now();
            }
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
    impl Drop for Waits {
        fn drop(&mut self) {
            self.1.store(100, Ordering::SeqCst);
        }
    }
    let (abandoned, calls) = (CancellationToken::new(), Arc::default());
    let inner = Waits(abandoned.clone(), Arc::clone(&calls));
    let mut reader = ReadAhead::new(inner, LENGTH, load(2), abandoned);
    let drop_it = move || {
        assert!(!reader.fill_buf().unwrap().is_empty());
        while calls.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        drop(reader);
        calls.load(Ordering::SeqCst)
    };
    assert_eq!(tokio::task::spawn_blocking(drop_it).await.unwrap(), 100);
}
