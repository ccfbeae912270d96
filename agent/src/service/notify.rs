//! What systemd is told, and the watchdog: `sd_notify(3)`.
//!
//! The variables of the notification stay in this process's environment; programs that it starts
//! get one of their own.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::watch;

/// How long a round may take before it counts as one that hangs: every request in it has a deadline
/// of its own, so this is far beyond what many slow sources take together.
const LONGEST_ROUND: Duration = Duration::from_secs(1800);

/// The daemon is ready.
pub(super) fn ready() {
    send(&[NotifyState::Ready]);
}

/// The daemon stops, which may take as long as a switch does.
pub(super) fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The daemon reads its configuration again; it says [`ready`] once that is done.
pub(super) fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    send(&[NotifyState::Reloading, NotifyState::MonotonicUsec(micros)]);
}

/// The state of the daemon in one line.
pub(super) fn status(line: &str) {
    send(&[NotifyState::Status(line)]);
}

fn send(states: &[NotifyState<'_>]) {
    // Sends nothing where nobody supervises.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Says whether a round is under way.
#[derive(Debug)]
pub(super) struct Pulse(watch::Sender<Option<Instant>>);

impl Pulse {
    /// A round begins.
    pub(super) fn busy(&self) {
        self.0.send_replace(Some(Instant::now()));
    }

    /// No round is under way.
    pub(super) fn idle(&self) {
        self.0.send_replace(None);
    }
}

/// Tells systemd that the daemon lives: its tasks are served, and no round hangs.
#[derive(Debug)]
pub(super) struct Watchdog {
    every: Duration,
    busy_since: watch::Receiver<Option<Instant>>,
}

impl Watchdog {
    /// Returns what the rounds feed, and the watchdog if systemd wants one.
    pub(super) fn new() -> (Pulse, Option<Self>) {
        let (pulse, busy_since) = watch::channel(None);
        // Half of the time, as systemd advises.
        let every = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
        (Pulse(pulse), every.map(|every| Self { every, busy_since }))
    }

    /// Feeds systemd until the pulse is gone: also while a stopping daemon waits for a switch.
    pub(super) async fn feed(mut self) {
        let mut ticks = tokio::time::interval(self.every);
        loop {
            tokio::select! {
                // Cancel safe: a tick and a change are kept until they are taken.
                _ = ticks.tick() => {}
                changed = self.busy_since.changed() => match changed {
                    Ok(()) => continue,
                    Err(_gone) => return,
                },
            }
            if lives(*self.busy_since.borrow_and_update(), Instant::now()) {
                send(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("a round hangs: the watchdog is not fed any more");
            }
        }
    }
}

fn lives(busy_since: Option<Instant>, now: Instant) -> bool {
    busy_since.is_none_or(|since| now.duration_since(since) < LONGEST_ROUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_hangs_is_no_life() {
        let begun = Instant::now();
        assert!(lives(None, begun));
        assert!(lives(Some(begun), begun + LONGEST_ROUND / 2));
        assert!(!lives(Some(begun), begun + LONGEST_ROUND));
    }
}
