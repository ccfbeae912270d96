//! Windows, by what is asked for on the command line.

use jiff::{SignedDuration, tz::TimeZone};
use shared::window::{Window, Windows};

/// What is asked for; without any of it, the windows stay as they were.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Windows")]
pub(crate) struct WindowArgs {
    /// Hosts may switch when this opens: `CRON ZONE LENGTH`, such as
    /// `0 2 * * 1-5 Europe/Berlin 2h`; several are a union, and replace those of before
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    switch_window: Vec<Window>,
    /// Hosts may fetch when this opens
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    fetch_window: Vec<Window>,
    /// Hosts may reboot when this opens
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    reboot_window: Vec<Window>,
    /// Forget all windows first
    #[arg(long)]
    no_windows: bool,
}

impl WindowArgs {
    /// Returns the windows of the next version.
    pub(crate) fn apply(&self, current: &Windows) -> Windows {
        let mut windows = if self.no_windows { Windows::default() } else { current.clone() };
        for (asked, kind) in [
            (&self.fetch_window, &mut windows.fetch),
            (&self.switch_window, &mut windows.switch),
            (&self.reboot_window, &mut windows.reboot),
        ] {
            if !asked.is_empty() {
                kind.clone_from(asked);
            }
        }
        windows
    }
}

/// Tells each window in one line.
pub(crate) fn describe(windows: &Windows) -> Vec<String> {
    let kinds =
        [("fetch", &windows.fetch), ("switch", &windows.switch), ("reboot", &windows.reboot)];
    let lines = kinds.into_iter().flat_map(|(kind, windows)| {
        windows.iter().map(move |Window { cron, zone, length }| {
            let length = shared::human::span(SignedDuration::from_secs((*length).into()));
            format!("window to {kind}: {cron} in {zone}, for {length}")
        })
    });
    lines.collect()
}

fn window(text: &str) -> Result<Window, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [cron @ .., zone, length] = words.as_slice() else {
        return Err("expected `CRON ZONE LENGTH`, such as `0 2 * * * Europe/Berlin 2h`".to_owned());
    };
    let window =
        Window { cron: cron.join(" "), zone: (*zone).to_owned(), length: seconds(length)? };
    window.check().map_err(|error| error.to_string())?;
    let known = window.calendar(|zone| TimeZone::get(zone).ok());
    known.map(|_| window).map_err(|error| error.to_string())
}

fn seconds(text: &str) -> Result<u32, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let span: SignedDuration = text.parse().map_err(|_| format!("`{text}` is no length"))?;
    u32::try_from(span.as_secs()).map_err(|_| format!("`{text}` is no length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_replace_the_windows_of_their_kind() {
        let night = window("0 2 * * 1-5 Europe/Berlin 2h").unwrap();
        assert_eq!((night.cron.as_str(), night.length), ("0 2 * * 1-5", 7200));
        let first = WindowArgs { switch_window: vec![night], ..WindowArgs::default() };
        let first = first.apply(&Windows::default());
        let fetch = vec![window("0 0 * * * UTC 3600").unwrap()];
        let second = WindowArgs { fetch_window: fetch, ..WindowArgs::default() }.apply(&first);
        assert_eq!(
            describe(&second),
            [
                "window to fetch: 0 0 * * * in UTC, for 1h",
                "window to switch: 0 2 * * 1-5 in Europe/Berlin, for 2h",
            ]
        );
        let none = WindowArgs { no_windows: true, ..WindowArgs::default() }.apply(&second);
        assert!(none.is_empty());
    }

    #[test]
    fn what_is_no_window_is_told() {
        let check = |text: &str, expected: &str| {
            let told = window(text).unwrap_err();
            assert!(told.contains(expected), "{text}: {told}");
        };
        check("2h", "expected `CRON ZONE LENGTH`");
        check("0 2 * * Europe/Berlin 2h", "has not five fields");
        check("0 2 * * * Europe/Atlantis 2h", "no time zone");
        check("0 2 * * * UTC soon", "`soon` is no length");
        check("0 2 1 * 1 UTC 2h", "a day of the month and a day of the week");
        check("0 2 * * * UTC 169h", "not a minute to a week");
    }
}
