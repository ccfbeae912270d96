//! Whether tries of checks are good enough. Pure: times are spans since the checks began.

use std::time::Duration;

use shared::health::{Check, Health};

/// How often one check was tried, and how that went.
#[derive(Debug, Clone)]
struct Seen {
    name: String,
    /// Failures in a row that are too many.
    limit: u32,
    has_passed: bool,
    /// Failures in a row.
    failures: u32,
    /// What the last try found, if it failed.
    problem: Option<String>,
}

/// What all tries together mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They passed for long enough.
    Healthy,
    /// They did not; in a clause for people.
    Unhealthy(String),
}

/// Judges the checks after a switch.
#[derive(Debug)]
pub(crate) struct Judge {
    checks: Vec<Seen>,
    deadline: Duration,
    soak: Duration,
    passed: Option<Duration>,
    /// Whether somebody else had seen the beginning, and this process has yet to look.
    resumed: bool,
}

/// Judges the checks of what was confirmed.
#[derive(Debug)]
pub(crate) struct Pulse {
    checks: Vec<Seen>,
}

impl Seen {
    fn all(checks: &[Check]) -> Vec<Self> {
        let seen = |check: &Check| Self {
            name: check.name.to_string(),
            limit: check.retries.max(1),
            has_passed: false,
            failures: 0,
            problem: None,
        };
        checks.iter().map(seen).collect()
    }

    fn note(&mut self, outcome: &Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.has_passed = true;
                self.failures = 0;
                self.problem = None;
            }
            Err(problem) => {
                self.failures = self.failures.saturating_add(1);
                self.problem = Some(problem.clone());
            }
        }
    }

    fn failed(&self) -> Option<String> {
        let problem = self.problem.as_deref().filter(|_| self.failures >= self.limit)?;
        let times = match self.failures {
            1 => String::new(),
            2 => " twice".to_owned(),
            more => format!(" {more} times"),
        };
        Some(format!("{}: {problem}{times}", self.name))
    }
}

impl Judge {
    /// Begins to judge; `passed` says when each check had passed once, if another process saw that.
    pub(crate) fn new(health: &Health, passed: Option<Duration>, resumed: bool) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            checks: Seen::all(&health.checks),
            deadline: seconds(health.deadline),
            soak: seconds(health.soak),
            passed,
            resumed,
        }
    }

    /// Takes note of one try.
    pub(crate) fn note(&mut self, index: usize, outcome: &Result<(), String>) {
        if let Some(seen) = self.checks.get_mut(index) {
            seen.note(outcome);
        }
    }

    /// Returns when each check had passed once.
    pub(crate) const fn passed(&self) -> Option<Duration> {
        self.passed
    }

    /// Says what is clear at this time.
    pub(crate) fn judge(&mut self, now: Duration) -> Option<Verdict> {
        let all_seen = self.checks.iter().all(|seen| seen.has_passed);
        if all_seen && self.passed.is_none() {
            self.passed = Some(now);
        }
        let settled = self.passed.is_some();
        // What passed before may fail a few times; what never did, until the deadline.
        let failed = self.checks.iter().filter(|seen| seen.has_passed || settled);
        if let Some(text) = failed.filter_map(Seen::failed).next() {
            return Some(Verdict::Unhealthy(text));
        }
        if let Some(passed) = self.passed {
            let calm = all_seen && self.checks.iter().all(|seen| seen.failures == 0);
            return (calm && now >= passed.saturating_add(self.soak)).then_some(Verdict::Healthy);
        }
        let waits = |seen: &&Seen| {
            // No check is held against a host that had no time to try it; and after a pause of
            // ours each gets all its tries.
            let least = if self.resumed { seen.limit } else { 1 };
            !seen.has_passed && seen.failures >= least
        };
        let late = self.checks.iter().find(waits).filter(|_| now >= self.deadline)?;
        let problem = late.problem.as_deref().unwrap_or_default();
        let deadline = self.deadline.as_secs();
        let text = format!("{} did not pass within {deadline} s: {problem}", late.name);
        Some(Verdict::Unhealthy(text))
    }

    /// Returns when the next verdict may be due without any further try.
    pub(crate) fn wakes_at(&self) -> Duration {
        self.passed.map_or(self.deadline, |passed| passed.saturating_add(self.soak))
    }
}

impl Pulse {
    /// Begins with what is known to be well.
    pub(crate) fn new(health: &Health) -> Self {
        Self { checks: Seen::all(&health.checks) }
    }

    /// Takes note of one try.
    pub(crate) fn note(&mut self, index: usize, outcome: &Result<(), String>) {
        if let Some(seen) = self.checks.get_mut(index) {
            seen.note(outcome);
        }
    }

