//! `agent tuf-client`: the agent's trust code behind the command line that the public TUF client
//! conformance suite drives.
//!
//! The suite looks at each trusted file by itself, so this command saves them as they are
//! verified; a host saves only what is verified as a whole. [`Rules::conformance`] names all that
//! is relaxed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use shared::problem::{Kind, Problem};
use shared::trust::{Clock, Folder, Need, Refresh, Rules, Stored, StoredTarget, Trusted};
use url::Url;

use crate::cli::Context;
use crate::client::{Source, SourceError};
use crate::config::Registry;
use crate::files::{self, FileError};

const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

/// The largest trusted file that is read back.
const MAX_FILE: u64 = 64 << 20;

/// Run the TUF client workflow against any TUF repository.
#[derive(Debug, Args)]
pub(crate) struct TufClientArgs {
    /// Keep trusted metadata in this directory.
    #[arg(long, value_name = "DIR")]
    metadata_dir: PathBuf,
    /// Fetch metadata from here.
    #[arg(long, value_name = "URL")]
    metadata_url: Option<Url>,
    /// Download this target; may be repeated.
    #[arg(long, value_name = "PATH")]
    target_name: Vec<String>,
    /// Fetch targets from here.
    #[arg(long, value_name = "URL")]
    target_base_url: Option<Url>,
    /// Put targets into this directory.
    #[arg(long, value_name = "DIR")]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Trust this root.
    Init { root: PathBuf },
    /// Refresh the top-level roles.
    Refresh,
    /// Refresh, then download targets.
    Download,
}

/// Why the step failed; the suite hears only that it did.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Trust(#[from] shared::trust::Error),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("there is no trusted root in `{}`", .0.display())]
    NoRoot(PathBuf),
    #[error("`--{0}` is missing")]
    Missing(&'static str),
}

/// Runs it; whatever goes wrong, the exit code is 1.
pub(crate) async fn run(args: TufClientArgs, _: &Context) -> Result<(), Problem> {
    let result = match &args.step {
        Step::Init { root } => init(&args, root),
        Step::Refresh => refresh(&args).await.map(drop),
        Step::Download => download(&args).await,
    };
    result.map_err(|error| Problem::from_error(Kind::Negative, "tuf_client", &error))
}

fn init(args: &TufClientArgs, root: &Path) -> Result<(), StepError> {
    let bytes = files::read(root, MAX_FILE)?.ok_or_else(|| StepError::NoRoot(root.to_owned()))?;
    Refresh::new(Rules::conformance(), &bytes, Stored::default(), clock())?;
    Ok(files::replace(&trusted_file(args, "root"), &bytes)?)
}

async fn refresh(args: &TufClientArgs) -> Result<Trusted, StepError> {
    let source = source(args.metadata_url.as_ref(), "metadata-url")?;
    let read = |role: &str| files::read(&trusted_file(args, role), MAX_FILE);
    let root = read("root")?.ok_or_else(|| StepError::NoRoot(args.metadata_dir.clone()))?;
    let mut saved = Stored {
        timestamp: read("timestamp")?,
        snapshot: read("snapshot")?,
        targets: read("targets")?,
        ..Stored::default()
    };
    let mut refresh = Refresh::new(Rules::conformance(), &root, saved.clone(), clock())?;
    while let Some(need) = refresh.need() {
        let bytes = source.get(&need.name, need.max_len).await?.found();
        let result = refresh.feed(&need.name, bytes);
        save_changes(args, &mut saved, refresh.progress())?;
        result?;
    }
    Ok(refresh.finish()?)
}

fn save_changes(
    args: &TufClientArgs,
    saved: &mut Stored,
    progress: &Stored,
) -> Result<(), StepError> {
    let files = |stored: &Stored| {
        let Stored { root, timestamp, snapshot, targets, .. } = stored.clone();
        [root, timestamp, snapshot, targets]
    };
    for ((role, old), new) in TOP_LEVEL.iter().zip(files(saved)).zip(files(progress)) {
        if let Some(bytes) = new.filter(|new| old.as_ref() != Some(new)) {
            files::replace(&trusted_file(args, role), &bytes)?;
        }
    }
    *saved = progress.clone();
    Ok(())
}

async fn download(args: &TufClientArgs) -> Result<(), StepError> {
    let trusted = refresh(args).await?;
    let metadata = source(args.metadata_url.as_ref(), "metadata-url")?;
    let targets = source(args.target_base_url.as_ref(), "target-base-url")?;
    let folder = args.target_dir.as_deref().ok_or(StepError::Missing("target-dir"))?;
    for name in &args.target_name {
        // A name of dots alone would be a folder.
        let file =
            folder.join(encode(name).replacen('.', "%2E", usize::from(name.starts_with('.'))));
        let had = files::read(&file, MAX_FILE)?;
        let (roles, target) = (delegated_roles(args)?, had.clone());
        let known = StoredTarget { roles, target, ..StoredTarget::default() };
        let mut lookup = trusted.lookup(name, known)?;
        while let Some(Need { folder, name, max_len }) = lookup.need() {
            let source = match folder {
                Folder::Metadata => &metadata,
                Folder::Targets => &targets,
            };
            let bytes = source.get(&name, max_len).await?.found();
            let result = lookup.feed(&name, bytes);
            for (role, bytes) in &lookup.walked().roles {
                files::replace(&trusted_file(args, role), bytes)?;
            }
            result?;
        }
        let found = lookup.finish()?.target.into_inner();
        // What was downloaded before is left alone, down to its time of change.
        if had.as_ref() != Some(&found) {
            files::replace(&file, &found)?;
        }
    }
    Ok(())
}

/// Reads the delegated roles that were trusted before.
fn delegated_roles(args: &TufClientArgs) -> Result<BTreeMap<String, Vec<u8>>, StepError> {
    let unreadable = |source| {
        StepError::File(FileError { action: "list", path: args.metadata_dir.clone(), source })
    };
    let mut roles = BTreeMap::new();
    for entry in std::fs::read_dir(&args.metadata_dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let role = name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(decode);
        let Some(role) = role.filter(|role| !TOP_LEVEL.contains(&role.as_str())) else { continue };
        if let Some(bytes) = files::read(&trusted_file(args, &role), MAX_FILE)? {
            roles.insert(role, bytes);
        }
    }
    Ok(roles)
}

fn source(url: Option<&Url>, flag: &'static str) -> Result<Source, StepError> {
    let url = url.ok_or(StepError::Missing(flag))?;
    let sources = Source::all(&Registry::plain(url.clone()))?;
    sources.into_iter().next().ok_or(StepError::Missing(flag))
}

fn trusted_file(args: &TufClientArgs, role: &str) -> PathBuf {
    args.metadata_dir.join(format!("{}.json", encode(role)))
}

fn clock() -> Clock {
    Clock::synchronised(Timestamp::now())
}

/// Writes a name so that it is one file name, whatever it holds.
fn encode(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_file_name_and_comes_back() {
        for name in ["role", "../x", "a/b%c", "ü.json", "", ".", "A?b#c"] {
            let encoded = encode(name);
            assert!(!encoded.contains('/'), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(name));
        }
        assert_eq!(decode("%"), None);
        assert_eq!(decode("%zz"), None);
    }
}
