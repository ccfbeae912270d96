//! What the commands share that run where the server's folder is.

use std::path::PathBuf;

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use rand::{TryRng as _, rngs::SysRng};
use shared::{
    id::RealmName,
    problem::{Kind, Problem},
    time::Time,
};

use super::Context;
use crate::{
    db::{DbError, Sqlite},
    trusted_realm,
};

/// Where the server's folder is.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Place {
    /// Opens the database of the server that has this realm.
    pub(super) fn open(&self, context: &Context<'_>) -> Result<(Sqlite, RealmName), Problem> {
        let realm = trusted_realm::realm_name(&context.settings)?;
        let data = self.data.clone().unwrap_or_else(|| context.settings.data.value.clone());
        if !crate::realm::folder(&data, &realm).is_dir() {
            let what =
                format!("`{}` is not the folder of a server of realm `{realm}`", data.display());
            return Err(Problem::new(Kind::Usage, "no_data", what)
                .leaves("nothing changed")
                .fix("give the server's folder with --data DIR"));
        }
        Ok((Sqlite::open(&data).map_err(|error| failed(&error))?, realm))
    }
}

/// Makes a token: 256 random bits, and what tells whoever finds it what it is.
pub(super) fn fresh_token() -> Result<String, Problem> {
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(|_| {
        Problem::new(Kind::Runtime, "random", "the operating system gave no randomness")
    })?;
    Ok(format!("shoal-{}", BASE32_NOPAD.encode(&secret).to_lowercase()))
}

/// Says that the database failed.
pub(super) fn failed(error: &DbError) -> Problem {
    Problem::from_error(Kind::Runtime, "database", error).leaves("nothing changed")
}

/// Returns the time in whole seconds.
pub(super) fn now() -> Time {
    Time::of(Timestamp::now())
}

/// Reads how long a token lasts, in seconds.
pub(super) fn lifetime(text: &str) -> Result<i64, String> {
    let told = || format!("`{text}` is not a number and `s`, `m`, `h` or `d`");
    let unit = text.chars().last().ok_or_else(told)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(told()),
    };
    let number: i64 = text.trim_end_matches(unit).parse().map_err(|_| told())?;
    match number.checked_mul(seconds) {
        Some(total) if (1..=366 * 86_400).contains(&total) => Ok(total),
        Some(_) | None => Err("a token lasts at least a second and at most a year".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_a_unit_and_an_end() {
        assert_eq!(lifetime("90m"), Ok(5400));
        assert_eq!(lifetime("7d"), Ok(604_800));
        for text in ["", "5", "h", "-1h", "1w", "0s", "367d", "9223372036854775807d"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }
}
