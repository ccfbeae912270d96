//! `registry host`: lets hosts in, shows who is in, and shuts them out.

use std::collections::BTreeMap;

use serde_json::json;
use shared::{
    human,
    id::{GroupName, LabelName, LabelValue, RealmName},
    problem::{Kind, Problem},
};

mod look;

use look::Look;

use super::{
    Context,
    place::{Place, failed, fresh_token, lifetime, now},
};
use crate::{
    db::{
        Db as _, Sqlite,
        attempts::{AttemptQuery, AttemptRow},
        hosts::{HostRow, Revocation, Roster, Standing},
        tokens,
    },
    table,
};

/// Keys that are read at once.
const PAGE: usize = 500;

/// Attempts that are shown.
const ATTEMPTS: usize = 20;

/// Look at one host; let hosts in, see who is in, shut them out
///
/// A host is looked at from anywhere. The commands run where the server's folder is: whoever can
/// write there says whose reports count. What hosts run is not decided here.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    look: Look,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    EnrollToken(EnrollToken),
    List(List),
    Show(Show),
    Revoke(Revoke),
}

/// Print a token with which hosts can enrol; only its hash is kept
#[derive(Debug, clap::Args)]
pub(crate) struct EnrollToken {
    /// A group of the hosts; repeat it for several
    #[arg(long, value_name = "GROUP", required = true)]
    group: Vec<GroupName>,
    /// A label that every host that uses it must have; repeat it for several
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(LabelName, LabelValue)>,
    /// How many hosts may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it lasts: a number and `s`, `m`, `h` or `d`
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = lifetime)]
    ttl: i64,
    #[command(flatten)]
    place: Place,
}

/// List every key that ever enrolled, and whether its reports count
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
}

/// Show what the server's folder has of a host: its standing, its last report, its attempts
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Its name, or its id for one that another has replaced
    #[arg(value_name = "HOST")]
    host: String,
    #[command(flatten)]
    place: Place,
}

/// Take no more reports of a host, ever; it keeps what it runs
///
/// Its key cannot enrol again; the machine can, with a new key (remove `host.key` and `host.cert`
/// from the agent's state folder first). A revocation lives in the database, and by its backups.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// Its name, or its id for one that another has replaced
    #[arg(value_name = "HOST")]
    host: String,
    /// Why, for whoever looks later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    place: Place,
}

/// Runs one of the commands, or shows a host.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    match (args.command, &args.look.host) {
        (Some(Command::EnrollToken(args)), _) => enroll_token(args, context).await,
        (Some(Command::List(args)), _) => list(&args, context).await,
        (Some(Command::Show(args)), _) => show(&args, context).await,
        (Some(Command::Revoke(args)), _) => revoke(args, context).await,
        (None, Some(host)) => look::run(&args.look, host, context).await,
        (None, None) => Err(Problem::new(Kind::Usage, "usage", "no host is named")
            .leaves("nothing changed")
            .next("registry hosts")),
    }
}

async fn enroll_token(args: EnrollToken, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let token = fresh_token()?;
    let now = now();
    let grant = tokens::Grant {
        realm: realm.clone(),
        groups: args.group.clone(),
        labels: args.label.into_iter().collect::<BTreeMap<_, _>>(),
        uses: args.uses,
        expires_at: now.plus(args.ttl),
    };
    let (labels, expires_at) = (grant.labels.clone(), grant.expires_at);
    let stored = db.add_token(tokens::hash(&token), grant, now).await;
    stored.map_err(|error| failed(&error))?;
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
        "labels": labels,
        "uses": args.uses,
        "expires_at": expires_at,
    });
    output.data(&format!("{token}\n"), &json)
}

async fn list(args: &List, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let mut roster: Vec<Roster> = Vec::new();
    loop {
        let after = roster.last().map(|last| {
            let certificate = &last.certificate;
            format!("{} {}", certificate.name, certificate.host)
        });
        let page = db.roster(realm.clone(), after.unwrap_or_default(), PAGE).await;
        let page = page.map_err(|error| failed(&error))?;
        let is_last = page.len() < PAGE;
        roster.extend(page);
        if is_last {
            break;
        }
    }
    let rows: Vec<[String; 6]> = roster.iter().map(row).collect();
    let heading = ["HOST", "GROUPS", "STANDING", "ENROLLED", "UNTIL", "ID"];
    let mut text = table::render(heading, &rows);
    if roster.is_empty() {
        text = String::new();
        context.output.say("No host has enrolled yet.");
        context.output.say("Next: registry host enroll-token --group GROUP");
    }
    let json: Vec<_> = roster
        .iter()
        .map(|it| {
            json!({
                "certificate": it.certificate,
                "enrolled_at": it.enrolled_at,
                "reported_at": it.reported_at,
                "standing": standing_json(&it.standing),
            })
        })
        .collect();
    context.output.data(&text, &json!({"schema": "host-list.v1", "hosts": json}))
}

