//! `registry init`: a new realm, its keys and its first signed files.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::{
    problem::{Kind, Problem},
    trust::{
        SigningKey,
        writer::{Document, Header, Keyring, Root, Targets, WriteError},
    },
};

use super::Context;
use crate::{
    files::{self, Existing, Readers},
    keys::{self, KeyError},
    realm::{self, OnlineKeys, RealmError},
    signer::{self, PassphraseArgs, Purpose},
    trusted_realm,
};

/// Make a new realm: its root of trust, its keys, its first files
///
/// The keys of `root` and `targets` go to your own folder, encrypted, and never to the server's
/// data. The server gets keys with which it can withhold, and nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that will be the server's
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// How long the first version of `root` lasts, in days.
const ROOT_DAYS: i64 = 365;
/// How long the first version of `targets` lasts, in days.
const TARGETS_DAYS: i64 = 60;

/// Makes the realm.
pub(crate) fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let settings = &context.settings;
    let name = trusted_realm::realm_name(settings)?;
    let data = args.data.unwrap_or_else(|| settings.data.value.clone());
    let root_file = trusted_realm::root_file(settings);
    let own_keys = signer::keys(settings);
    let files = realm::folder(&data, &name);
    let taken = [&files, &root_file, &own_keys.file("root"), &own_keys.file("targets")];
    if let Some(path) = taken.into_iter().find(|path| path.exists()) {
        return Err(exists(name.as_str(), path));
    }
    let question = format!("New passphrase for the root and targets keys of realm {name}");
    let passphrase = args.passphrase.read(Purpose::Seal, &question, context.output)?;

    let half_made = half_made(&files, &signer::folder(settings));
    let key_told = |error: KeyError| signer::problem(&error).fix(half_made.clone());
    let realm_told = |error: RealmError| {
        Problem::from_error(Kind::Runtime, "realm", &error).fix(half_made.clone())
    };
    let online = realm::open_or_create_keys(&data).map_err(realm_told)?;
    let enrolment = keys::open_online(&realm::online_key_file(&data, "enrolment"));
    let enrolment = enrolment.map_err(key_told)?.public();
    let root_key = keys::generate().map_err(key_told)?;
    let targets_key = keys::generate().map_err(key_told)?;
    own_keys.create("root", &root_key, &passphrase).map_err(key_told)?;
    own_keys.create("targets", &targets_key, &passphrase).map_err(key_told)?;
    let now = Timestamp::now();
    let (root, targets) = first_files(name.as_str(), &root_key, &targets_key, &online, now)
        .map_err(|error| Problem::from_error(Kind::Runtime, "metadata", &error))?;
    realm::create(&data, &name, &root, &targets, now).map_err(realm_told)?;
    // The signer's side comes last: while it is missing, nothing can be published.
    let known = signer::folder(settings).join("enrolment.pub");
    files::write(&known, format!("{enrolment}\n").as_bytes(), Readers::All, Existing::Replace)
        .and_then(|()| files::write(&root_file, &root, Readers::All, Existing::Keep))
        .map_err(|error| key_told(error.into()))?;
    tell(&data, &root, &enrolment.to_hex(), context)
}

fn tell(data: &Path, root: &[u8], enrolment: &str, context: &Context<'_>) -> Result<(), Problem> {
    let (output, settings) = (context.output, &context.settings);
    let (realm, fingerprint) = (&settings.realm.value, trusted_realm::fingerprint(root));
    output.say(&format!("Realm {realm}"));
    output.say(&format!("  your keys, to be kept safe: {}", signer::folder(settings).display()));
    output.say(&format!("  the server's folder:        {}", data.display()));
    output.say("  root fingerprint, which every host and team is given:");
    let serve = format!("registry serve --data {}", data.display());
    let create = "registry group create GROUP --cache URL --profile NAME:ACTIVATION";
    let json = json!({
        "schema": "init.v1",
        "realm": realm,
        "root_sha256": fingerprint,
        "enrolment": enrolment,
        "next": [serve, create],
    });
    output.data(&format!("{fingerprint}\n"), &json)?;
    output.say("Next:");
    output.say(&format!("  {serve}"));
    output.say(&format!("  {create}"));
    Ok(())
}

fn first_files(
    realm: &str,
    root_key: &SigningKey,
    targets_key: &SigningKey,
    online: &OnlineKeys,
    now: Timestamp,
) -> Result<(Vec<u8>, Vec<u8>), WriteError> {
    let header = |days: i64| {
        let lifetime = SignedDuration::from_hours(days * 24);
        let expires = now.saturating_add(lifetime).unwrap_or(Timestamp::MAX);
        Header { realm: realm.to_owned(), version: 1, expires: expires.into() }
    };
    let root = Root {
        header: header(ROOT_DAYS),
        root: Keyring::single(root_key.public()),
        targets: Keyring::single(targets_key.public()),
        snapshot: Keyring::single(online.snapshot.public()),
        timestamp: Keyring::single(online.timestamp.public()),
    };
    let targets = Targets::empty("targets", header(TARGETS_DAYS));
    Ok((signed(root.document()?, root_key), signed(targets.document()?, targets_key)))
}

fn signed(mut document: Document, key: &SigningKey) -> Vec<u8> {
    document.sign(key);
    document.to_bytes()
}

fn exists(realm: &str, path: &Path) -> Problem {
    Problem::new(Kind::Conflict, "exists", format!("realm `{realm}` is there already"))
        .because(format!("`{}` exists", path.display()))
        .leaves("nothing changed")
        .fix("choose another realm with --realm REALM, or another folder with --data DIR")
}

fn half_made(files: &Path, signer: &Path) -> String {
    format!(
        "the realm is half made and was never used: remove `{}` and `{}`, then try again",
        files.display(),
        signer.display(),
    )
}
