//! Windows: when a host may fetch, switch or reboot.
//!
//! A window opens by a cron expression, in a time zone, and stays open for so many seconds. As
//! written it is a [`Window`]; a [`Calendar`] knows when it is open, and [`look`] takes several
//! lists of them together. Clock and time zones are arguments.

mod calendar;
mod expression;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub use calendar::Calendar;

/// Longest windows of one document as JSON, in bytes: a host keeps those of three.
const MAX_LEN: usize = 2048;

/// Shortest and longest window in seconds: a minute and a week.
const LENGTHS: std::ops::RangeInclusive<u32> = 60..=7 * 24 * 3600;

/// How often an opening is looked for that suits several lists, before there is held to be none.
const MAX_LOOKS: usize = 10_000;

/// Windows of each kind; none means always, several are a union.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Windows {
    /// When to fetch.
    pub fetch: Vec<Window>,
    /// When to switch.
    pub switch: Vec<Window>,
    /// When to reboot.
    pub reboot: Vec<Window>,
}

/// One window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Window {
    /// When it opens: minute, hour, day of month, month, day of week.
    pub cron: String,
    /// The time zone that this is meant in, such as `Europe/Berlin`.
    pub zone: String,
    /// How long it stays open in seconds.
    pub length: u32,
}

/// Whether something may be done now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Opening {
    /// It may.
    #[default]
    Open,
    /// It may not.
    Closed {
        /// When it may; never, or not before the year 2100, if that is unknown.
        until: Option<Timestamp>,
    },
}

/// Why a window cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not five fields.
    #[error("window `{cron}` has not five fields: minute, hour, day of month, month, day of week")]
    Fields {
        /// The expression.
        cron: String,
    },
    /// A field that is not of its form.
    #[error("window `{cron}`: the {field} `{text}` {why}")]
    Field {
        /// The expression.
        cron: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Days of the month and of the week: programs do not agree on what that means.
    #[error(
        "window `{cron}` names a day of the month and a day of the week; some would open it on \
         either, others on both: write two windows, or one day"
    )]
    BothDays {
        /// The expression.
        cron: String,
    },
    /// A day that no year has.
    #[error("window `{cron}` never opens")]
    Never {
        /// The expression.
        cron: String,
    },
    /// No such time zone.
    #[error("window `{cron}`: there is no time zone `{zone}` here")]
    Zone {
        /// The expression.
        cron: String,
        /// The zone.
        zone: String,
    },
    /// Too short or too long.
    #[error("window `{cron}` is open for {length} s, which is not a minute to a week")]
    Length {
        /// The expression.
        cron: String,
        /// The length in seconds.
        length: u32,
    },
    /// More than can be kept.
    #[error("the windows are longer than {MAX_LEN} bytes")]
    TooMany,
}

impl Windows {
    /// Tells whether there is no window of any kind.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.fetch.is_empty() && self.switch.is_empty() && self.reboot.is_empty()
    }

    /// Returns all windows.
    pub fn all(&self) -> impl Iterator<Item = &Window> {
        self.fetch.iter().chain(&self.switch).chain(&self.reboot)
    }

    /// Checks that every window is one that could open; which time zones there are is not asked.
    ///
    /// # Errors
    ///
    /// If one could not, or all of them are too long.
    pub fn check(&self) -> Result<(), WindowError> {
        let length = serde_json::to_vec(self).map_or(usize::MAX, |bytes| bytes.len());
        if length > MAX_LEN {
            return Err(WindowError::TooMany);
        }
        self.all().try_for_each(Window::check)
    }
}

impl Window {
    /// Checks that the window is one that could open; whether there is such a time zone is not
    /// asked.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check(&self) -> Result<(), WindowError> {
        let zone = |byte: u8| byte.is_ascii_alphanumeric() || b"+-/_".contains(&byte);
        if !(1..=64).contains(&self.zone.len()) || !self.zone.bytes().all(zone) {
            return Err(self.zone_error());
        }
        self.calendar(|_| Some(TimeZone::UTC)).map(drop)
    }

    /// Returns when the window opens; `zones` finds a time zone by its name.
    ///
    /// # Errors
    ///
    /// If it could never open, or the time zone is not found.
    pub fn calendar(
        &self,
        zones: impl FnOnce(&str) -> Option<TimeZone>,
    ) -> Result<Calendar, WindowError> {
        if !LENGTHS.contains(&self.length) {
            return Err(WindowError::Length { cron: self.cron.clone(), length: self.length });
        }
        let schedule = expression::parse(&self.cron)?;
        let zone = zones(&self.zone).ok_or_else(|| self.zone_error())?;
        Ok(Calendar::new(schedule, zone, self.length))
    }

    fn zone_error(&self) -> WindowError {
        WindowError::Zone { cron: self.cron.clone(), zone: self.zone.clone() }
    }
}

/// Says whether all lists are open; each is a union, and an empty one always is.
#[must_use]
pub fn look(lists: &[Vec<Calendar>], now: Timestamp) -> Opening {
    let lists: Vec<&Vec<Calendar>> = lists.iter().filter(|list| !list.is_empty()).collect();
    let mut at = now;
    for _ in 0..MAX_LOOKS {
        let mut next = at;
        for list in &lists {
            if list.iter().any(|calendar| calendar.is_open(at)) {
                continue;
            }
            let opens = list.iter().filter_map(|calendar| calendar.opens_after(at)).min();
            match opens {
                Some(opens) => next = next.max(opens),
                None => return Opening::Closed { until: None },
            }
        }
        if next == at {
            return if at == now { Opening::Open } else { Opening::Closed { until: Some(at) } };
        }
        at = next;
    }
    Opening::Closed { until: None }
}

#[cfg(test)]
mod tests;
