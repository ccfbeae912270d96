//! `registry key`: the keys of whoever types.

use serde_json::json;
use shared::{problem::Problem, trust::PublicKey};

use super::Context;
use crate::{
    keys,
    signer::{self, PassphraseArgs, Purpose},
};

/// Make and list your own signing keys
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key, encrypted with a passphrase
    New {
        /// What you call it, for example the name of your team
        name: String,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// List your keys: what you call each, its id as others are told of it, its public half
    List,
    /// Print the public half of a key, to give to those who let you publish
    Show {
        /// What you called it
        name: String,
    },
}

/// Runs one of the commands.
pub(crate) fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::New { name, passphrase } => new(&name, &passphrase, context),
        Command::List => list(context),
        Command::Show { name } => show(&name, context),
    }
}

fn new(name: &str, passphrase: &PassphraseArgs, context: &Context<'_>) -> Result<(), Problem> {
    let folder = signer::keys(&context.settings);
    let key = keys::generate().map_err(|error| signer::problem(&error))?;
    if folder.holds(name) {
        let error = keys::KeyError::Exists { name: name.to_owned(), folder: folder.path().into() };
        return Err(signer::problem(&error));
    }
    let question = format!("New passphrase for key {name}");
    let passphrase = passphrase.read(Purpose::Seal, &question, context.output)?;
    folder.create(name, &key, &passphrase).map_err(|error| signer::problem(&error))?;
    context.output.say(&format!("Key {name} is in {}", folder.file(name).display()));
    print(name, &key.public(), context)
}

fn list(context: &Context<'_>) -> Result<(), Problem> {
    let folder = signer::keys(&context.settings);
    let listed = folder.list().map_err(|error| signer::problem(&error))?;
    if listed.is_empty() {
        context.output.say("There are no keys yet. Next: registry key new NAME");
    }
    let width = listed.iter().map(|key| key.name.len()).max().unwrap_or(0);
    let line = |name: &str, public: &PublicKey| {
        format!("{name:<width$}  {}  {public}\n", public.key_id().short())
    };
    let text: String = listed.iter().map(|key| line(&key.name, &key.public)).collect();
    let json: Vec<_> = listed.iter().map(|key| facts(&key.name, &key.public)).collect();
    context.output.data(&text, &json!({"schema": "keys.v1", "keys": json}))
}

fn show(name: &str, context: &Context<'_>) -> Result<(), Problem> {
    let public = signer::keys(&context.settings).public(name);
    print(name, &public.map_err(|error| signer::problem(&error))?, context)
}

fn print(name: &str, public: &PublicKey, context: &Context<'_>) -> Result<(), Problem> {
    let mut json = facts(name, public);
    if let Some(object) = json.as_object_mut() {
        object.insert("schema".to_owned(), "key.v1".into());
    }
    context.output.data(&format!("{public}\n"), &json)
}

fn facts(name: &str, public: &PublicKey) -> serde_json::Value {
    json!({"name": name, "keyid": public.key_id().as_str(), "public": public.to_hex()})
}
