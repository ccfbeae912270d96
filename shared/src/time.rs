//! Points in time as all our formats write them: `YYYY-MM-DDTHH:MM:SSZ`, no fraction.

use std::fmt;

use jiff::Timestamp;

/// A point in time in whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Timestamp);

/// A text that is not of the form `YYYY-MM-DDTHH:MM:SSZ`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a time of the form `YYYY-MM-DDTHH:MM:SSZ`", .0.escape_default())]
pub struct TimeError(pub String);

impl Time {
    /// Parses exactly `YYYY-MM-DDTHH:MM:SSZ`.
    ///
    /// # Errors
    ///
    /// If the text is of another form, also one that means the same, or no such time exists.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let error = || TimeError(text.chars().take(40).collect());
        if text.len() != 20 {
            return Err(error());
        }
        let time = Self(text.parse().map_err(|_| error())?);
        if time.to_string() == text { Ok(time) } else { Err(error()) }
    }

    /// Returns the whole second that the timestamp lies in.
    #[must_use]
    pub fn of(timestamp: Timestamp) -> Self {
        Self(Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
    }

    /// Returns seconds since 1970.
    #[must_use]
    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// Returns the time this many seconds later, or the last one that can be told.
    #[must_use]
    pub fn plus(self, seconds: i64) -> Self {
        let second = self.as_second().saturating_add(seconds);
        Self(Timestamp::from_second(second).unwrap_or(Timestamp::MAX))
    }
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self::of(timestamp)
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Time {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        Self::parse(text)
    }
}

impl serde::Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_what_it_parsed() {
        for text in ["1970-01-01T00:00:00Z", "2026-02-28T23:59:59Z", "9999-12-30T22:00:00Z"] {
            assert_eq!(Time::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_other_ways_to_say_the_same() {
        for text in [
            "",
            "2026-02-28T23:59:59",
            "2026-02-28t23:59:59z",
            "2026-02-28 23:59:59Z",
            "2026-02-28T23:59:59.0Z",
            "2026-02-28T23:59:59+00:00",
            "2026-02-29T00:00:00Z",
            "2026-02-28T23:59:60Z",
            "2026-02-28T24:00:00Z",
            "+002026-02-28T23:59Z",
        ] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fraction_is_cut_off() {
        let timestamp: Timestamp = "2026-02-28T23:59:59.999Z".parse().unwrap();
        assert_eq!(Time::of(timestamp).to_string(), "2026-02-28T23:59:59Z");
    }

    proptest! {
        #[test]
        fn every_second_survives_the_round_trip(second in 0_i64..253_402_207_200) {
            let time = Time::of(Timestamp::from_second(second).unwrap());
            prop_assert_eq!(Time::parse(&time.to_string()), Ok(time));
        }
    }
}
