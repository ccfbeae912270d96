//! `registry recover`: a server that was restored from a backup, above what hosts have seen.

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;
use shared::{
    human,
    problem::{Kind, Problem},
    time::Time,
};

use super::{Context, backup::problem};
use crate::{
    backup::{self, BackupError},
    db::{
        Db as _, Sqlite,
        events::{Event, What},
    },
    realm::{OnlineKeys, Realm},
    recover::{self, Taken},
    serve, trusted_realm,
};

/// How far hosts are believed to be ahead without a word of the operator: they could lie, and
/// versions end at 2^32.
const FAR: u64 = 1_000_000;

/// Bring a restored server above the versions that hosts have seen
///
/// The server must not run. Hosts tell of what they have seen in their reports, so let the restored
/// server run for some minutes first. What was published since the backup is taken from a copy of
/// the files if there is one; what nobody has is to be published again, by its team.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder with newer files, such as a mirror; repeat it for several
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// The version of a timestamp to go above, instead of what hosts told of
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX) - FAR))]
    above: Option<u64>,
    /// The server's folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Recovers a realm.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let data = args.data.unwrap_or_else(|| context.settings.data.value.clone());
    let name = trusted_realm::realm_name(&context.settings)?;
    let failed = |error: BackupError| problem(&error).leaves("nothing changed");
    let _lock = serve::lock(&data).map_err(|error| failed(error.into()))?;
    let keys = OnlineKeys::open(&data).map_err(|error| failed(error.into()))?;
    let realm = Realm::open(&data, name.clone(), keys).map_err(|error| failed(error.into()))?;
    let db = Sqlite::open(&data).map_err(|error| failed(error.into()))?;
    let restored = backup::restored(&data).map_err(failed)?;
    let ahead = db.seen_ahead(name.clone()).await.map_err(|error| failed(error.into()))?;
    let before = realm.version("timestamp");
    if restored.is_none() && ahead.is_none() && args.from.is_empty() && args.above.is_none() {
        let what = format!("nobody has seen more of realm `{name}` than timestamp {before}");
        return Err(
            Problem::new(Kind::Negative, "nothing_to_recover", what).leaves("nothing changed")
        );
    }
    let seen = args.above.or_else(|| ahead.as_ref().map(|ahead| ahead.timestamp)).unwrap_or(0);
    if args.above.is_none() && seen > before + FAR {
        let told = ahead.map(|ahead| ahead.host.to_string()).unwrap_or_default();
        let what = format!("host {told} says that it has seen timestamp {seen}, ours is {before}");
        return Err(Problem::new(Kind::Conflict, "far_ahead", what)
            .leaves("nothing changed")
            .fix("revoke the host if it lies; else name the version with --above"));
    }
    let now = Timestamp::now();
    let mut taken: Vec<Taken> = Vec::new();
    for folder in &args.from {
        let more = recover::take_from(&realm, folder, now);
        taken.extend(more.map_err(|error| {
            Problem::from_error(Kind::Trust, "recover", &error)
                .leaves("what was taken before is kept")
                .fix("name a newer copy, or let the team publish again")
        })?);
    }
    realm.rise_above(seen, now).map_err(|error| failed(error.into()))?;
    let after = realm.version("timestamp");
    let roles: Vec<String> =
        taken.iter().map(|it| format!("{} version {}", it.role, it.version)).collect();
    let detail = format!("timestamp {before} → {after}; taken: {}", roles.join(", "));
    let (at, what, subject) = (Time::of(now), What::Recovered, "registry".to_owned());
    let event = Event { realm: name.clone(), at, what, subject, detail };
    db.note(event).await.map_err(|error| failed(error.into()))?;
    db.forget_ahead(name).await.map_err(|error| failed(error.into()))?;
    backup::recovered(&data).map_err(failed)?;
    let versions = human::count(taken.len(), "version");
    let text = format!("Timestamp {before} → {after}, {versions} of roles taken from copies.\n");
    if taken.is_empty() {
        context.output.say("What was published since the backup is to be published again.");
    }
    let json = json!({
        "schema": "recover.v1", "from": before, "to": after, "seen": seen, "taken": roles,
    });
    context.output.data(&text, &json)
}
