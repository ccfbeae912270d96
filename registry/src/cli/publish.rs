//! `registry publish manifest`: what a team does each day.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::json;
use shared::{
    id::{System, TargetPath},
    manifest::{ActivationKind, Retire},
    problem::{Kind, Problem},
};

use super::{Ask, Context};
use crate::{
    closure::StoreArgs,
    draft::Wish,
    health_edit::HealthArgs,
    host_roots::{self, HostRoots},
    publish::{self, Consent, Published, Request, Roots, What},
    signer::PassphraseArgs,
    window_edit::WindowArgs,
};

/// Publish signed desired state
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Manifest(Args),
}

/// Publish what the hosts of a group shall run as one profile
///
/// Checks that hosts can take every path of the closure, shows what changes, asks, signs with
/// your team's key and sends it to the registry.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest, `GROUP/PROFILE`
    target: TargetPath,
    /// The root of the closure: a store path, or a symlink to one such as `./result`
    #[arg(required_unless_present_any = ["retire", "hosts"], conflicts_with = "retire")]
    path: Option<String>,
    /// Give hosts roots of their own, by lines of `HOST PATH`; `HOST -` takes one away
    ///
    /// Hosts that it does not name keep theirs. PATH beside it is for those that have none.
    #[arg(long, value_name = "FILE", conflicts_with = "retire")]
    hosts: Option<PathBuf>,
    /// End the service: hosts `stop` it, or `keep` it running and look after it no more
    #[arg(long, value_name = "HOW", value_parser = retire)]
    retire: Option<Retire>,
    /// The system of the hosts that this is for
    #[arg(long, value_name = "SYSTEM")]
    system: Option<System>,
    /// How hosts activate it: `none`, `exec`, `systemd` or `nixos`
    #[arg(long, value_name = "KIND")]
    activation: Option<ActivationKind>,
    /// Seconds that an activation may take
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// What to say of this version
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Where it comes from, for example `git=9f3c…`
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    provenance: Vec<(String, String)>,
    /// Publish only over this version
    #[arg(long, value_name = "N")]
    if_version: Option<u32>,
    /// Show what would be published, and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Your key, where several would count
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    #[command(flatten)]
    health: HealthArgs,
    #[command(flatten)]
    windows: WindowArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    let Command::Manifest(args) = command;
    let target = args.target.clone();
    let consent =
        Consent { ask: args.ask, passphrase: args.passphrase.clone(), dry_run: args.dry_run };
    let request = request(args)?;
    let published = publish::publish(request, &consent, &context.settings, context.output).await?;
    answer(&target, &published, context)
}

fn request(args: Args) -> Result<Request, Problem> {
    let TargetPath::Manifest(group, profile) = &args.target else {
        let what = format!("`{}` is a policy, not a manifest", args.target);
        return Err(Problem::new(Kind::Usage, "target", what)
            .leaves("nothing changed")
            .next(format!("registry group set {} …", args.target.group())));
    };
    let (group, profile) = (group.clone(), profile.clone());
    let what = match args.retire {
        Some(retire) => What::Retire(retire),
        None => What::Run {
            roots: Roots {
                all: args.path.map(|path| args.store.resolve(&path)).transpose()?,
                hosts: match &args.hosts {
                    Some(file) => host_roots::read(file, &args.store)?,
                    None => HostRoots::new(),
                },
            },
            system: args.system.map_or_else(own_system, Ok)?,
            store: args.store,
        },
    };
    let wish = Wish {
        note: args.note,
        provenance: args.provenance.into_iter().collect::<BTreeMap<_, _>>(),
        activation: args.activation,
        timeout: args.timeout,
        health: args.health.read()?,
        windows: args.windows,
    };
    let (target, over, key) = (args.target, args.if_version, args.key);
    Ok(Request { target, group, profile, what, wish, over, key })
}

fn answer(
    target: &TargetPath,
    published: &Published,
    context: &Context<'_>,
) -> Result<(), Problem> {
    let manifest = &published.manifest;
    let text = match &published.receipt {
        Some(receipt) => format!(
            "Published {target} {} (role {} {}, timestamp {})\n",
            manifest.version, receipt.role, receipt.version, receipt.timestamp,
        ),
        None => format!("Would publish {target} {}\n", manifest.version),
    };
    let caches: Vec<_> =
        published.coverage.iter().map(|(url, paths)| json!({"url": url, "paths": paths})).collect();
    let json = json!({
        "schema": "publish.v1",
        "target": target,
        "epoch": manifest.epoch,
        "version": manifest.version,
        "entries": manifest.entries,
        "shards": manifest.shards.as_ref().map(|shards| shards.digests.len()),
        "health": manifest.health,
        "windows": manifest.windows,
        "retire": manifest.retire,
        "caches": caches,
        "diff": published.diff,
        "receipt": published.receipt,
    });
    context.output.data(&text, &json)
}

fn own_system() -> Result<System, Problem> {
    let system = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    System::parse(&system).map_err(|error| {
        Problem::from_error(Kind::Usage, "system", &error)
            .leaves("nothing changed")
            .fix("add --system SYSTEM")
    })
}

fn retire(text: &str) -> Result<Retire, String> {
    match text {
        "stop" => Ok(Retire::Stop),
        "keep" => Ok(Retire::Keep),
        _ => Err("expected `stop` or `keep`".to_owned()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
