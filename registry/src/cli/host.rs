//! `registry host`: lets hosts in.

use std::path::PathBuf;

use data_encoding::BASE32_NOPAD;
use jiff::Timestamp;
use rand::{TryRng as _, rngs::SysRng};
use serde_json::json;
use shared::{
    human,
    id::GroupName,
    problem::{Kind, Problem},
    time::Time,
};

use super::Context;
use crate::{
    db::{self, tokens},
    trusted_realm,
};

/// Let hosts in
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    EnrollToken(EnrollToken),
}

/// Print a token with which hosts can enrol; only its hash is kept
///
/// Runs where the server's folder is: whoever can write there lets hosts in. What hosts run is
/// not decided here.
#[derive(Debug, clap::Args)]
pub(crate) struct EnrollToken {
    /// A group of the hosts; repeat it for several
    #[arg(long, value_name = "GROUP", required = true)]
    group: Vec<GroupName>,
    /// How many hosts may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it lasts: a number and `s`, `m`, `h` or `d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    ttl: i64,
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Runs one of the commands.
pub(crate) fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    let Command::EnrollToken(args) = command;
    let realm = trusted_realm::realm_name(&context.settings)?;
    let data = args.data.unwrap_or_else(|| context.settings.data.value.clone());
    if !crate::realm::folder(&data, &realm).is_dir() {
        let what = format!("`{}` is not the folder of a server of realm `{realm}`", data.display());
        return Err(Problem::new(Kind::Usage, "no_data", what)
            .leaves("nothing changed")
            .fix("give the server's folder with --data DIR"));
    }
    let mut secret = [0; 32];
    SysRng.try_fill_bytes(&mut secret).map_err(|_| {
        Problem::new(Kind::Runtime, "random", "the operating system gave no randomness")
    })?;
    let token = format!("shoal-{}", BASE32_NOPAD.encode(&secret).to_lowercase());
    let now = Time::of(Timestamp::now());
    let grant = tokens::Grant {
        realm: realm.clone(),
        groups: args.group.clone(),
        uses: args.uses,
        expires_at: now.plus(args.ttl),
    };
    let stored = db::connect(&data).and_then(|db| tokens::create(&db, &token, &grant, now));
    stored.map_err(|error| {
        Problem::from_error(Kind::Runtime, "database", &error).leaves("nothing changed")
    })?;
    let groups: Vec<&str> = args.group.iter().map(GroupName::as_str).collect();
    let hosts = if args.uses == 1 { "one host".to_owned() } else { format!("{} hosts", args.uses) };
    let lasts = human::span(jiff::SignedDuration::from_secs(args.ttl));
    let output = context.output;
    output.say(&format!("For {hosts} of {}, for {lasts}:", groups.join(", ")));
    let json = json!({
        "schema": "enroll-token.v1",
        "token": token,
        "realm": realm,
        "groups": groups,
        "uses": args.uses,
        "expires_at": grant.expires_at,
    });
    output.data(&format!("{token}\n"), &json)
}

fn lifetime(text: &str) -> Result<i64, String> {
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
