//! `agent copy-closure`: what `nix-copy-closure --from` and `nix copy --from` do, without Nix.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use shared::{
    closure::{self, ClosureIndex},
    hints::Hints,
    nix::{PublicKey, StorePath},
    problem::{Kind, Problem},
};
use store::{
    cache::{BinaryCache, CacheError, Location, Network, NetworkOptions},
    local::LocalStore,
    net::limits,
    substitute::{self, Limits, Observer, Sources, SubstituteError},
};

use crate::{cli::Context, crash, progress::Progress, stop};

/// Copy store paths with their closures from binary caches into the local store.
///
/// A path is taken if it is content-addressed, or signed by one of the keys that are given here:
/// there are no default keys. With a closure index, also only if it is what the index says.
#[derive(Debug, Args)]
pub(crate) struct CopyClosureArgs {
    /// The binary cache, as URL or folder; several are asked in their order, and one that fails or
    /// is much slower after the others.
    #[arg(long, required = true, value_name = "CACHE")]
    from: Vec<Location>,
    /// The store's root; `/` is the machine's own store.
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub(super) root: PathBuf,
    /// A key that may vouch for paths, as `name:base64`.
    #[arg(long, value_name = "KEY")]
    trusted_public_key: Vec<PublicKey>,
    /// Take exactly this closure, as `registry closure-index` prints it.
    #[arg(long, value_name = "FILE")]
    closure_index: Option<PathBuf>,
    /// Keep so much free on the store's file system, whoever fills it: bytes, or with K, M, G or T.
    #[arg(long, default_value = "0", value_name = "SIZE", value_parser = super::gc::size)]
    min_free: u64,
    /// Trust these certificate authorities too (PEM).
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Read passwords of caches from this file, in the form of curl's and Nix's netrc.
    #[arg(long, value_name = "FILE", env = "NETRC", hide_env_values = true)]
    netrc: Option<PathBuf>,
    /// Download at most so many bytes per second, all connections together.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1024..))]
    bandwidth: Option<u64>,
    /// Give up a download that brings fewer bytes per second; 0 for never.
    #[arg(long, value_name = "BYTES", default_value_t = limits::MIN_RATE)]
    min_rate: u64,
    /// Seconds over which that is measured; with several caches at most half a minute.
    #[arg(long, value_name = "SECONDS", default_value_t = limits::RATE_WINDOW.as_secs())]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86400))]
    min_rate_over: u64,
    /// Seconds that a cache may keep us waiting for an answer, or for the next byte of one.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: Option<u64>,
    /// The store paths; with a closure index its root, which may be left out.
    #[arg(value_name = "PATH", required_unless_present = "closure_index")]
    paths: Vec<StorePath>,
}

/// Copies.
pub(crate) async fn run(args: CopyClosureArgs, context: &Context) -> Result<(), Problem> {
    let stop = stop::on_signal()?;
    let root = args.root.clone();
    let store = tokio::task::spawn_blocking(move || LocalStore::open(&root));
    let store = store.await.map_err(|error| failed(&error))?;
    let store = Arc::new(store.map_err(|error| error.problem())?);
    let progress = Progress::new(&context.output);
    let observer = crash::observe(&progress.observer());
    let limits = Limits { min_free: args.min_free, stop, ..Limits::default() };
    let result = progress.watch(copy(&args, &store, &limits, &observer, context)).await;
    match result {
        Ok(()) => progress.done(),
        Err(_) => progress.failed(),
    }
    result.map_err(advise)
}

/// Adds what a person can do about a cache that failed or lied.
fn advise(problem: Problem) -> Problem {
    let (fix, next) = match problem.code.as_str() {
        "refused_bytes" | "cache_refused" => (
            "ask another cache, and tell whoever runs this one",
            "agent copy-closure --from ANOTHER-CACHE PATH",
        ),
        _ if problem.kind == Kind::Unreachable => (
            "try again; what has arrived is not fetched twice",
            "agent copy-closure -v --from CACHE PATH",
        ),
        _ => return problem,
    };
    let fix = problem.fix.clone().unwrap_or_else(|| fix.to_owned());
    problem.fix(fix).next(next)
}

