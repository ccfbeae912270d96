//! The threads that decode and unpack.
//!
//! There are as many as decoders, and each takes one job after the other: so what a decoder gives
//! back, the next one on its thread takes again, and memory does not pile up on many threads.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use super::ahead::Load;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that take jobs in the order in which they come; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<Mutex<mpsc::Receiver<Job>>>,
    load: Load,
}

impl Workers {
    /// Starts so many threads, at least one, that belong to the runtime.
    pub(super) fn new(count: usize) -> Self {
        let workers = Self::idle(Load::of_this_machine());
        workers.add(count.max(1));
        workers
    }

    /// Makes others that count as load together with these; they have no thread before they are
    /// given one.
    pub(super) fn beside(&self) -> Self {
        Self::idle(self.load.clone())
    }

    fn idle(load: Load) -> Self {
        let (jobs, waiting) = mpsc::channel::<Job>();
        Self { jobs, waiting: Arc::new(Mutex::new(waiting)), load }
    }

    /// Starts so many threads more.
    pub(super) fn add(&self, count: usize) {
        for _ in 0..count {
            let waiting = Arc::clone(&self.waiting);
            let next = move || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            drop(tokio::task::spawn_blocking(move || {
                while let Ok(job) = next() {
                    job();
                }
            }));
        }
    }

    /// Returns how many of them are at work.
    pub(super) const fn load(&self) -> &Load {
        &self.load
    }

    /// Runs `work` as soon as a thread is free; returns nothing if it panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        let load = self.load.clone();
        let job: Job = Box::new(move || {
            let _busy = load.begin();
            // A panic is this job's alone; its thread goes on with the next one.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // Whoever does not wait any more does not want to know.
            drop(result.map(|result| sender.send(result)));
        });
        self.jobs.send(job).ok()?;
        receiver.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn jobs_share_as_many_threads_as_were_asked_for() {
        let workers = Workers::new(2);
        let jobs = (0..20).map(|_| workers.run(|| format!("{:?}", std::thread::current().id())));
        let threads = futures_util::future::join_all(jobs).await;
        let threads: BTreeSet<_> = threads.into_iter().map(Option::unwrap).collect();
        assert!((1..=2).contains(&threads.len()), "{threads:?}");
    }

    #[tokio::test]
    async fn a_job_that_panics_leaves_its_thread_to_the_others() {
        let workers = Workers::new(1);
        assert_eq!(workers.run(|| -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(workers.run(|| 7).await, Some(7));
    }
}
