//! A cap on how many bytes per second all connections together take.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How much may come at once after a pause: as much as the cap allows in this time, so that a
/// slow cap is also an even one.
const BURST: Duration = Duration::from_millis(250);

/// A token bucket. Has no clock: the time is passed in.
///
/// Bytes are taken when they have come, and whoever took them waits as long as it says. A server
/// is held back by its own connection meanwhile, as nobody reads from it.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Bytes per second.
    rate: u64,
    /// When all bytes so far are paid for.
    paid: Instant,
}

impl TokenBucket {
    /// Allows `rate` bytes per second, at least one.
    #[must_use]
    pub fn new(rate: u64, now: Instant) -> Self {
        Self { rate: rate.max(1), paid: now }
    }

    /// Takes bytes, and returns how long to wait before taking more.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.paid.max(earliest);
        #[expect(clippy::cast_precision_loss, reason = "a byte in 2^53 makes no difference")]
        let cost = Duration::try_from_secs_f64(bytes as f64 / self.rate as f64);
        self.paid = from + cost.unwrap_or(Duration::from_secs(u32::MAX.into()));
        self.paid.saturating_duration_since(now)
    }
}

/// One bucket for all connections of a network.
#[derive(Debug, Clone)]
pub(crate) struct Bandwidth(Option<Arc<Mutex<TokenBucket>>>);

impl Bandwidth {
    /// Caps at so many bytes per second, if at all.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        let bucket = |rate| Arc::new(Mutex::new(TokenBucket::new(rate, Instant::now())));
        Self(rate.map(bucket))
    }

    /// Waits until bytes that came may be taken.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(bucket) = &self.0 else { return };
        let wait = {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(bytes as u64, Instant::now())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn many_pieces_take_as_long_as_one_of_their_size() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, start);
        let mut now = start;
        for _ in 0..100 {
            now += bucket.take(50, now);
        }
        // 5000 bytes at 1000 a second.
        assert_eq!(now - start, MS(5000));
    }

    #[test]
    fn connections_share_it_and_each_waits_for_what_came_before() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, start);
        let waits: Vec<_> = (0..4).map(|_| bucket.take(500, start)).collect();
        assert_eq!(waits, [500, 1000, 1500, 2000].map(MS));
    }

    #[test]
    fn a_pause_earns_a_burst_and_no_more() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, start);
        let later = start + MS(3_600_000);
        assert_eq!(bucket.take(250, later), MS(0));
        assert_eq!(bucket.take(100, later), MS(100));
    }

    #[test]
    fn no_number_makes_it_panic() {
        let now = Instant::now();
        let wait = TokenBucket::new(0, now).take(u64::MAX, now);
        assert!(wait > Duration::from_secs(1 << 30), "{wait:?}");
    }
}
