use jiff::{SignedDuration, tz::TimeZoneDatabase};

use super::*;

fn zones(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

fn window(cron: &str, zone: &str, length: u32) -> Window {
    Window { cron: cron.to_owned(), zone: zone.to_owned(), length }
}

fn calendar(cron: &str, zone: &str, length: u32) -> Calendar {
    window(cron, zone, length).calendar(zones).unwrap()
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// Returns the openings behind a time, in the window's own zone.
fn openings(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let calendar = calendar(cron, zone, 60);
    let mut now = at(from);
    let mut openings = Vec::new();
    while openings.len() < count {
        now = calendar.opens_after(now).unwrap();
        assert!(calendar.is_open(now));
        openings.push(now.to_zoned(zones(zone).unwrap()).strftime("%a %F %R %:z").to_string());
    }
    openings
}

#[test]
fn weekdays_are_counted_as_posix_counts_them() {
    let check = |days: &str, expected: &[&str]| {
        let openings = openings(&format!("0 2 * * {days}"), "UTC", "2026-11-22T12:00:00Z", 7);
        let named: Vec<&str> = openings.iter().map(|opening| &opening[..3]).collect();
        assert_eq!(named, expected, "{days}");
    };
    check("0", &["Sun"; 7]);
    check("7", &["Sun"; 7]);
    check("SUN", &["Sun"; 7]);
    check("1-5", &["Mon", "Tue", "Wed", "Thu", "Fri", "Mon", "Tue"]);
    check("5-7", &["Fri", "Sat", "Sun", "Fri", "Sat", "Sun", "Fri"]);
    check("*/2", &["Tue", "Thu", "Sat", "Sun", "Tue", "Thu", "Sat"]);
    check("mon-wed,6", &["Mon", "Tue", "Wed", "Sat", "Mon", "Tue", "Wed"]);
    check("*", &["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]);
}

#[test]
fn a_window_in_the_skipped_hour_opens_right_behind_it() {
    let berlin = openings("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
    assert_eq!(berlin, ["Sun 2026-03-29 03:00 +02:00", "Mon 2026-03-30 02:30 +02:00"]);
    let calendar = calendar("30 2 * * *", "Europe/Berlin", 1800);
    assert!(!calendar.is_open(at("2026-03-29T00:59:59Z")));
    assert!(calendar.is_open(at("2026-03-29T01:00:00Z")));
    assert!(calendar.is_open(at("2026-03-29T01:29:59Z")));
    assert!(!calendar.is_open(at("2026-03-29T01:30:00Z")));
    // Samoa skipped a whole day.
    let samoa = openings("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00:00Z", 2);
    assert_eq!(samoa, ["Thu 2011-12-29 12:00 -10:00", "Sat 2011-12-31 00:00 +14:00"]);
}

#[test]
fn a_window_in_the_repeated_hour_opens_once() {
    let berlin = openings("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
    assert_eq!(berlin, ["Sun 2026-10-25 02:30 +02:00", "Mon 2026-10-26 02:30 +01:00"]);
    let calendar = calendar("30 2 * * *", "Europe/Berlin", 1800);
    assert!(calendar.is_open(at("2026-10-25T00:30:00Z")), "the first time");
    assert!(calendar.is_open(at("2026-10-25T00:59:59Z")));
    assert!(!calendar.is_open(at("2026-10-25T01:30:00Z")), "and not the second");
    // While the clocks show an earlier time again, it is open as long as it should be.
    let long = window("45 2 * * *", "Europe/Berlin", 3600).calendar(zones).unwrap();
    assert!(long.is_open(at("2026-10-25T01:10:00Z")), "02:10 again, 25 minutes after it opened");
    assert!(!long.is_open(at("2026-10-25T01:45:00Z")));
}

#[test]
fn months_and_days_that_not_all_years_have() {
    let leap = openings("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", 2);
    assert_eq!(leap, ["Tue 2028-02-29 00:00 +00:00", "Sun 2032-02-29 00:00 +00:00"]);
    let year = openings("59 23 31 dec *", "UTC", "2026-12-31T23:59:00Z", 1);
    assert_eq!(year, ["Fri 2027-12-31 23:59 +00:00"]);
    let past = calendar("0 0 1 1 *", "UTC", 60).opens_after(at("2101-06-01T00:00:00Z"));
    assert_eq!(past, None, "nobody has planned so far ahead");
}

#[test]
fn says_what_is_wrong_with_a_window() {
    let check = |cron: &str, expected: &str| {
        let told = window(cron, "UTC", 60).check().unwrap_err().to_string();
        assert!(told.contains(expected), "{cron}: {told}");
    };
    for cron in ["", "* * * *", "* * * * * *", "@daily", "*  * * *", " * * * *"] {
        check(cron, "has not five fields");
    }
    check("60 * * * *", "the minute `60` has a number that it cannot have");
    check("* 24 * * *", "the hour `24`");
    check("* * 0 * *", "the day of month `0`");
    check("* * * 13 *", "the month `13`");
    check("* * * * 8", "the day of week `8`");
    check("* 22-2 * * *", "ends before it begins");
    check("5/15 * * * *", "no range that it goes through");
    check("*/0 * * * *", "a step of 0");
    check("*/x * * * *", "a step that is no number");
    check("1,,2 * * * *", "no number");
    check("* * * * L", "no number");
    check("* * 1 * 1", "names a day of the month and a day of the week");
    check("0 0 30 2 *", "never opens");
    let told = window("0 0 * * *", "UTC", 59).check().unwrap_err().to_string();
    assert!(told.contains("not a minute to a week"), "{told}");
    let nowhere = window("0 0 * * *", "Europe/Atlantis", 60);
    assert_eq!(nowhere.check(), Ok(()), "whoever opens it must know it");
    let told = nowhere.calendar(zones).unwrap_err().to_string();
    assert!(told.contains("no time zone `Europe/Atlantis`"), "{told}");
    assert!(window("0 0 * * *", "../etc/passwd", 60).check().is_err());
    let many = Windows { fetch: vec![window("0 0 * * *", "UTC", 60); 50], ..Windows::default() };
    assert_eq!(many.check(), Err(WindowError::TooMany));
}

#[test]
fn lists_are_unions_and_together_they_narrow_each_other() {
    let now = at("2026-11-23T12:00:00Z");
    let list = |crons: &[&str]| -> Vec<Calendar> {
        crons.iter().map(|cron| calendar(cron, "UTC", 3600)).collect()
    };
    let check = |lists: &[&[&str]], expected: Opening| {
        let lists: Vec<_> = lists.iter().map(|crons| list(crons)).collect();
        assert_eq!(look(&lists, now), expected, "{lists:?}");
    };
    let closed = |until: &str| Opening::Closed { until: Some(at(until)) };
    check(&[], Opening::Open);
    check(&[&[], &[]], Opening::Open);
    check(&[&["0 2 * * *"], &[]], closed("2026-11-24T02:00:00Z"));
    check(&[&["0 2 * * *", "30 11 * * *"]], Opening::Open);
    check(&[&["0 2 * * *"], &["30 2 * * *"]], closed("2026-11-24T02:30:00Z"));
    check(&[&["0 2 * * *"], &["30 2 * * 6"], &["0 * * * *"]], closed("2026-11-28T02:30:00Z"));
    check(&[&["0 2 * * *"], &["0 4 * * *"]], Opening::Closed { until: None });
}

#[test]
fn an_opening_that_is_told_is_the_first_one() {
    // Beside the definition: minute for minute, through both changes of 2026.
    for (cron, zone) in [("30 2 * * *", "Europe/Berlin"), ("*/40 1-3 * * 0", "America/New_York")] {
        let (calendar, zone) = (calendar(cron, zone, 600), zones(zone).unwrap());
        for day in ["2026-03-08", "2026-03-29", "2026-10-25", "2026-11-01"] {
            let mut now = at(&format!("{day}T00:00:00Z"));
            let end = now.checked_add(SignedDuration::from_hours(26)).unwrap();
            let mut opens = calendar.opens_after(now).unwrap();
            while now < end {
                let shown = now.to_zoned(zone.clone());
                assert!(now <= opens, "{shown}: an opening was passed over");
                assert_eq!(calendar.opens_after(now) == Some(opens), now < opens, "{shown}");
                if now == opens {
                    assert!(calendar.is_open(now), "{shown}");
                    opens = calendar.opens_after(now).unwrap();
                }
                now = now.checked_add(SignedDuration::from_secs(60)).unwrap();
            }
        }
    }
}
