//! `agent store ls`.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::PathBuf};

use clap::Args;
use serde_json::{Value, json};
use shared::{
    nix::nar::{Lister, Listing, ReadError, read},
    problem::{Kind, Problem},
};

use crate::output::Output;

/// Bytes of an archive that are read at once.
const BUFFER_LEN: usize = 256 * 1024;

/// List what is in a Nix archive, as `nix nar ls` does.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// List directories inside directories too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show modes, sizes and targets.
    #[arg(short, long)]
    long: bool,
    /// The archive, not compressed.
    #[arg(value_name = "FILE")]
    archive: PathBuf,
    /// What to list inside it.
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
}

pub(super) fn run(args: &LsArgs, output: &Output) -> Result<(), Problem> {
    let root = listing(args)?;
    let node = find(&root, &args.path)?;
    if output.is_json() {
        return output.json(&if args.recursive { to_json(node)? } else { shallow(node)? });
    }
    let mut lines = Vec::new();
    match node {
        Listing::Directory { entries } => list(args, ".", entries, &mut lines),
        Listing::Regular { .. } | Listing::Symlink { .. } => {
            lines.push(line(args, args.path.trim_start_matches('/'), node));
        }
    }
    lines.iter().try_for_each(|line| output.data(line))
}

fn listing(args: &LsArgs) -> Result<Listing, Problem> {
    let unreadable = |error: &std::io::Error| {
        let what = format!("cannot read `{}`", args.archive.display());
        Problem::new(Kind::Runtime, "read", what).because(error.to_string())
    };
    let file = File::open(&args.archive).map_err(|error| unreadable(&error))?;
    let mut lister = Lister::new();
    let mut input = BufReader::with_capacity(BUFFER_LEN, file);
    read(&mut input, &mut lister).map_err(|error| match &error {
        ReadError::Io(error) => unreadable(error),
        ReadError::Malformed { .. } => Problem::from_error(Kind::Trust, "malformed", &error),
        ReadError::Visit(error) => Problem::from_error(Kind::Runtime, "not_text", error),
    })?;
    lister.finish().map_err(|error| Problem::from_error(Kind::Runtime, "archive", &error))
}

fn find<'a>(root: &'a Listing, path: &str) -> Result<&'a Listing, Problem> {
    let absent = || {
        Problem::new(Kind::Negative, "absent", format!("`{path}` does not exist in the archive"))
    };
    let mut node = root;
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let Listing::Directory { entries } = node else { return Err(absent()) };
        node = entries.get(part).ok_or_else(absent)?;
    }
    Ok(node)
}

/// Lists one directory; what is in it is shown empty, as Nix shows it.
fn shallow(node: &Listing) -> Result<Value, Problem> {
    let Listing::Directory { entries } = node else { return to_json(node) };
    let entries: BTreeMap<&String, Value> = entries.keys().map(|name| (name, json!({}))).collect();
    Ok(json!({ "type": "directory", "entries": entries }))
}

fn to_json(node: &Listing) -> Result<Value, Problem> {
    serde_json::to_value(node).map_err(|error| Problem::from_error(Kind::Runtime, "json", &error))
}

fn list(args: &LsArgs, above: &str, entries: &BTreeMap<String, Listing>, lines: &mut Vec<String>) {
    for (name, node) in entries {
        let path = format!("{above}/{name}");
        lines.push(line(args, &path, node));
        if let (Listing::Directory { entries }, true) = (node, args.recursive) {
            list(args, &path, entries, lines);
        }
    }
}

fn line(args: &LsArgs, path: &str, node: &Listing) -> String {
    if !args.long {
        return path.to_owned();
    }
    let (mode, size, target) = match node {
        Listing::Directory { .. } => ("dr-xr-xr-x", 0, None),
        Listing::Regular { executable: true, size, .. } => ("-r-xr-xr-x", *size, None),
        Listing::Regular { executable: false, size, .. } => ("-r--r--r--", *size, None),
        Listing::Symlink { target } => ("lrwxrwxrwx", 0, Some(target)),
    };
    let target = target.map(|target| format!(" -> {target}")).unwrap_or_default();
    format!("{mode} {size:>20} {path}{target}")
}
