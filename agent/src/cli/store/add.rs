//! `agent store add`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;
use shared::{
    nix::{PathInfo, StorePath},
    problem::{Kind, Problem},
};
use tokio_util::sync::CancellationToken;

use super::RootArgs;
use crate::output::Output;

/// Add a file or directory, as `nix-store --add` does, and print its store path.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The name in the store; the file's own if absent.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A store path that the contents refer to; may be repeated.
    #[arg(long = "reference", value_name = "PATH")]
    references: Vec<StorePath>,
    #[command(flatten)]
    pub(super) root: RootArgs,
    /// The file or directory.
    #[arg(value_name = "DIR")]
    source: PathBuf,
}

pub(super) fn run(
    args: &AddArgs,
    output: &Output,
    stop: &CancellationToken,
) -> Result<(), Problem> {
    let name = args.name.as_deref().or_else(|| own_name(&args.source)).ok_or_else(|| {
        let what =
            format!("`{}` has no name that could be one in the store", args.source.display());
        Problem::new(Kind::Usage, "name", what).fix("choose one with --name")
    })?;
    let references: BTreeSet<StorePath> = args.references.iter().cloned().collect();
    let store = args.root.open()?;
    let added = store.add_unless(&args.source, name, &references, &|| stop.is_cancelled());
    let info = added.map_err(|error| error.problem())?;
    if output.is_json() {
        return output.json(&Added::new(&info));
    }
    output.data(&info.path.to_string())
}

fn own_name(source: &Path) -> Option<&str> {
    source.file_name()?.to_str()
}

#[derive(Serialize)]
struct Added<'a> {
    schema: &'static str,
    path: &'a StorePath,
    nar_hash: String,
    nar_size: u64,
    references: &'a BTreeSet<StorePath>,
    ca: Option<String>,
}

impl<'a> Added<'a> {
    fn new(info: &'a PathInfo) -> Self {
        Self {
            schema: "store-add.v1",
            path: &info.path,
            nar_hash: info.nar_hash.to_string(),
            nar_size: info.nar_size,
            references: &info.references,
            ca: info.content_address.as_ref().map(ToString::to_string),
        }
    }
}
