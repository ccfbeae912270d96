//! How a cache behaved, and when to ask it again.
//!
//! Pure: the time and the chance are passed in. Each cache has one [`Health`], kept with the
//! [`Network`](super::Network) for as long as that lives: in a daemon, across all rounds.

use std::time::{Duration, Instant};

use crate::net::limits::{
    LIAR, LIE_MEMORY, MAX_ASKED, MUCH_SLOWER, PATIENCE, SICK_MEMORY, SPEED_MEMORY, TRIAL,
    UNREACHABLE, USUAL,
};

/// How one cache behaved, as far as it matters for whom to ask next.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// Requests in a row that did not come to an end.
    failures: u32,
    last_failure: Option<Instant>,
    /// How often it was left out for a lie, and when it last was.
    lies: u32,
    last_lie: Option<Instant>,
    left_out: Option<LeftOut>,
    speed: Option<Speed>,
    /// How long the soonest of its first answers took, a new connection included.
    first_in: Option<Duration>,
    /// How many answers that is of.
    answers: u32,
}

/// Why a cache is left out, the lesser evil first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// It failed too often, or asked for a pause.
    Unreachable,
    /// It delivered what had to be refused.
    Lied,
}

#[derive(Debug, Clone, Copy)]
struct LeftOut {
    why: Why,
    since: Instant,
    until: Instant,
    /// When somebody last tried whether it is well again.
    trial: Option<Instant>,
    /// Whether it failed to deliver when it was asked for want of another one.
    is_useless: bool,
}

/// Sums over its answers, of which older ones count less and less.
#[derive(Debug, Clone, Copy)]
struct Speed {
    answers: f64,
    /// Seconds until their heads came.
    heads: f64,
    /// Seconds that their bodies took, as far as we waited for them.
    bodies: f64,
    /// Bytes of their bodies.
    bytes: f64,
    measured: Instant,
}

/// How much of the sums is left after one more answer.
const FADE: f64 = 0.8;
/// What expected times are of, in bytes: a NAR of middling size.
const TYPICAL: f64 = 1024.0 * 1024.0;

/// Within which time a near cache answers on a new connection, also on a busy machine.
const NEAR: Duration = Duration::from_millis(20);

/// How many answers tell that a cache is far: they come at the same time, and one or two of them may
/// be late for another reason.
const FIRST_ANSWERS: u32 = 4;

/// Where a cache stands when somebody has to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Standing {
    /// The lower, the sooner it is asked.
    pub(crate) priority: u32,
    /// The lesser evil is the smaller.
    left_out: Option<(bool, Why, Instant)>,
    is_sick: bool,
    expected: Option<f64>,
}

impl Health {
    /// Returns where the cache stands now.
    pub(crate) fn standing(&self, priority: u32, now: Instant) -> Standing {
        let speed = self.speed.filter(|speed| now < speed.measured + SPEED_MEMORY);
        Standing {
            priority,
            left_out: self
                .left_out
                .filter(|out| !out.is_due(now))
                .map(|out| (out.is_useless, out.why, out.until)),
            is_sick: self.failures > 0
                && self.last_failure.is_some_and(|last| now < last + SICK_MEMORY),
            expected: speed.map(|speed| speed.expected()),
        }
    }

    /// Notes how long it took to answer when it was opened.
    pub(crate) const fn opened(&mut self, took: Duration) {
        (self.first_in, self.answers) = (Some(took), FIRST_ANSWERS);
    }

    /// Notes how long an answer took: of a cache that was never opened, the first ones count.
    pub(crate) fn began(&mut self, took: Duration) {
        if self.answers < FIRST_ANSWERS {
            self.first_in = Some(self.first_in.map_or(took, |soonest| soonest.min(took)));
            self.answers += 1;
        }
    }

    /// Says whether it is so far away that a connection takes long to gather speed.
    pub(crate) fn is_far(&self) -> bool {
        self.answers >= FIRST_ANSWERS && self.first_in.is_some_and(|took| took > NEAR)
    }

    /// Notes that somebody asks now: of a cache that was left out, one request tells how it is.
    pub(crate) fn asked(&mut self, now: Instant) {
        if let Some(out) = &mut self.left_out
            && out.is_due(now)
        {
            out.trial = Some(now);
        }
    }

    /// Notes that something was delivered that is all right, when it was asked for at that time.
    pub(crate) fn delivered(&mut self, asked: Instant) {
        // One good answer makes no liar honest before its time.
        if self.left_out.is_some_and(|out| out.why == Why::Lied && asked >= out.until) {
            self.left_out = None;
        }
        if let Some(out) = &mut self.left_out {
            out.is_useless = false;
        }
        self.answered(asked);
    }

