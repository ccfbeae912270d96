//! `Retry-After`: when a server wants to be asked again.

use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};

/// Reads the value of a `Retry-After` header: seconds, or an HTTP date.
///
/// A date is compared with the answer's own `Date` where there is one, so that it means the same
/// on a host whose clock is wrong. Returns nothing for what is neither; a time that has passed is
/// no wait.
#[must_use]
pub fn retry_after(value: &str, date: Option<&str>, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has mean for ever, not nothing.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let then = http_date(value)?;
    let from = date.and_then(http_date).unwrap_or(now);
    Some(Duration::try_from(then.duration_since(from)).unwrap_or(Duration::ZERO))
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may still be sent.
fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "1994-11-06T08:49:37Z";

    #[track_caller]
    fn check(value: &str, date: Option<&str>, expected: Option<u64>) {
        let wait = retry_after(value, date, NOW.parse().unwrap());
        assert_eq!(wait, expected.map(Duration::from_secs), "{value}");
    }

    #[test]
    fn takes_seconds() {
        check("0", None, Some(0));
        check(" 120 ", None, Some(120));
        check("99999999999999999999999", None, Some(u64::MAX));
    }

    #[test]
    fn takes_dates_and_measures_them_by_the_clock_of_the_server() {
        check("Sun, 06 Nov 1994 08:49:47 GMT", None, Some(10));
        check("Sun, 06 Nov 1994 08:49:27 GMT", None, Some(0));
        let wrong_clock = Some("Mon, 07 Nov 1994 10:00:00 GMT");
        check("Mon, 07 Nov 1994 10:00:05 GMT", wrong_clock, Some(5));
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some("nonsense"), Some(10));
    }

    #[test]
    fn ignores_what_is_neither() {
        for value in ["", "soon", "-1", "1.5", "+5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            check(value, None, None);
        }
    }
}