    /// Says whether it is well, or what is wrong; nothing while that is open.
    pub(crate) fn look(&self) -> Option<Result<(), String>> {
        if let Some(text) = self.checks.iter().find_map(Seen::failed) {
            return Some(Err(text));
        }
        let calm = self.checks.iter().all(|seen| seen.has_passed && seen.failures == 0);
        calm.then_some(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use shared::health::Probe;

    use super::*;

    fn health(deadline: u32, soak: u32, retries: &[u32]) -> Health {
        let check = |(number, retries): (usize, &u32)| Check {
            name: format!("c{number}").parse().unwrap(),
            probe: Probe::Registry,
            interval: 1,
            timeout: 1,
            retries: *retries,
        };
        Health { deadline, soak, checks: retries.iter().enumerate().map(check).collect() }
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn bad() -> Result<(), String> {
        Err("answered 502".to_owned())
    }

    /// Plays tries, each with its time, and returns the first verdict and when it came.
    fn play(judge: &mut Judge, tries: &[(u64, usize, bool)], end: u64) -> Option<(u64, Verdict)> {
        let mut tries = tries.iter().peekable();
        for now in 0..=end {
            while let Some((_, index, good)) = tries.next_if(|(when, ..)| *when == now) {
                judge.note(*index, &if *good { Ok(()) } else { bad() });
                if let Some(verdict) = judge.judge(at(now)) {
                    return Some((now, verdict));
                }
            }
            if let Some(verdict) = judge.judge(at(now)) {
                return Some((now, verdict));
            }
        }
        None
    }

    fn unhealthy(text: &str) -> Verdict {
        Verdict::Unhealthy(text.to_owned())
    }

    #[test]
    fn healthy_is_what_passed_once_by_the_deadline_and_then_through_the_soak() {
        let mut judge = Judge::new(&health(60, 30, &[3, 3]), None, false);
        let tries = [(5, 0, true), (8, 1, false), (12, 1, true), (40, 0, false), (41, 0, true)];
        assert_eq!(play(&mut judge, &tries, 100), Some((42, Verdict::Healthy)));
        assert_eq!(judge.passed(), Some(at(12)));
    }

    #[test]
    fn what_never_passed_may_fail_until_the_deadline_and_is_then_told() {
        let mut judge = Judge::new(&health(60, 0, &[2]), None, false);
        let tries: Vec<_> = (0..70).map(|now| (now, 0, false)).collect();
        let told = unhealthy("c0 did not pass within 60 s: answered 502");
        assert_eq!(play(&mut judge, &tries, 70), Some((60, told)));
        // Each try has an end of its own, and what it finds counts.
        let mut slow = Judge::new(&health(60, 0, &[2]), None, false);
        assert_eq!(play(&mut slow, &[(70, 0, true)], 70), Some((70, Verdict::Healthy)));
        let mut slow = Judge::new(&health(60, 0, &[2]), None, false);
        let told = unhealthy("c0 did not pass within 60 s: answered 502");
        assert_eq!(play(&mut slow, &[(70, 0, false)], 70), Some((70, told)));
    }

    #[test]
    fn what_passed_before_fails_for_good_after_its_retries_in_a_row() {
        let mut judge = Judge::new(&health(60, 600, &[3]), None, false);
        let mut tries = vec![(1, 0, true), (10, 0, false), (11, 0, false), (12, 0, true)];
        tries.extend([(20, 0, false), (21, 0, false), (22, 0, false)]);
        let told = unhealthy("c0: answered 502 3 times");
        assert_eq!(play(&mut judge, &tries, 700), Some((22, told)));
        // Also while another one has not passed yet.
        let mut judge = Judge::new(&health(60, 0, &[1, 1]), None, false);
        let told = unhealthy("c0: answered 502");
        assert_eq!(play(&mut judge, &[(1, 0, true), (2, 0, false)], 60), Some((2, told)));
    }

    #[test]
    fn a_soak_does_not_end_on_a_failure() {
        let mut judge = Judge::new(&health(60, 10, &[3]), None, false);
        let tries = [(0, 0, true), (10, 0, false), (12, 0, true)];
        assert_eq!(play(&mut judge, &tries, 60), Some((12, Verdict::Healthy)));
    }

    #[test]
    fn without_checks_only_the_soak_counts() {
        assert_eq!(
            play(&mut Judge::new(&health(0, 0, &[]), None, false), &[], 0),
            Some((0, Verdict::Healthy))
        );
        let mut judge = Judge::new(&health(0, 7, &[]), None, false);
        assert_eq!(play(&mut judge, &[], 20), Some((7, Verdict::Healthy)));
    }

    #[test]
    fn another_process_goes_on_where_the_first_one_was() {
        // The soak goes on, but each check must have passed before this process's eyes.
        let mut judge = Judge::new(&health(60, 100, &[2]), Some(at(20)), true);
        assert_eq!(play(&mut judge, &[], 200), None);
        let mut judge = Judge::new(&health(60, 100, &[2]), Some(at(20)), true);
        assert_eq!(play(&mut judge, &[(110, 0, true)], 200), Some((120, Verdict::Healthy)));
        // The deadline is over, and still each check gets its tries.
        let mut judge = Judge::new(&health(60, 0, &[2]), None, true);
        let tries = [(90, 0, false), (95, 0, true)];
        assert_eq!(play(&mut judge, &tries, 100), Some((95, Verdict::Healthy)));
        let mut judge = Judge::new(&health(60, 0, &[2]), None, true);
        let told = unhealthy("c0 did not pass within 60 s: answered 502");
        assert_eq!(play(&mut judge, &[(90, 0, false), (95, 0, false)], 100), Some((95, told)));
    }

    #[test]
    fn what_was_confirmed_is_sick_after_its_retries_and_well_after_all_pass() {
        let mut pulse = Pulse::new(&health(60, 0, &[2, 1]));
        assert_eq!(pulse.look(), None);
        pulse.note(0, &Ok(()));
        assert_eq!(pulse.look(), None, "the other one has not answered");
        pulse.note(1, &Ok(()));
        assert_eq!(pulse.look(), Some(Ok(())));
        pulse.note(0, &bad());
        assert_eq!(pulse.look(), None, "once is not for good");
        pulse.note(0, &bad());
        assert_eq!(pulse.look(), Some(Err("c0: answered 502 twice".to_owned())));
        pulse.note(0, &Ok(()));
        assert_eq!(pulse.look(), Some(Ok(())));
    }
}
