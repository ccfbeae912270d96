//! Windows: when a host may fetch, switch or reboot.

use serde::{Deserialize, Serialize};

/// Most windows of one kind.
const MAX_WINDOWS: usize = 64;

/// Longest window: a week of seconds.
const MAX_LENGTH: u32 = 7 * 24 * 3600;

/// What [`Windows::is_consistent`] asks for.
pub(crate) const RULE: &str = "a window without five cron fields, a zone, or 60 s to a week";

/// Windows of each kind; none means always, several are a union.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
pub struct Window {
    /// When it opens: minute, hour, day of month, month, day of week.
    pub cron: String,
    /// The time zone that this is meant in, such as `Europe/Berlin`.
    pub zone: String,
    /// How long it stays open in seconds.
    pub length: u32,
}

impl Windows {
    /// Tells whether there is no window of any kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fetch.is_empty() && self.switch.is_empty() && self.reboot.is_empty()
    }

    /// Tells whether every window is one that could open; calendars are not asked.
    pub(crate) fn is_consistent(&self) -> bool {
        [&self.fetch, &self.switch, &self.reboot].into_iter().all(|windows| {
            windows.len() <= MAX_WINDOWS && windows.iter().all(Window::is_consistent)
        })
    }
}

impl Window {
    fn is_consistent(&self) -> bool {
        let field = |byte: u8| byte.is_ascii_alphanumeric() || b"*,-/".contains(&byte);
        let fields: Vec<&str> = self.cron.split(' ').collect();
        let zone = |byte: u8| byte.is_ascii_alphanumeric() || b"+-/_".contains(&byte);
        fields.len() == 5
            && fields.iter().all(|text| !text.is_empty() && text.bytes().all(field))
            && (1..=64).contains(&self.zone.len())
            && self.zone.bytes().all(zone)
            && (60..=MAX_LENGTH).contains(&self.length)
    }
}
