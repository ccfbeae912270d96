//! How far something long is: a smoothed rate, the time left, and one line that says so.
//!
//! The clock is an argument: times are since the beginning. A line for a log has everything; a
//! line for a terminal has what fits into its width.

use std::{collections::VecDeque, time::Duration};

use jiff::SignedDuration;

use crate::human;

/// The rate is that of this long back: bursts do not make it jump, a change shows soon.
const WINDOW: Duration = Duration::from_secs(15);
/// Samples closer together than this are one.
const STEP: Duration = Duration::from_millis(200);
/// With less than this to go by, a rate would be a guess.
const LEAST: Duration = Duration::from_millis(800);

/// What was done, of what there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Store paths.
    pub paths: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Measures how fast it goes.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// Times and bytes, the oldest first; never empty once asked.
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// Takes note of how many bytes were done at a time since the beginning.
    ///
    /// Fewer than before are what was done in vain: they are forgotten, and no rate is negative.
    pub fn note(&mut self, now: Duration, bytes: u64) {
        // What was lost on the way was never on the way.
        for (_, before) in &mut self.samples {
            *before = (*before).min(bytes);
        }
        let recent = |(at, _): &&(Duration, u64)| now.saturating_sub(*at) < STEP;
        if self.samples.len() > 1 && self.samples.back().as_ref().is_some_and(recent) {
            return;
        }
        self.samples.push_back((now, bytes));
        // The last one outside of the window stays: the window begins there.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Returns bytes a second of late, if enough was seen to say.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        let ((from, before), (to, after)) = (self.samples.front()?, self.samples.back()?);
        let passed = to.saturating_sub(*from);
        // Before the first byte it has not begun rather than stopped, unless that lasts.
        if passed < LEAST || (*after == 0 && passed < WINDOW) {
            return None;
        }
        let milliseconds = passed.as_millis().max(1);
        let rate = u128::from(after.saturating_sub(*before)) * 1000 / milliseconds;
        u64::try_from(rate).ok()
    }
}

/// How far it is, to be told.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// What was done.
    pub done: Amount,
    /// What there is to do.
    pub total: Amount,
    /// Bytes a second, if known.
    pub rate: Option<u64>,
    /// Where it comes from or goes to, as a URL; several are joined.
    pub cache: &'a str,
}

impl Progress<'_> {
    /// Returns seconds until the end, if it goes on so.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let left = self.total.bytes.saturating_sub(self.done.bytes);
        let rate = self.rate.filter(|rate| *rate > 0)?;
        Some(left.div_ceil(rate))
    }

    /// Returns the line of a log.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("{}%, {}, {}", self.percent(), self.amount(), self.paths());
        for part in [self.speed(), self.left()].into_iter().filter(|part| !part.is_empty()) {
            line.push_str(&format!(", {part}"));
        }
        if !self.cache.is_empty() {
            line.push_str(&format!(", {}", self.cache));
        }
        line
    }

    /// Returns the line of a terminal of this width: the first form that fits.
    #[must_use]
    pub fn bar(&self, width: usize) -> String {
        let percent = format!("{:>3}%", self.percent());
        let (amount, speed, left) = (self.amount(), self.speed(), self.left());
        let paths = self.paths();
        let all = [amount.as_str(), &speed, &left, &paths];
        let forms =
            [(24, &all[..]), (10, &all[..]), (10, &all[..3]), (0, &all[..3]), (0, &all[1..3])];
        let room = width.saturating_sub(1);
        let forms = forms.into_iter().map(|(length, parts)| {
            let mut line = bar(self.percent(), length);
            line.push_str(&percent);
            for part in parts.iter().filter(|part| !part.is_empty()) {
                line.push_str("  ");
                line.push_str(part);
            }
            line
        });
        let fits = |line: &String| line.chars().count() <= room;
        let mut line = forms.into_iter().find(fits).unwrap_or(percent);
        let left = room.saturating_sub(line.chars().count());
        if let Some(cache) = shortened(self.cache, left.saturating_sub(2)) {
            line.push_str(&format!("  {cache}"));
        }
        line.chars().take(room).collect()
    }

    /// Only what is done is done: 100 is the end, and not before it.
    fn percent(&self) -> u64 {
        if self.done.paths >= self.total.paths && self.done.bytes >= self.total.bytes {
            return 100;
        }
        let (done, total) = (u128::from(self.done.bytes), u128::from(self.total.bytes.max(1)));
        u64::try_from(done * 100 / total).unwrap_or(99).min(99)
    }

    fn amount(&self) -> String {
        let done = self.done.bytes.min(self.total.bytes);
        format!("{} of {}", human::size(done), human::size(self.total.bytes))
    }

    fn paths(&self) -> String {
        format!("{}/{} paths", self.done.paths.min(self.total.paths), self.total.paths)
    }

    fn speed(&self) -> String {
        self.rate.map_or(String::new(), |rate| format!("{}/s", human::size(rate)))
    }

    fn left(&self) -> String {
        if self.done.bytes >= self.total.bytes || self.rate.is_none() {
            return String::new();
        }
        match self.seconds_left().and_then(|left| i64::try_from(left).ok()) {
            Some(left) if left < 100 * 24 * 3600 => {
                format!("{} left", human::span(SignedDuration::from_secs(left)))
            }
            Some(_) | None => "stalled".to_owned(),
        }
    }
}

fn bar(percent: u64, length: usize) -> String {
    if length == 0 {
        return String::new();
    }
    let full = usize::try_from(percent).unwrap_or(100).min(100) * length / 100;
    format!("[{}{}] ", "#".repeat(full), "-".repeat(length - full))
}

/// Cuts a name, if enough of it stays to be known by.
fn shortened(name: &str, room: usize) -> Option<String> {
    const LEAST_NAME: usize = 8;
    let length = name.chars().count();
    if length == 0 || room < LEAST_NAME.min(length) {
        return None;
    }
    if length <= room {
        return Some(name.to_owned());
    }
    Some(name.chars().take(room - 1).chain(['…']).collect())
}

#[cfg(test)]
mod tests;
