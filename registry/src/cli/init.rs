//! `registry init`: a new realm, its keys and its first signed files.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::{
    problem::{Kind, Problem},
    trust::{
        SigningKey,
        writer::{self, Document, Header, Keyring, Root, Snapshot, Target, Targets},
    },
};

use super::Context;
use crate::{
    files::{self, Existing, Readers, WriteError},
    keys::{self, KeyError},
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

/// How long each role's first version lasts, in days.
const ROOT_DAYS: i64 = 365;
const TARGETS_DAYS: i64 = 60;
const SNAPSHOT_DAYS: i64 = 7;
const TIMESTAMP_DAYS: i64 = 3;

/// All keys of a new realm.
struct Keys {
    root: SigningKey,
    targets: SigningKey,
    snapshot: SigningKey,
    timestamp: SigningKey,
    enrolment: SigningKey,
}

/// Makes the realm.
pub(crate) fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let settings = &context.settings;
    let realm = trusted_realm::realm_name(settings)?;
    let data = args.data.unwrap_or_else(|| settings.data.value.clone());
    let metadata = data.join("r").join(realm.as_str()).join("metadata");
    let root_file = trusted_realm::root_file(settings);
    let signer_keys = signer::keys(settings);
    let online = data.join("keys");
    let taken = [
        metadata.clone(),
        root_file.clone(),
        signer_keys.file("root"),
        signer_keys.file("targets"),
        online.join("snapshot.pem"),
    ];
    if let Some(path) = taken.iter().find(|path| path.exists()) {
        return Err(exists(realm.as_str(), path));
    }

    let made = make_keys().map_err(|error| signer::problem(&error))?;
    let question = format!("New passphrase for the root and targets keys of realm {realm}");
    let passphrase = args.passphrase.read(Purpose::Seal, &question, context.output)?;
    let files = first_files(realm.as_str(), &made, Timestamp::now())?;
    let told = |error: KeyError| signer::problem(&error).fix(half_made(&data, &root_file));
    store_keys(&made, &signer_keys, &passphrase, &online).map_err(told)?;
    store_files(&files, &metadata).map_err(|error| told(error.into()))?;
    // The signer's side comes last: while it is missing, nothing can be published.
    let enrolment = signer::folder(settings).join("enrolment.pub");
    let public = format!("{}\n", made.enrolment.public());
    files::write(&enrolment, public.as_bytes(), Readers::All, Existing::Replace)
        .and_then(|()| files::write(&root_file, &files.root, Readers::All, Existing::Keep))
        .map_err(|error| told(error.into()))?;

    let fingerprint = trusted_realm::fingerprint(&files.root);
    let output = context.output;
    output.say(&format!("Realm {realm}"));
    output.say(&format!("  your keys, to be kept safe: {}", signer::folder(settings).display()));
    output.say(&format!("  the server's folder:        {}", data.display()));
    output.say(&format!("  enrolment key:              {}", made.enrolment.public()));
    output.say("  root fingerprint, which every host and team is given:");
    let serve = format!("registry serve --data {}", data.display());
    let create = "registry group create GROUP --cache URL --profile NAME:ACTIVATION";
    let json = json!({
        "schema": "init.v1",
        "realm": realm,
        "root_sha256": fingerprint,
        "enrolment": made.enrolment.public().to_hex(),
        "next": [serve, create],
    });
    output.data(&format!("{fingerprint}\n"), &json)?;
    output.say("Next:");
    output.say(&format!("  {serve}"));
    output.say(&format!("  {create}"));
    Ok(())
}

struct Files {
    root: Vec<u8>,
    targets: Vec<u8>,
    snapshot: Vec<u8>,
    timestamp: Vec<u8>,
}

fn make_keys() -> Result<Keys, KeyError> {
    Ok(Keys {
        root: keys::generate()?,
        targets: keys::generate()?,
        snapshot: keys::generate()?,
        timestamp: keys::generate()?,
        enrolment: keys::generate()?,
    })
}