fn row(it: &Roster) -> [String; 6] {
    let groups: Vec<&str> = it.certificate.groups.iter().map(GroupName::as_str).collect();
    let standing = match &it.standing {
        Standing::Good => "good".to_owned(),
        Standing::Replaced => "replaced".to_owned(),
        Standing::Revoked(Revocation { why, .. }) => format!("revoked: {}", human::plain(why)),
    };
    [
        it.certificate.name.to_string(),
        groups.join(","),
        standing,
        it.enrolled_at.to_string(),
        it.certificate.not_after.to_string(),
        it.certificate.host.to_string().chars().take(16).collect(),
    ]
}

fn standing_json(standing: &Standing) -> serde_json::Value {
    match standing {
        Standing::Good => json!({"state": "good"}),
        Standing::Replaced => json!({"state": "replaced"}),
        Standing::Revoked(Revocation { at, why }) => {
            json!({"state": "revoked", "at": at, "reason": why})
        }
    }
}

async fn show(args: &Show, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let row = find(&db, &realm, &args.host).await?;
    let host = row.certificate.host;
    let attempts = db
        .attempts(AttemptQuery::latest(realm, host, ATTEMPTS))
        .await
        .map_err(|error| failed(&error))?;
    let told: Vec<_> =
        attempts.iter().map(|it| json!({"told_at": it.told_at, "profile": it.profile})).collect();
    let json = json!({
        "schema": "host-show.v1",
        "certificate": row.certificate,
        "enrolled_at": row.enrolled_at,
        "standing": standing_json(&row.standing),
        "state": row.shown,
        "reported_at": row.reported_at,
        "report": row.report,
        "attempts": told,
    });
    context.output.data(&describe(&row, &attempts), &json)
}

fn describe(row: &HostRow, attempts: &[AttemptRow]) -> String {
    let HostRow { certificate, enrolled_at, reported_at, standing, shown, .. } = row;
    let groups: Vec<&str> = certificate.groups.iter().map(GroupName::as_str).collect();
    let labels: Vec<String> =
        certificate.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let standing = match standing {
        Standing::Good => shown.to_string(),
        Standing::Replaced => "replaced by another key".to_owned(),
        Standing::Revoked(Revocation { at, why }) => {
            format!("revoked at {at}: {}", human::plain(why))
        }
    };
    let reported = reported_at.map_or_else(|| "never".to_owned(), |at| at.to_string());
    let mut text = format!(
        "{} · {standing}\nId        {}\nGroups    {}\nLabels    {}\nEnrolled  {enrolled_at}, \
         certificate until {}\nReported  {reported}\n",
        certificate.name,
        certificate.host,
        groups.join(", "),
        if labels.is_empty() { "none".to_owned() } else { labels.join(", ") },
        certificate.not_after,
    );
    if attempts.is_empty() {
        return text;
    }
    let rows: Vec<[String; 4]> = attempts
        .iter()
        .map(|AttemptRow { profile, .. }| {
            let wanted = profile.wanted.as_ref();
            let reason = profile.reason.as_ref().map(|reason| reason.text.as_str());
            [
                profile.since.to_string(),
                format!("{}/{}", profile.group, profile.profile),
                wanted.map_or_else(String::new, |it| format!("#{}", it.version)),
                format!("{} {}", profile.state, human::plain(reason.unwrap_or_default()))
                    .trim_end()
                    .to_owned(),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&table::render(["SINCE", "PROFILE", "WANTED", "OUTCOME"], &rows));
    text
}

async fn revoke(args: Revoke, context: &Context<'_>) -> Result<(), Problem> {
    let (db, realm) = args.place.open(context)?;
    let row = find(&db, &realm, &args.host).await?;
    let Some(why) = Some(args.reason.trim()).filter(|why| !why.is_empty() && why.len() <= 200)
    else {
        let what = "a reason has 1 to 200 letters";
        return Err(Problem::new(Kind::Usage, "reason", what).leaves("nothing changed"));
    };
    let host = row.certificate.host;
    let revocation = Revocation { at: now(), why: why.to_owned() };
    let known = db.revoke(realm, host, revocation.clone()).await.map_err(|error| failed(&error))?;
    if !known {
        return Err(no_host(&args.host));
    }
    let name = row.certificate.name;
    let text = format!("No more reports of {name} are taken; it keeps what it runs.\n");
    let json = json!({
        "schema": "host-revoke.v1", "host": name, "id": host, "at": revocation.at, "reason": why,
    });
    context.output.data(&text, &json)
}

async fn find(db: &Sqlite, realm: &RealmName, host: &str) -> Result<HostRow, Problem> {
    let found = db.host(realm.clone(), host.to_owned()).await;
    found.map_err(|error| failed(&error))?.ok_or_else(|| no_host(host))
}

fn no_host(host: &str) -> Problem {
    let what = format!("there is no host `{}`", host.escape_default());
    Problem::new(Kind::Negative, "no_host", what)
        .leaves("nothing changed")
        .next("registry host list")
}

/// Reads a label as people write it.
pub(super) fn label(text: &str) -> Result<(LabelName, LabelValue), String> {
    let (name, value) = text.split_once('=').ok_or("a label is written NAME=VALUE")?;
    let name = name.parse().map_err(|error: shared::id::IdError| error.to_string())?;
    Ok((name, value.parse().map_err(|error: shared::id::IdError| error.to_string())?))
}
