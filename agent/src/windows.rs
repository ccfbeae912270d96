//! When this host may fetch, switch and reboot, by all who have a say: the manifest, the policy, the host.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use shared::window::{self, Opening, Window, WindowError, Windows};

/// What may be done now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Openings {
    /// Whether to fetch.
    pub(crate) fetch: Opening,
    /// Whether to switch.
    pub(crate) switch: Opening,
    /// Whether to reboot.
    pub(crate) reboot: Opening,
}

/// Returns what may be done at this time; all of the windows must let it.
pub(crate) fn look(windows: &[Windows], now: Timestamp) -> Openings {
    Openings {
        fetch: opening(windows, now, |windows| &windows.fetch),
        switch: opening(windows, now, |windows| &windows.switch),
        reboot: opening(windows, now, |windows| &windows.reboot),
    }
}

fn opening(windows: &[Windows], now: Timestamp, kind: fn(&Windows) -> &Vec<Window>) -> Opening {
    let list = |windows| -> Result<Vec<_>, WindowError> {
        kind(windows).iter().map(|window| window.calendar(zone)).collect()
    };
    let lists: Result<Vec<_>, WindowError> = windows.iter().map(list).collect();
    // Checked when they were accepted; a zone that this host has lost since then opens nothing.
    lists.map_or(Opening::Closed { until: None }, |lists| window::look(&lists, now))
}

/// Checks that this host can tell when they open.
pub(crate) fn check(windows: &Windows) -> Result<(), WindowError> {
    windows.check()?;
    windows.all().try_for_each(|window| window.calendar(zone).map(drop))
}

/// Returns the time zone of this name, by the host's own tables or else by ours.
fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(switch: &[(&str, &str)]) -> Windows {
        let window = |(cron, zone): &(&str, &str)| Window {
            cron: (*cron).to_owned(),
            zone: (*zone).to_owned(),
            length: 3600,
        };
        Windows { switch: switch.iter().map(window).collect(), ..Windows::default() }
    }

    #[test]
    fn each_kind_is_for_itself_and_all_must_agree() {
        let now = "2026-11-23T12:30:00Z".parse().unwrap();
        let night = windows(&[("0 2 * * *", "Europe/Berlin")]);
        let openings = look(std::slice::from_ref(&night), now);
        let until = Some("2026-11-24T01:00:00Z".parse().unwrap());
        assert_eq!(openings.fetch, Opening::Open);
        assert_eq!(openings.switch, Opening::Closed { until });
        let noon = windows(&[("0 12 * * *", "UTC")]);
        assert_eq!(look(std::slice::from_ref(&noon), now).switch, Opening::Open);
        assert_eq!(look(&[noon, night], now).switch, Opening::Closed { until: None });
    }

    #[test]
    fn what_cannot_be_told_opens_nothing_and_is_refused_beforehand() {
        let nowhere = windows(&[("0 2 * * *", "Europe/Atlantis")]);
        assert!(check(&nowhere).is_err());
        let openings = look(&[nowhere], Timestamp::UNIX_EPOCH);
        assert_eq!(openings.switch, Opening::Closed { until: None });
        assert_eq!(check(&windows(&[("0 2 * * *", "Europe/Berlin")])), Ok(()));
    }
}
