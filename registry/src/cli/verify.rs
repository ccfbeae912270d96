//! `registry verify`: would a host believe all of this?

use std::path::PathBuf;

use owo_colors::OwoColorize as _;
use serde_json::json;
use shared::{
    id::TargetPath,
    problem::{Kind, Problem},
};

use super::Context;
use crate::{
    client::{Client, Source},
    trusted_realm::{self, TrustedRealm},
    verify::{self, Checked, Depth},
};

/// Verify all that is published, as a host would that has seen nothing before
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this manifest, `GROUP/PROFILE`, or policy, `GROUP/_policy`
    target: Option<TargetPath>,
    /// The closure indexes and hints, too
    #[arg(long)]
    all: bool,
    /// Read the server's folder, or a copy of it, instead of asking the registry
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Prints what was verified.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let settings = &context.settings;
    let realm = trusted_realm::realm_name(settings)?;
    let source = match &args.data {
        Some(data) => Source::Folder(crate::realm::folder(data, &realm)),
        None => Source::Http(Client::new(&settings.registry.value, realm.as_str())?),
    };
    // First with what this signer has seen before, which nobody may take back; then every file.
    TrustedRealm::open(settings, source.clone()).await?;
    let trusted = TrustedRealm::open_afresh(settings, source.clone()).await?;
    let depth = if args.all { Depth::Everything } else { Depth::Signed };
    let checked = verify::realm(&trusted, &source, args.target.as_ref(), depth).await?;
    answer(&checked, context)
}

fn answer(checked: &[Checked], context: &Context<'_>) -> Result<(), Problem> {
    let refused: Vec<&Checked> = checked.iter().filter(|one| one.outcome.is_err()).collect();
    let width = checked.iter().map(|one| one.what.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for one in checked {
        let (sign, said) = match &one.outcome {
            Ok(said) => ("✓".green().to_string(), said.clone()),
            Err(problem) => ("✗".red().bold().to_string(), problem.render()),
        };
        text.push_str(&format!("{sign} {:<width$}  {said}\n", one.what));
    }
    let json: Vec<_> = checked
        .iter()
        .map(|one| match &one.outcome {
            Ok(said) => json!({"what": one.what, "ok": true, "said": said}),
            Err(problem) => json!({"what": one.what, "ok": false, "problem": problem}),
        })
        .collect();
    let ok = refused.is_empty();
    context.output.data(&text, &json!({"schema": "verify.v1", "ok": ok, "checked": json}))?;
    let Some(first) = refused.first() else { return Ok(()) };
    let kind = match &first.outcome {
        Err(problem) if refused.len() == 1 => problem.kind,
        _ => Kind::Trust,
    };
    let what = format!("{} of {} are refused", refused.len(), checked.len());
    Err(Problem::new(kind, "refused", what)
        .because(refused.iter().map(|one| format!("`{}`", one.what)).collect::<Vec<_>>().join(", "))
        .leaves("hosts keep running what they run")
        .fix("publish these again, or restore the server's folder from a copy"))
}
