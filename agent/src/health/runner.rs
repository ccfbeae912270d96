//! Tries all checks of a profile, each at its own interval, until dropped.

use std::sync::Arc;
use std::time::Duration;

use shared::health::Check;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::prober::{Prober, Tried};

/// The tries of one profile's checks; what is under way ends with the value.
#[derive(Debug)]
pub(crate) struct Runner {
    tried: mpsc::Receiver<(usize, Tried)>,
    /// Aborted when dropped.
    _tasks: JoinSet<()>,
}

impl Runner {
    /// Begins: each check is tried at once, then again and again.
    pub(crate) fn start(prober: Prober, checks: &[Check]) -> Self {
        let (results, tried) = mpsc::channel(1);
        let prober = Arc::new(prober);
        let mut tasks = JoinSet::new();
        for (index, check) in checks.iter().cloned().enumerate() {
            let (prober, results) = (Arc::clone(&prober), results.clone());
            tasks.spawn(async move {
                loop {
                    let tried = prober.attempt(&check).await;
                    if results.send((index, tried)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(check.interval.into())).await;
                }
            });
        }
        Self { tried, _tasks: tasks }
    }

    /// Waits for the next try to end. Cancel safe; without any check it waits for ever.
    pub(crate) async fn next(&mut self) -> (usize, Tried) {
        match self.tried.recv().await {
            Some(tried) => tried,
            None => std::future::pending().await,
        }
    }
}
