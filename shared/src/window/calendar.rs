//! When a window is open, in the civil time of its zone.
//!
//! The expression is asked for civil times alone, and they become instants here: a window that
//! would open in the hour that a change to summer time skips opens right behind it, and one in the
//! hour that is repeated opens once, the first time.

use chrono::{DateTime as CronTime, NaiveDate, Utc};
use cron::Schedule;
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

/// How long the clocks of a zone may tell a time again after a change.
const LONGEST_FOLD: SignedDuration = SignedDuration::from_hours(26);

/// The openings of one window.
#[derive(Debug, Clone)]
pub struct Calendar {
    schedule: Schedule,
    zone: TimeZone,
    length: SignedDuration,
}

impl Calendar {
    pub(super) fn new(schedule: Schedule, zone: TimeZone, length: u32) -> Self {
        Self { schedule, zone, length: SignedDuration::from_secs(length.into()) }
    }

    /// Tells whether the window is open.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.last_opening(now).is_some_and(|opening| {
            opening.checked_add(self.length).is_ok_and(|closing| now < closing)
        })
    }

    /// Returns when the window opens next.
    #[must_use]
    pub fn opens_after(&self, now: Timestamp) -> Option<Timestamp> {
        let from = to_cron(self.zone.to_datetime(now))?;
        // A time that is told again opened when it was told first, which may be over.
        let openings = self.schedule.after(&from).map_while(|civil| self.instant(&civil));
        openings.into_iter().find(|opening| *opening > now)
    }

    /// Returns when the window opened last, now included.
    fn last_opening(&self, now: Timestamp) -> Option<Timestamp> {
        let mut civil = self.zone.to_datetime(now);
        let soon = now.checked_add(SignedDuration::from_secs(1)).unwrap_or(now);
        if let Some(change) = self.zone.preceding(soon).next()
            && now.duration_since(change.timestamp()) < LONGEST_FOLD
            && let Ok(before) = change.timestamp().checked_sub(SignedDuration::from_secs(1))
        {
            // What the clocks showed before they were set back is over as well.
            civil = civil.max(self.zone.to_datetime(before));
        }
        let behind = civil.checked_add(SignedDuration::from_secs(1)).ok()?;
        let openings = self.schedule.after(&to_cron(behind)?).rev();
        let mut openings = openings.map_while(|civil| self.instant(&civil));
        openings.find(|opening| *opening <= now)
    }

    /// Returns the moment at which a civil time is first there, or first over.
    fn instant(&self, civil: &CronTime<Utc>) -> Option<Timestamp> {
        let civil = from_cron(civil)?;
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                let before_the_gap = after.to_timestamp(civil).ok()?;
                Some(self.zone.following(before_the_gap).next()?.timestamp())
            }
        }
    }
}

/// Writes a civil time as the crate `cron` takes it: as if it were in a zone without any change.
fn to_cron(civil: DateTime) -> Option<CronTime<Utc>> {
    let number = |number: i8| u32::try_from(number).ok();
    let date =
        NaiveDate::from_ymd_opt(civil.year().into(), number(civil.month())?, number(civil.day())?)?;
    let time =
        date.and_hms_opt(number(civil.hour())?, number(civil.minute())?, number(civil.second())?)?;
    Some(time.and_utc())
}

fn from_cron(time: &CronTime<Utc>) -> Option<DateTime> {
    Some(TimeZone::UTC.to_datetime(Timestamp::from_second(time.timestamp()).ok()?))
}
