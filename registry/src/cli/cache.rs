//! `registry cache`: writes binary caches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::PathBuf,
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use shared::{
    human,
    nix::{PathInfo, SecretKey, StorePath, nar::Writer, narinfo::Compression},
    problem::{Kind, Problem},
};
use store::{
    archive,
    cache::{CacheWriter, Location, UploadError, Uploaded},
    local::{LocalStore, LocalStoreError},
};

use super::Context;

/// Write binary caches
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Copy store paths with their closures into a binary cache
    ///
    /// Real Nix substitutes from it, and so do agents. What is there already stays as it is; a
    /// path is there only after everything that it refers to.
    Push(PushArgs),
}

/// What to push, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The cache's folder, as `file:///path` or plain path; made if it is not there
    #[arg(long, value_name = "CACHE")]
    to: Location,
    /// The root of the store that has the paths
    #[arg(long, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// Sign every path with the secret key in this file, as `nix key generate-secret` makes it
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// How to compress: zstd, xz or none
    #[arg(long, default_value = "zstd", value_name = "NAME", value_parser = parse_compression)]
    compression: Compression,
    /// The store paths
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<StorePath>,
}

fn parse_compression(name: &str) -> Result<Compression, String> {
    match Compression::from_name(name) {
        Some(it @ (Compression::Zstd | Compression::Xz | Compression::None)) => Ok(it),
        Some(_) | None => Err("it is not one of zstd, xz and none".to_owned()),
    }
}

/// Runs one of the commands.
pub(crate) async fn run(command: Command, context: &Context<'_>) -> Result<(), Problem> {
    match command {
        Command::Push(args) => push(args, context).await,
    }
}

async fn push(args: PushArgs, context: &Context<'_>) -> Result<(), Problem> {
    let Some(folder) = args.to.folder() else {
        return Err(Problem::new(Kind::Usage, "cache", format!("cannot write to `{}`", args.to))
            .because("only folders are written; serve the folder with any web server")
            .leaves("nothing changed"));
    };
    let key = args.key_file.as_ref().map(read_key).transpose()?;
    let unchanged = |error: LocalStoreError| error.problem().leaves("nothing changed");
    let store = LocalStore::open_for_reading(&args.root).map_err(unchanged)?;
    let closure = store.closure(&args.paths.iter().cloned().collect()).map_err(unchanged)?;
    let writer =
        CacheWriter::open(folder, args.compression, key).map_err(|error| upload_problem(&error))?;
    let pushing = Arc::new(Pushing { store, writer });
    let mut summary = Summary::default();
    let total = closure.len();
    for level in levels(closure) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut pushed = stream::iter(level)
            .map(|info| {
                let pushing = Arc::clone(&pushing);
                tokio::task::spawn_blocking(move || pushing.push(&info))
            })
            .buffer_unordered(threads);
        while let Some(result) = pushed.next().await {
            let result = result
                .map_err(|error| Problem::from_error(Kind::Runtime, "worker", &error))?
                .map_err(|error| upload_problem(&error))?;
            summary.count(result);
        }
        tracing::debug!(done = summary.paths(), total, "pushed");
    }
    context.output.data(&format!("{}\n", summary.text(&args.to)), &summary.json())
}

/// What every thread needs to push a path.
struct Pushing {
    store: LocalStore,
    writer: CacheWriter,
}

impl Pushing {
    fn push(&self, info: &PathInfo) -> Result<Uploaded, UploadError> {
        let place = self.store.real_path(&info.path);
        self.writer.upload(info, |output| {
            let mut nar = Writer::new(output);
            archive::dump(&place, &mut nar).map_err(io::Error::other)?;
            nar.finish().map_err(io::Error::other).map(|_| ())
        })
    }
}

/// What became of the paths.
#[derive(Default)]
struct Summary {
    written: usize,
    signed: usize,
    present: usize,
    file_size: u64,
}

impl Summary {
    fn count(&mut self, uploaded: Uploaded) {
        match uploaded {
            Uploaded::Written { file_size } => {
                self.written += 1;
                self.file_size += file_size;
            }
            Uploaded::Signed => self.signed += 1,
            Uploaded::Present => self.present += 1,
        }
    }

    const fn paths(&self) -> usize {
        self.written + self.signed + self.present
    }

    fn text(&self, cache: &Location) -> String {
        let written = human::count(self.written, "path");
        let mut text = format!("pushed {written}, {}, to {cache}", human::size(self.file_size));
        if self.signed > 0 {
            text.push_str(&format!("; {} gained a signature", self.signed));
        }
        if self.present > 0 {
            text.push_str(&format!("; {} there already", self.present));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "schema": "cache-push.v1",
            "written": self.written,
            "signed": self.signed,
            "present": self.present,
            "file_size": self.file_size,
        })
    }
}

/// Sorts a closure into levels: what a path refers to is on an earlier level.
fn levels(closure: BTreeMap<StorePath, PathInfo>) -> Vec<Vec<PathInfo>> {
    let mut levels = Vec::new();
    let mut left: HashMap<StorePath, PathInfo> = closure.into_iter().collect();
    while !left.is_empty() {
        let is_ready = |info: &PathInfo| {
            info.references.iter().all(|path| *path == info.path || !left.contains_key(path))
        };
        let ready: BTreeSet<StorePath> =
            left.values().filter(|info| is_ready(info)).map(|info| info.path.clone()).collect();
        if ready.is_empty() {
            // No store holds a circle; the cache refuses its first path for a missing reference.
            levels.push(left.into_values().collect());
            break;
        }
        levels.push(ready.iter().filter_map(|path| left.remove(path)).collect());
    }
    levels
}

fn read_key(file: &PathBuf) -> Result<SecretKey, Problem> {
    let refused = |cause: String| {
        let what = format!("cannot use the secret key in `{}`", file.display());
        Problem::new(Kind::Usage, "key_file", what).because(cause).leaves("nothing changed")
    };
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    SecretKey::parse(&text).map_err(|error| refused(error.to_string()))
}

fn upload_problem(error: &UploadError) -> Problem {
    let (kind, code) = match error {
        UploadError::OtherContents { .. } => (Kind::Conflict, "conflict"),
        UploadError::Corrupt { .. } | UploadError::NarInfo { .. } | UploadError::Info { .. } => {
            (Kind::Trust, "refused_bytes")
        }
        UploadError::Io { .. }
        | UploadError::MissingReference { .. }
        | UploadError::Compression(_) => (Kind::Runtime, "cache_push"),
    };
    Problem::from_error(kind, code, error)
        .leaves("what was pushed before stays; every path in the cache is complete")
        .fix("run the same command again: it goes on where it stopped")
}
