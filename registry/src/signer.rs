//! The signer at the keyboard: which keys, and how they are opened.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use shared::{
    problem::{Kind, Problem},
    trust::SigningKey,
};
use zeroize::Zeroizing;

use crate::{
    config::Settings,
    keys::{KeyError, KeyFolder},
    output::Output,
};

/// The longest passphrase that is read from a file.
const MAX_PASSPHRASE: u64 = 1024;

/// How a passphrase is given; never as an argument or in the environment, where others see it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PassphraseArgs {
    /// Read the passphrase from this file instead of asking; a systemd credential `passphrase`
    /// is used too
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Whether a passphrase opens a key or seals a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is asked for once.
    Open,
    /// It is asked for twice, and must not be empty.
    Seal,
}

/// Returns the folder of this signer's files for the realm in use.
pub(crate) fn folder(settings: &Settings) -> PathBuf {
    settings.signer.value.join(&settings.realm.value)
}

/// Returns this signer's keys for the realm in use.
pub(crate) fn keys(settings: &Settings) -> KeyFolder {
    KeyFolder::new(folder(settings).join("keys"))
}

/// Opens a key of this signer.
pub(crate) fn open(
    name: &str,
    passphrase: &PassphraseArgs,
    settings: &Settings,
    output: &Output,
) -> Result<SigningKey, Problem> {
    let keys = keys(settings);
    // Whether the key is there is told before anyone types a passphrase.
    keys.public(name).map_err(|error| problem(&error))?;
    let question = format!("Passphrase of key {name}");
    let passphrase = passphrase.read(Purpose::Open, &question, output)?;
    keys.open(name, &passphrase).map_err(|error| problem(&error))
}

impl PassphraseArgs {
    /// Gets the passphrase: file, systemd credential, or question.
    pub(crate) fn read(
        &self,
        purpose: Purpose,
        question: &str,
        output: &Output,
    ) -> Result<Zeroizing<String>, Problem> {
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
            .map(|folder| Path::new(&folder).join("passphrase"))
            .filter(|path| path.exists());
        let passphrase = match self.passphrase_file.as_ref().or(credential.as_ref()) {
            Some(path) => read_file(path)?,
            None => ask(purpose, question, output)?,
        };
        if purpose == Purpose::Seal && passphrase.is_empty() {
            return Err(Problem::new(Kind::Usage, "passphrase", "the passphrase is empty")
                .leaves("nothing changed")
                .fix("choose one that is hard to guess"));
        }
        Ok(passphrase)
    }
}

/// Tells a key error in full.
pub(crate) fn problem(error: &KeyError) -> Problem {
    let (kind, next) = match error {
        KeyError::Name(_) => (Kind::Usage, None),
        KeyError::Missing { .. } => (Kind::Usage, Some("registry key list")),
        KeyError::Exists { .. } => (Kind::Conflict, Some("registry key list")),
        KeyError::Passphrase { .. } | KeyError::Halves { .. } | KeyError::Malformed { .. } => {
            (Kind::Trust, None)
        }
        KeyError::Read { .. }
        | KeyError::TooLong { .. }
        | KeyError::Random
        | KeyError::Encrypt
        | KeyError::Write(_) => (Kind::Runtime, None),
    };
    let problem = Problem::from_error(kind, "key", error).leaves("nothing changed");
    match next {
        Some(next) => problem.next(next),
        None => problem,
    }
}

fn ask(purpose: Purpose, question: &str, output: &Output) -> Result<Zeroizing<String>, Problem> {
    let first = output.secret(question)?;
    if purpose == Purpose::Seal && *output.secret("The same again")? != *first {
        return Err(Problem::new(Kind::Usage, "passphrase", "the two passphrases differ")
            .leaves("nothing changed"));
    }
    Ok(first)
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, Problem> {
    let mut text = Zeroizing::new(String::new());
    fs::File::open(path)
        .and_then(|file| file.take(MAX_PASSPHRASE + 1).read_to_string(&mut text))
        .map_err(|error| {
        let what = format!("cannot read the passphrase in `{}`", path.display());
        Problem::new(Kind::Runtime, "passphrase", what)
            .because(error.to_string())
            .leaves("nothing changed")
            .fix("name a file that holds it with --passphrase-file, or leave that out to be asked")
    })?;
    if text.len() as u64 > MAX_PASSPHRASE {
        let what = format!("`{}` is longer than a passphrase may be", path.display());
        return Err(Problem::new(Kind::Usage, "passphrase", what).leaves("nothing changed"));
    }
    // An editor ends the line; the end is not part of the passphrase.
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    Ok(text)
}
