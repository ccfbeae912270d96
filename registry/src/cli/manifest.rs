//! `registry manifest show`: the current manifest, verified as a host would.

use serde_json::json;
use shared::{
    human,
    id::TargetPath,
    manifest::Manifest,
    problem::{Kind, Problem},
    version::SoftwareVersion,
};

use super::Context;
use crate::roles;

/// Look at published manifests
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the current manifest, verified as a host would
    Show {
        /// The manifest, `GROUP/PROFILE`
        target: TargetPath,
    },
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    let Command::Show { target } = command;
    let (realm, _) = roles::open(&context.settings).await?;
    let Some(verified) = realm.target(&target).await? else {
        let what = format!("nothing is published as `{target}`");
        return Err(Problem::new(Kind::Negative, "not_listed", what)
            .next(format!("registry publish manifest {target} PATH")));
    };
    let parsed = Manifest::parse(verified.get(), SoftwareVersion::current());
    let manifest = parsed
        .and_then(|manifest| manifest.check_place(realm.name(), &target).map(|()| manifest))
        .map_err(|error| Problem::from_error(Kind::Trust, "manifest", &error))?;
    let signers: Vec<String> = verified.signers().iter().map(ToString::to_string).collect();
    let role = format!("{} {}", verified.role(), verified.role_version());
    let text = render(&target, &manifest, &role, &signers);
    let json = json!({
        "schema": "manifest.v1",
        "target": target,
        "role": verified.role(),
        "role_version": verified.role_version(),
        "signers": signers,
        "manifest": manifest,
    });
    context.output.data(&text, &json)
}

fn render(target: &TargetPath, manifest: &Manifest, role: &str, signers: &[String]) -> String {
    let mut text = format!("{target} {}\n", manifest.version);
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{label:<14}{value}\n"));
        }
    };
    line("note", &manifest.note);
    let provenance: Vec<String> =
        manifest.provenance.iter().map(|(key, value)| format!("{key} {value}")).collect();
    line("provenance", &provenance.join(", "));
    line("epoch", &manifest.epoch.to_string());
    line("signed by", &format!("role {role}, key {}", signers.join(", ")));
    let activation = &manifest.activation;
    line("activation", &format!("{}, at most {} s", activation.kind, activation.timeout));
    if let Some(retire) = manifest.retire {
        line("retires", &format!("{retire:?}").to_lowercase());
    }
    if let Some(shards) = &manifest.shards {
        line(
            "entries",
            &format!("in {} shards, of which a host reads its own", shards.digests.len()),
        );
    }
    for entry in &manifest.entries {
        line(entry.selector.system.as_str(), &entry.path.to_string());
        let size = human::size(entry.nar_size);
        line("", &format!("{} paths, {size}, closure {}", entry.paths, entry.closure));
    }
    text
}