    /// Notes an answer that says nothing of its honesty, such as that it does not have something.
    pub(crate) fn answered(&mut self, asked: Instant) {
        match &mut self.left_out {
            None => self.failures = 0,
            // What was under way before says nothing.
            Some(out) if asked < out.since => {}
            Some(LeftOut { why: Why::Unreachable, .. }) => {
                (self.left_out, self.failures) = (None, 0);
            }
            // The next one may try.
            Some(LeftOut { why: Why::Lied, trial, .. }) => *trial = None,
        }
    }

    /// Notes that no answer came; `pause` is the time for which the cache asked to be left alone.
    ///
    /// Returns for how long it is left out now, if that was decided now.
    pub(crate) fn failed(
        &mut self,
        asked: Instant,
        now: Instant,
        pause: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        if self.is_old_news(asked) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(now);
        let strikes = (self.failures + 1).saturating_sub(PATIENCE);
        let pause = pause.map(|pause| pause.min(MAX_ASKED));
        let backoff = (strikes > 0).then(|| UNREACHABLE.pause(strikes, jitter));
        let wait = pause.max(backoff)?;
        // A liar that cannot be reached is still a liar.
        self.leave_out(Why::Unreachable, now, wait);
        Some(wait)
    }

    /// Notes that what the cache delivered had to be refused.
    ///
    /// Returns for how long it is left out now, if that was decided now.
    pub(crate) fn lied(&mut self, asked: Instant, now: Instant, jitter: f64) -> Option<Duration> {
        let is_liar = self.left_out.is_some_and(|out| out.why == Why::Lied);
        if is_liar && self.is_old_news(asked) {
            return None;
        }
        if self.last_lie.is_none_or(|last| now >= last + LIE_MEMORY) {
            self.lies = 0;
        }
        self.lies = self.lies.saturating_add(1);
        self.last_lie = Some(now);
        let wait = LIAR.pause(self.lies, jitter);
        self.leave_out(Why::Lied, now, wait);
        Some(wait)
    }

    /// Notes how fast an answer came: its head, and the bytes of its body.
    pub(crate) fn measured(&mut self, head: Duration, body: Duration, bytes: u64, now: Instant) {
        let none = Speed { answers: 0.0, heads: 0.0, bodies: 0.0, bytes: 0.0, measured: now };
        let old = self.speed.filter(|speed| now < speed.measured + SPEED_MEMORY).unwrap_or(none);
        #[expect(clippy::cast_precision_loss, reason = "a byte in 2^53 makes no difference")]
        let bytes = bytes as f64;
        self.speed = Some(Speed {
            answers: old.answers.mul_add(FADE, 1.0),
            heads: old.heads.mul_add(FADE, head.as_secs_f64()),
            bodies: old.bodies.mul_add(FADE, body.as_secs_f64()),
            bytes: old.bytes.mul_add(FADE, bytes),
            measured: now,
        });
    }

    /// Says whether a request began before the cache was left out, or tried again: what came of
    /// it was known by then. Else twelve connections that break at once would count as twelve.
    fn is_old_news(&self, asked: Instant) -> bool {
        self.left_out.is_some_and(|out| asked < out.trial.unwrap_or(out.since))
    }

    fn leave_out(&mut self, why: Why, now: Instant, wait: Duration) {
        let until = now + wait;
        let is_useless = self.left_out.is_some();
        let before = self.left_out.filter(|out| out.why > why || out.until > until);
        let (why, until) =
            before.map_or((why, until), |out| (out.why.max(why), out.until.max(until)));
        self.left_out = Some(LeftOut { why, since: now, until, trial: None, is_useless });
    }
}

impl Standing {
    /// Says whether it is asked only if nobody else has something.
    pub(crate) const fn is_left_out(&self) -> bool {
        self.left_out.is_some()
    }
}

impl LeftOut {
    /// Says whether one request may try how the cache is.
    fn is_due(&self, now: Instant) -> bool {
        now >= self.until && self.trial.is_none_or(|trial| now >= trial + TRIAL)
    }
}

impl Speed {
    /// Returns the seconds that something of a typical size takes.
    fn expected(&self) -> f64 {
        // From a few bytes nothing follows for many.
        self.heads / self.answers + self.bodies * (TYPICAL / self.bytes.max(TYPICAL / 4.0))
    }
}

/// Chooses which one to ask: by priority, then the healthy before the sick and the much slower,
/// then as given. If all are left out, the least bad.
pub(crate) fn choose(standings: &[Standing]) -> Option<usize> {
    let usual = USUAL.as_secs_f64();
    let is_slow = |one: &Standing| {
        let peers = standings.iter();
        let peers = peers.filter(|it| it.priority == one.priority && it.left_out.is_none());
        let best = peers.map(|peer| peer.expected.unwrap_or(usual)).fold(f64::INFINITY, f64::min);
        one.expected.is_some_and(|expected| expected > usual && expected > MUCH_SLOWER * best)
    };
    let rank =
        |(_, one): &(usize, &Standing)| (one.left_out, one.priority, one.is_sick, is_slow(one));
    standings.iter().enumerate().min_by_key(rank).map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
