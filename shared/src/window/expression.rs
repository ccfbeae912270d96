//! Cron expressions as POSIX has them, made into what the crate `cron` takes.
//!
//! That crate wants six fields, counts Sunday as 1, and opens on days that are both the day of the
//! month and the day of the week. Here there are five, Sunday is 0 and 7, and both is an error.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use cron::Schedule;

use super::WindowError;

/// Longest expression in bytes.
const MAX_LEN: usize = 200;

/// A field: its name, and the numbers that it may have.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, words: &[] },
    Field { name: "hour", least: 0, most: 23, words: &[] },
    Field { name: "day of month", least: 1, most: 31, words: &[] },
    Field { name: "month", least: 1, most: 12, words: &MONTHS },
    Field { name: "day of week", least: 0, most: 7, words: &DAYS },
];

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Reads an expression.
pub(super) fn parse(cron: &str) -> Result<Schedule, WindowError> {
    let fields = || WindowError::Fields { cron: cron.to_owned() };
    let texts: Vec<&str> = cron.split(' ').collect();
    let texts: [&str; 5] = texts.try_into().map_err(|_| fields())?;
    if cron.len() > MAX_LEN || texts.iter().any(|text| text.is_empty()) {
        return Err(fields());
    }
    let mut written = vec!["0".to_owned()];
    for (field, text) in FIELDS.iter().zip(texts) {
        let numbers = field.numbers(text).map_err(|why| WindowError::Field {
            cron: cron.to_owned(),
            field: field.name,
            text: text.to_owned(),
            why,
        })?;
        written.push(field.write(text, &numbers));
    }
    let [_, _, day_of_month, _, day_of_week] = texts;
    if day_of_month != "*" && day_of_week != "*" {
        return Err(WindowError::BothDays { cron: cron.to_owned() });
    }
    let never = || WindowError::Never { cron: cron.to_owned() };
    let schedule = Schedule::from_str(&written.join(" ")).map_err(|_| fields())?;
    let some_time: DateTime<Utc> = DateTime::UNIX_EPOCH;
    schedule.after(&some_time).next().ok_or_else(never)?;
    Ok(schedule)
}

impl Field {
    /// Returns the numbers that a field stands for.
    fn numbers(&self, text: &str) -> Result<Vec<u32>, &'static str> {
        let mut numbers = Vec::new();
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => {
                    let step: u32 = step.parse().map_err(|_| "has a step that is no number")?;
                    if step == 0 {
                        return Err("has a step of 0");
                    }
                    if range != "*" && !range.contains('-') {
                        return Err("has a step, but no range that it goes through");
                    }
                    (range, step)
                }
                None => (item, 1),
            };
            let (first, last) = match range.split_once('-') {
                _ if range == "*" => (self.least, self.most.min(59)),
                Some((first, last)) => (self.number(first)?, self.number(last)?),
                None => (self.number(range)?, self.number(range)?),
            };
            if last < first {
                return Err("has a range that ends before it begins");
            }
            numbers.extend((first..=last).step_by(usize::try_from(step).unwrap_or(1)));
        }
        Ok(numbers)
    }

    fn number(&self, text: &str) -> Result<u32, &'static str> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.words.iter().position(|word| *word == lower) {
            return Ok(self.least.saturating_add(u32::try_from(at).unwrap_or(0)));
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits).ok_or("has what is no number")?;
        if !(self.least..=self.most).contains(&number) {
            return Err("has a number that it cannot have");
        }
        Ok(number)
    }

    /// Writes the numbers for the crate `cron`, whose names of days mean the same everywhere.
    fn write(&self, text: &str, numbers: &[u32]) -> String {
        if text == "*" {
            return text.to_owned();
        }
        let word = |number: &u32| {
            if self.name != "day of week" {
                return number.to_string();
            }
            let at = usize::try_from(*number % 7).unwrap_or(0);
            DAYS.get(at).copied().unwrap_or_default().to_ascii_uppercase()
        };
        numbers.iter().map(word).collect::<Vec<_>>().join(",")
    }
}
