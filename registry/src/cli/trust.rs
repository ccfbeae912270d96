//! `registry trust`: which root of trust this signer goes by.

use serde_json::json;
use shared::{
    problem::{Kind, Problem},
    trust::Rules,
};

use super::{Ask, Context};
use crate::{
    client::{Client, Source},
    files::{self, Existing, Readers},
    roles,
    signer::{self, PassphraseArgs},
    table, trusted_realm,
};

/// Choose and show the root of trust of a realm
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Get the first root of the realm from its registry, and go by it from now on
    Pin {
        /// Its fingerprint, from whoever set the realm up; not from the registry
        #[arg(value_name = "SHA256")]
        fingerprint: String,
    },
    /// Show the versions of the realm's roles and when they end
    Show,
    Renew(Renew),
}

/// Sign the role `targets` anew, with nothing changed but its version and expiry
#[derive(Debug, clap::Args)]
pub(crate) struct Renew {
    /// Your key for the role `targets`
    #[arg(long, value_name = "NAME", default_value = "targets")]
    key: String,
    #[command(flatten)]
    ask: Ask,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Pin { fingerprint } => pin(&fingerprint, context).await,
        Command::Show => show(context).await,
        Command::Renew(args) => renew(args, context).await,
    }
}

async fn pin(wanted: &str, context: &Context<'_>) -> Result<(), Problem> {
    let settings = &context.settings;
    let realm = trusted_realm::realm_name(settings)?;
    let source = Source::Http(Client::new(&settings.registry.value, realm.as_str())?);
    let max = Rules::shoal(realm.as_str()).sizes.root;
    let got = source.get("metadata/1.root.json", max).await;
    let root = got.map_err(|error| error.problem())?.ok_or_else(|| {
        Problem::new(Kind::Usage, "no_realm", format!("the registry has no realm `{realm}`"))
            .leaves("nothing changed")
    })?;
    let found = trusted_realm::fingerprint(&root);
    if found != wanted.trim_start_matches("SHA256:").to_ascii_lowercase() {
        return Err(Problem::new(Kind::Trust, "fingerprint", "this is another root of trust")
            .because(format!("its fingerprint is `{found}`"))
            .leaves("nothing changed")
            .fix("ask whoever set the realm up for the fingerprint and the registry's address"));
    }
    let path = trusted_realm::root_file(settings);
    files::private_folder(&signer::folder(settings))
        .and_then(|()| files::write(&path, &root, Readers::All, Existing::Keep))
        .map_err(|error| {
            let there = error.source.kind() == std::io::ErrorKind::AlreadyExists;
            let kind = if there { Kind::Conflict } else { Kind::Runtime };
            Problem::from_error(kind, "root", &error)
                .leaves("nothing changed")
                .next("registry trust show")
        })?;
    context.output.say(&format!("Realm {realm} is trusted by {}", path.display()));
    let json = json!({"schema": "trust-pin.v1", "realm": realm, "root_sha256": found});
    context.output.data(&format!("{found}\n"), &json)
}

async fn renew(args: Renew, context: &Context<'_>) -> Result<(), Problem> {
    let (_, client) = roles::open_to_sign(&context.settings).await?;
    let consent = roles::Consent { key: &args.key, ask: args.ask, passphrase: &args.passphrase };
    let receipt = roles::change_targets(context, &client, consent, |_| Ok(())).await?;
    let text = format!("Renewed targets (version {})\n", receipt.version);
    context.output.data(&text, &json!({"schema": "trust-renew.v1", "receipt": receipt}))
}

async fn show(context: &Context<'_>) -> Result<(), Problem> {
    let (realm, _) = roles::open(&context.settings).await?;
    let trusted = realm.trusted();
    let roles = ["root", "targets", "snapshot", "timestamp"];
    let text = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
    let rows: Vec<[String; 3]> = roles
        .iter()
        .map(|role| {
            let version = trusted.version(role).map(|version| version.to_string());
            let expires = trusted.expires(role).map(|time| time.to_string());
            [(*role).to_owned(), text(version), text(expires)]
        })
        .collect();
    let json: Vec<_> = roles
        .iter()
        .map(|role| {
            let expires = trusted.expires(role).map(|time| time.to_string());
            json!({"role": role, "version": trusted.version(role), "expires": expires})
        })
        .collect();
    let text = table::render(["ROLE", "VERSION", "EXPIRES"], &rows);
    let signed_at = trusted.signed_at().map(|time| time.to_string());
    let json = json!({
        "schema": "trust.v1",
        "realm": realm.name(),
        "signed_at": signed_at,
        "roles": json,
    });
    context.output.data(&text, &json)
}
