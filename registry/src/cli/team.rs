//! `registry team`: who may publish what.

use serde_json::json;
use shared::{
    id::TeamName,
    problem::{Kind, Problem},
    trust::{
        PublicKey,
        fence::Pattern,
        writer::{Delegation, Keyring, Targets},
    },
};

mod show;

use super::{Ask, Context, resolve_key};
use crate::{
    roles,
    signer::{self, PassphraseArgs},
    table,
};

/// Let teams publish, each inside its fence
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Add(Add),
    /// List the teams, their keys and what they may publish
    List,
    /// Show a team: what it may publish, its keys, what it has published
    Show {
        /// The team
        team: TeamName,
    },
}

/// Let a team publish what its patterns match
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The team
    team: TeamName,
    /// A key of the team: a name in your folder, or 64 hexadecimal digits
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<String>,
    /// What it may publish: `GROUP/PROFILE`, where GROUP may be `*` and PROFILE may end in `*`
    #[arg(long, value_name = "PATTERN", required = true)]
    may: Vec<Pattern>,
    /// How many of its keys must sign
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
    /// Replace the keys and patterns of a team that is there
    #[arg(long)]
    replace: bool,
    /// Your key for the role `targets`
    #[arg(long, value_name = "NAME", default_value = "targets")]
    sign_with: String,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Add(args) => add(args, context).await,
        Command::List => list(context).await,
        Command::Show { team } => show::show(&team, context).await,
    }
}

async fn add(args: Add, context: &Context<'_>) -> Result<(), Problem> {
    let folder = signer::keys(&context.settings);
    let keys: Vec<PublicKey> =
        args.key.iter().map(|key| resolve_key(key, &folder)).collect::<Result<_, _>>()?;
    let wanted = Delegation {
        role: args.team.to_string(),
        ring: Keyring { keys, threshold: args.threshold },
        patterns: args.may.clone(),
    };
    let (realm, client) = roles::open_to_sign(&context.settings).await?;
    // What would be refused is told before anyone types a passphrase.
    let mut trial = realm.trusted().targets().map_err(|error| roles::problem(&error))?;
    delegate(&mut trial, &wanted, args.replace)?;
    trial.document().map_err(|error| roles::problem(&error))?;
    let change = |targets: &mut Targets| delegate(targets, &wanted, args.replace);
    let (key, ask, passphrase) = (args.sign_with.as_str(), args.ask, &args.passphrase);
    let consent = roles::Consent { key, ask, passphrase };
    let receipt = roles::change_targets(context, &client, consent, change).await?;
    let patterns: Vec<String> = args.may.iter().map(Pattern::to_string).collect();
    let text = format!(
        "Team {} may publish {} (role targets {}, timestamp {})\n",
        args.team,
        patterns.join(", "),
        receipt.version,
        receipt.timestamp,
    );
    let json = json!({
        "schema": "team.v1",
        "team": args.team,
        "patterns": patterns,
        "keys": wanted.ring.keys.iter().map(PublicKey::to_hex).collect::<Vec<_>>(),
        "threshold": args.threshold,
        "receipt": receipt,
    });
    context.output.data(&text, &json)
}

fn delegate(targets: &mut Targets, wanted: &Delegation, replace: bool) -> Result<(), Problem> {
    let known = targets.delegations.iter().any(|known| known.role == wanted.role);
    if known && !replace {
        let what = format!("team `{}` is there already", wanted.role);
        return Err(Problem::new(Kind::Conflict, "exists", what)
            .leaves("nothing changed")
            .fix("add --replace to give it these keys and patterns instead")
            .next("registry team list"));
    }
    if known {
        targets.undelegate(&wanted.role).map_err(|error| roles::problem(&error))?;
    }
    targets.delegate(wanted.clone()).map_err(|error| roles::problem(&error))
}

async fn list(context: &Context<'_>) -> Result<(), Problem> {
    let (realm, _) = roles::open(&context.settings).await?;
    let targets = realm.trusted().targets().map_err(|error| roles::problem(&error))?;
    let mut rows = Vec::new();
    let mut json = Vec::new();
    for delegation in &targets.delegations {
        if TeamName::parse(&delegation.role).is_err() {
            continue;
        }
        let version = realm.trusted().pinned_version(&delegation.role);
        let patterns: Vec<String> = delegation.patterns.iter().map(Pattern::to_string).collect();
        let keys: Vec<String> = delegation.ring.keys.iter().map(PublicKey::to_hex).collect();
        rows.push([
            delegation.role.clone(),
            patterns.join(" "),
            version.map_or_else(|| "nothing yet".to_owned(), |version| version.to_string()),
            format!("{} of {}", delegation.ring.threshold, keys.len()),
            keys.join(" "),
        ]);
        json.push(json!({
            "team": delegation.role,
            "patterns": patterns,
            "version": version,
            "threshold": delegation.ring.threshold,
            "keys": keys,
        }));
    }
    let text = if rows.is_empty() {
        context.output.say("There are no teams yet. Next: registry team add TEAM");
        String::new()
    } else {
        table::render(["TEAM", "MAY PUBLISH", "ROLE VERSION", "SIGN", "KEYS"], &rows)
    };
    context.output.data(&text, &json!({"schema": "teams.v1", "teams": json}))
}