fn first_files(realm: &str, keys: &Keys, now: Timestamp) -> Result<Files, Problem> {
    let made = || -> Result<Files, writer::WriteError> {
        let header = |days: i64| Header {
            realm: realm.to_owned(),
            version: 1,
            expires: later(now, days).into(),
        };
        let root = Root {
            header: header(ROOT_DAYS),
            root: Keyring::single(keys.root.public()),
            targets: Keyring::single(keys.targets.public()),
            snapshot: Keyring::single(keys.snapshot.public()),
            timestamp: Keyring::single(keys.timestamp.public()),
        };
        let root = signed(root.document()?, &keys.root);
        let targets = Targets::empty("targets", header(TARGETS_DAYS)).document()?;
        let targets = signed(targets, &keys.targets);
        let snapshot = Snapshot {
            header: header(SNAPSHOT_DAYS),
            roles: [("targets".to_owned(), 1)].into_iter().collect(),
        };
        let snapshot = signed(snapshot.document()?, &keys.snapshot);
        let timestamp = writer::Timestamp {
            header: header(TIMESTAMP_DAYS),
            signed_at: now.into(),
            snapshot: 1,
            pin: Target::of(&snapshot),
        };
        let timestamp = signed(timestamp.document()?, &keys.timestamp);
        Ok(Files { root, targets, snapshot, timestamp })
    };
    made().map_err(|error| {
        Problem::from_error(Kind::Runtime, "metadata", &error).leaves("nothing changed")
    })
}

fn signed(mut document: Document, key: &SigningKey) -> Vec<u8> {
    document.sign(key);
    document.to_bytes()
}

fn later(now: Timestamp, days: i64) -> Timestamp {
    now.saturating_add(SignedDuration::from_hours(days * 24)).unwrap_or(Timestamp::MAX)
}

fn store_keys(
    made: &Keys,
    signer_keys: &keys::KeyFolder,
    passphrase: &str,
    online: &Path,
) -> Result<(), KeyError> {
    signer_keys.create("root", &made.root, passphrase)?;
    signer_keys.create("targets", &made.targets, passphrase)?;
    files::private_folder(online)?;
    keys::create_online(&online.join("snapshot.pem"), &made.snapshot)?;
    keys::create_online(&online.join("timestamp.pem"), &made.timestamp)?;
    keys::create_online(&online.join("enrolment.pem"), &made.enrolment)
}

/// The timestamp comes last: it is what makes the others the realm's files.
fn store_files(files: &Files, metadata: &Path) -> Result<(), WriteError> {
    files::open_folder(metadata)?;
    for (name, bytes) in [
        ("1.root.json", &files.root),
        ("1.targets.json", &files.targets),
        ("1.snapshot.json", &files.snapshot),
        ("timestamp.json", &files.timestamp),
    ] {
        files::write(&metadata.join(name), bytes, Readers::All, Existing::Keep)?;
    }
    Ok(())
}

fn exists(realm: &str, path: &Path) -> Problem {
    Problem::new(Kind::Conflict, "exists", format!("realm `{realm}` is there already"))
        .because(format!("`{}` exists", path.display()))
        .leaves("nothing changed")
        .fix("choose another realm with --realm REALM, or another folder with --data DIR")
}

fn half_made(data: &Path, root_file: &Path) -> String {
    format!(
        "the realm is half made and was never used: remove `{}` and `{}`, then try again",
        data.display(),
        root_file.parent().unwrap_or(root_file).display(),
    )
}

#[cfg(test)]
mod tests {
    use shared::trust::{Clock, Refresh, Rules, Stored};

    use super::*;

    #[test]
    fn an_agent_would_believe_the_first_files_of_their_realm_and_of_no_other() {
        let now = Timestamp::now();
        let files = first_files("main", &make_keys().unwrap(), now).unwrap();
        let clock = Clock::synchronised(now);
        assert!(
            Refresh::new(Rules::shoal("other"), &files.root, Stored::default(), clock).is_err()
        );
        let started = Refresh::new(Rules::shoal("main"), &files.root, Stored::default(), clock);
        let mut refresh = started.unwrap();
        while let Some(need) = refresh.need() {
            let bytes = match need.name.as_str() {
                "timestamp.json" => Some(files.timestamp.clone()),
                "1.snapshot.json" => Some(files.snapshot.clone()),
                "1.targets.json" => Some(files.targets.clone()),
                _ => None,
            };
            refresh.feed(&need.name, bytes).unwrap();
        }
        assert_eq!(refresh.finish().unwrap().version("targets"), Some(1));
    }
}
