//! How fast an answer comes, and whether that is too slow to be one.

use std::time::Duration;

/// The rate that an answer must have, measured over the time that we wait for it: time in which
/// we ourselves read nothing, because the disk is slow or a cap holds, says nothing of a server.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// Bytes per second.
    rate: u64,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

/// Too few bytes came in too long a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooSlow {
    pub(crate) bytes: u64,
    pub(crate) waited: Duration,
    /// The least, in bytes per second.
    pub(crate) rate: u64,
}

impl Pace {
    pub(crate) const fn new(rate: u64, window: Duration) -> Self {
        Self { rate, window, waited: Duration::ZERO, bytes: 0 }
    }

    /// Notes what came after a wait; an error at the end of each window that had too little.
    pub(crate) fn note(&mut self, bytes: usize, waited: Duration) -> Result<(), TooSlow> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return Ok(());
        }
        let (bytes, waited) = (self.bytes, self.waited);
        (self.bytes, self.waited) = (0, Duration::ZERO);
        let milliseconds = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let needed = self.rate.saturating_mul(milliseconds) / 1000;
        if bytes < needed { Err(TooSlow { bytes, waited, rate: self.rate }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_drip_is_too_slow_at_the_end_of_the_window_and_not_before() {
        let mut pace = Pace::new(1024, 30 * SECOND);
        for _ in 0..29 {
            assert_eq!(pace.note(1000, SECOND), Ok(()));
        }
        let (bytes, waited) = (30_000, 30 * SECOND);
        assert_eq!(pace.note(1000, SECOND), Err(TooSlow { bytes, waited, rate: 1024 }));
    }

    /// Bursts and pauses, however they are put, buy no more than their bytes are worth.
    #[test]
    fn whatever_a_server_does_the_wait_for_so_many_bytes_has_an_end() {
        let (rate, window) = (1024, 30 * SECOND);
        let mut seed = 1_u64;
        for _ in 0..200 {
            let (mut pace, mut all, mut waited) = (Pace::new(rate, window), 0, Duration::ZERO);
            loop {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let wait = SECOND * u32::try_from((seed >> 40) % 29).unwrap();
                let bytes = (seed >> 33) % 60_000;
                waited += wait;
                if pace.note(usize::try_from(bytes).unwrap(), wait).is_err() {
                    break;
                }
                all += bytes;
                let most = Duration::from_secs(all / rate) + 2 * window;
                assert!(waited <= most, "{waited:?} for {all} bytes");
                if all > 3_000_000 {
                    break;
                }
            }
        }
    }

    #[test]
    fn what_comes_without_a_wait_counts_and_a_pause_of_ours_does_not() {
        let mut pace = Pace::new(1024, 30 * SECOND);
        for _ in 0..1000 {
            assert_eq!(pace.note(1, Duration::ZERO), Ok(()), "we read as slowly as we like");
        }
        assert_eq!(pace.note(30 * 1024, 30 * SECOND), Ok(()));
        assert!(pace.note(0, 30 * SECOND).is_err(), "each window stands for itself");
    }
}
