//! Pauses that grow, and that no two clients take in step.

use std::time::Duration;

/// How pauses grow: doubled with each failure up to a cap, with full jitter above a floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The shortest pause.
    pub floor: Duration,
    /// The longest pause after the first failure.
    pub base: Duration,
    /// The longest pause ever.
    pub cap: Duration,
}

impl Backoff {
    /// Returns the pause after `failures` in a row, of which there is at least one.
    ///
    /// `jitter` is a random number from 0 to 1 that says where between the shortest and the
    /// longest pause it is: a fleet that failed at once must not come back at once.
    #[must_use]
    pub fn pause(&self, failures: u32, jitter: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let longest = self.base.saturating_mul(1 << doublings).min(self.cap).max(self.floor);
        self.floor + (longest - self.floor).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_pause_doubles_up_to_its_cap_and_jitters_over_all_of_it() {
        let backoff = Backoff { floor: SECONDS(2), base: SECONDS(10), cap: SECONDS(60) };
        let longest: Vec<_> = (1..6).map(|failures| backoff.pause(failures, 1.0)).collect();
        assert_eq!(longest, [10, 20, 40, 60, 60].map(SECONDS));
        assert_eq!(backoff.pause(5, 0.0), SECONDS(2));
        assert_eq!(backoff.pause(1, 0.5), SECONDS(6));
    }

    #[test]
    fn no_number_makes_it_panic() {
        let backoff = Backoff { floor: SECONDS(9), base: SECONDS(1), cap: SECONDS(u64::MAX) };
        assert_eq!(backoff.pause(0, 0.3), SECONDS(9), "the floor outranks a smaller base");
        assert_eq!(backoff.pause(1, f64::NAN.max(0.0)), SECONDS(9));
        assert!(backoff.pause(u32::MAX, 7.0) >= SECONDS(1 << 20));
    }
}
