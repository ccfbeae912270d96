//! When to try again after a registry took no report.

use std::time::Duration;

use store::net::Backoff;
use tokio::time::Instant;

/// The pauses that this host chooses.
const BACKOFF: Backoff = Backoff {
    floor: Duration::from_millis(500),
    base: Duration::from_secs(1),
    cap: Duration::from_secs(900),
};

/// The longest pause that a registry may ask for: one that lies must not mute a host for ever.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// The pause between two attempts to send.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    failures: u32,
    until: Option<Instant>,
}

impl Pace {
    /// Whether nothing is to be sent yet.
    pub(crate) fn is_pausing(&self) -> bool {
        self.until.is_some_and(|until| until > Instant::now())
    }

    /// Waits for the end of a pause, if there is one; else for ever.
    pub(crate) async fn pause_ends(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// All was sent.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Something was not taken; the registry may have said when it wants to be asked again.
    pub(crate) fn failed(&mut self, asked: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
        // Not before it is asked for, and not all hosts at once when it is.
        let least = asked + asked.mul_f64(rand::random_range(0.0..0.5));
        let pause = BACKOFF.pause(self.failures, rand::random()).max(least);
        self.until = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause_after(asked: Option<u64>) -> Duration {
        let mut pace = Pace::default();
        let before = Instant::now();
        pace.failed(asked.map(Duration::from_secs));
        pace.until.unwrap() - before
    }

    #[test]
    fn a_registry_says_when_it_is_asked_again_within_reason() {
        let minute = Duration::from_secs(60);
        assert!(pause_after(None) < minute);
        assert!((10 * minute..16 * minute).contains(&pause_after(Some(600))));
        assert!((60 * minute..91 * minute).contains(&pause_after(Some(u64::MAX))));
    }

    #[test]
    fn nothing_is_sent_during_a_pause_and_a_success_ends_it() {
        let mut pace = Pace::default();
        assert!(!pace.is_pausing());
        pace.failed(Some(Duration::from_secs(600)));
        assert!(pace.is_pausing());
        pace.succeeded();
        assert!(!pace.is_pausing());
    }
}