/// Copies what the index pins, or what the caches tell of.
async fn copy(
    args: &CopyClosureArgs,
    store: &Arc<LocalStore>,
    limits: &Limits,
    observer: &Observer,
    context: &Context,
) -> Result<(), Problem> {
    let failed = |error: SubstituteError| problem(&error, &args.root);
    // Dropped where it is, which nothing is the worse for.
    let open = async |hints| {
        let open = limits.stop.run_until_cancelled(open_sources(args, hints, context));
        open.await.unwrap_or_else(|| Err(stop::interrupted()))
    };
    let Some(file) = &args.closure_index else {
        let sources = open(Vec::new()).await?;
        let run = substitute::run_unpinned(&args.paths, store, &sources, limits, observer).await;
        return run.map(drop).map_err(failed);
    };
    let (index, hints) = read_index(file, &args.paths)?;
    let closures = [index];
    // If it is there whole, no cache is opened, and none needs to be reachable.
    if substitute::is_there(store, &closures, observer).await.map_err(failed)? {
        return Ok(());
    }
    let sources = open(Vec::from_iter(hints)).await?;
    let run = substitute::run(store, &closures, &sources, limits, observer).await;
    run.map(drop).map_err(failed)
}

/// Names the collector of this very store.
fn problem(error: &SubstituteError, root: &Path) -> Problem {
    let problem = error.problem();
    if problem.code == "disk_full" && root != "/" {
        return problem.next(format!("agent gc --root {}", root.display()));
    }
    problem
}

/// Opens the caches; one that cannot be used is named, and an error only if none can.
async fn open_sources(
    args: &CopyClosureArgs,
    hints: Vec<Hints>,
    context: &Context,
) -> Result<Sources, Problem> {
    let options = NetworkOptions {
        ca_file: args.ca_file.clone(),
        bandwidth: args.bandwidth,
        min_rate: args.min_rate,
        rate_window: Duration::from_secs(args.min_rate_over),
        netrc: args.netrc.clone(),
        ..NetworkOptions::default()
    };
    let options = match args.stall_timeout {
        Some(seconds) => options.waiting_at_most(Duration::from_secs(seconds)),
        None => options,
    };
    let network = Network::new(&options)
        .map_err(|error| Problem::from_error(Kind::Usage, "network", &error))?;
    let locations: Vec<_> = args.from.iter().map(|location| (location.clone(), Some(0))).collect();
    let (caches, errors) = BinaryCache::open_all(&locations, &hints, &network).await;
    if caches.is_empty()
        && let Some(error) = errors.first()
    {
        return Err(unusable(error));
    }
    for error in &errors {
        let problem = unusable(error);
        context.output.talk(&format!("warning: {}: {}", problem.what, problem.causes.join(": ")));
    }
    let trusted = args.trusted_public_key.iter().cloned().collect();
    Ok(Sources { caches, trusted, hints })
}

fn unusable(error: &CacheError) -> Problem {
    error.problem().leaves("nothing changed")
}

/// Reads a closure index, with what it hints at of where NARs are.
fn read_index(
    file: &PathBuf,
    paths: &[StorePath],
) -> Result<(ClosureIndex, Option<Hints>), Problem> {
    let bytes = std::fs::read(file).map_err(|error| {
        use ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let named = [NotFound, PermissionDenied, IsADirectory, NotADirectory];
        // All else is the machine's fault, not that of who named the file.
        let kind = if named.contains(&error.kind()) { Kind::Usage } else { Kind::Runtime };
        Problem::new(kind, "closure_index", format!("cannot read `{}`", file.display()))
            .because(error.to_string())
            .leaves("nothing changed")
    })?;
    let (index, hints) = closure::read_with_hints(&bytes).map_err(|error| {
        Problem::new(Kind::Trust, "closure_index", format!("cannot use `{}`", file.display()))
            .because(error.to_string())
            .leaves("nothing changed")
    })?;
    if let Some(other) = paths.iter().find(|path| *path != index.root()) {
        return Err(Problem::new(
            Kind::Usage,
            "closure_index",
            format!("`{}` is the closure of `{}`, not of `{other}`", file.display(), index.root()),
        )
        .leaves("nothing changed"));
    }
    let hints = hints.and_then(|hints| {
        hints.inspect_err(|error| tracing::debug!(%error, "the hints are of no use")).ok()
    });
    Ok((index, hints))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::from_error(Kind::Runtime, "worker", error)
}
