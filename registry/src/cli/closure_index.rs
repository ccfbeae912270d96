//! `registry closure-index`: prints the closure of a path as caches tell it.

use std::{path::PathBuf, sync::Arc};

use shared::{
    nix::{PublicKey, StorePath},
    problem::{Kind, Problem},
};
use store::{
    cache::{BinaryCache, Location, Network, NetworkOptions},
    substitute::{self, Event, Observer, Sources},
};

use super::Context;

/// Print the closure index of a store path, made from a cache's narinfos
///
/// Every path in it is content-addressed, or signed by one of the keys that are given. What is
/// printed is the index, an empty line, and hints: `agent copy-closure --closure-index` takes it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The binary cache, as URL or folder; several are asked in their order
    #[arg(long, required = true, value_name = "CACHE")]
    cache: Vec<Location>,
    /// A key that may vouch for paths, as `name:base64`
    #[arg(long, value_name = "KEY")]
    trusted_public_key: Vec<PublicKey>,
    /// Trust these certificate authorities too (PEM)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Read passwords of caches from this file, in the form of curl's and Nix's netrc
    #[arg(long, value_name = "FILE", env = "NETRC", hide_env_values = true)]
    netrc: Option<PathBuf>,
    /// The store path
    #[arg(value_name = "PATH")]
    path: StorePath,
}

/// Prints the index, an empty line and the hints.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let options =
        NetworkOptions { ca_file: args.ca_file, netrc: args.netrc, ..NetworkOptions::default() };
    let network = Network::new(&options)
        .map_err(|error| Problem::from_error(Kind::Usage, "network", &error))?;
    let locations: Vec<_> = args.cache.into_iter().map(|location| (location, Some(0))).collect();
    let (caches, errors) = BinaryCache::open_all(&locations, &[], &network).await;
    for error in &errors {
        let problem = error.problem();
        if caches.is_empty() {
            return Err(problem);
        }
        context.output.say(&format!("warning: {}: {}", problem.what, problem.causes.join(": ")));
    }
    let trusted = args.trusted_public_key.into_iter().collect();
    let sources = Sources { caches, trusted, hints: Vec::new() };
    let observer: Observer = Arc::new(|event| {
        if let Event::Discovered { paths } = event {
            tracing::debug!(paths, "known so far");
        }
    });
    let roots = [args.path];
    let found = substitute::discover(&roots, None, &sources, &observer).await;
    let found = found.map_err(|error| error.problem())?;
    for index in &found.closures {
        let mut bytes = index.to_bytes();
        bytes.push(b'\n');
        bytes.extend(found.hints.to_bytes(index.digest()));
        context.output.bytes(&bytes)?;
    }
    Ok(())
}
