//! A closure that hosts can take: gathered from caches and the local store, indexed, with hints.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use shared::{
    closure::ClosureIndex,
    diff::{Closure, Weight},
    hints::{Hints, NarHint},
    nix::{PathInfo, StorePath, TrustedKeys},
    policy::Policy,
    problem::{Kind, Problem},
};
use store::{
    cache::{BinaryCache, CacheError, Location, Network, NetworkOptions},
    local::LocalStore,
};

use crate::{
    output::Output,
    preflight::{self, Accepted, Flaw, Sources, Survey},
};

/// How many flawed paths a problem names; the others are counted.
const NAMED: usize = 10;
/// Where Nix keeps the database of the store of the whole machine.
const DATABASE: &str = "/nix/var/nix/db/db.sqlite";

/// A closure that every host of a group can take.
#[derive(Debug)]
pub(crate) struct Complete {
    pub(crate) index: ClosureIndex,
    pub(crate) hints: Hints,
    /// What its paths weigh, to be compared.
    pub(crate) weights: Closure,
    /// How many of the paths each cache of the policy has, by URL.
    pub(crate) coverage: Vec<(String, usize)>,
}

/// Where the root is meant to be.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct StoreArgs {
    /// The root of the local store, as in Nix's `local?root=DIR`
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
}

impl StoreArgs {
    /// Reads a store path, or a symlink to one such as `./result`.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn resolve(&self, text: &str) -> Result<StorePath, Problem> {
        let error = match StorePath::parse(text) {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        let real = Path::new(text).canonicalize().ok();
        let root = self.root.as_deref().and_then(|root| root.canonicalize().ok());
        let logical = real.map(|real| {
            match root.and_then(|root| {
                real.strip_prefix(root).ok().map(|below| Path::new("/").join(below))
            }) {
                Some(below) => below,
                None => real,
            }
        });
        logical.and_then(|path| StorePath::parse(path.to_str()?).ok()).ok_or_else(|| {
            Problem::from_error(Kind::Usage, "store_path", &error)
                .because(format!("`{text}` is no symlink to a store path either"))
                .leaves("nothing changed")
        })
    }

    /// Returns the closure of those `roots` that are valid in the local store.
    fn local(&self, roots: &BTreeSet<StorePath>) -> Result<BTreeMap<StorePath, PathInfo>, Problem> {
        let root = match &self.root {
            Some(root) => root.clone(),
            None if Path::new(DATABASE).exists() => PathBuf::from("/"),
            None => return Ok(BTreeMap::new()),
        };
        let closure = || {
            let store = LocalStore::open_for_reading(&root)?;
            store.closure(&store.valid(roots)?.into_keys().collect())
        };
        let found = closure();
        if let (Err(error), None) = (&found, &self.root) {
            // Nobody asked for this store: the caches tell what is needed as well.
            tracing::debug!(%error, "the store of this machine cannot be read");
            return Ok(BTreeMap::new());
        }
        found.map_err(|error| {
            Problem::from_error(Kind::Runtime, "store", &error)
                .because(format!("while reading the store below `{}`", root.display()))
                .leaves("nothing changed")
        })
    }
}

/// Gathers the closure of each root, and checks that hosts under this policy can take all of it.
///
/// # Errors
/// When a cache cannot be used, or a path cannot be taken: all such paths are told.
pub(crate) async fn gather(
    roots: &BTreeSet<StorePath>,
    store: &StoreArgs,
    policy: &Policy,
    output: &Output,
) -> Result<BTreeMap<StorePath, Complete>, Problem> {
    let local = store.local(roots)?;
    let urls = cache_urls(policy)?;
    let caches = open_caches(&urls).await?;
    let builders: TrustedKeys = policy.builders.iter().cloned().collect();
    let sources = Sources { caches: &caches, builders: &builders, local: &local };
    let bar = output.counter("Caches", local.len());
    let mut tick = |done: usize| bar.at(done);
    let survey = preflight::survey(roots, &sources, &mut tick).await;
    bar.end();
    let survey = survey.map_err(|error| cache_problem(&error))?;
    if !survey.flawed.is_empty() {
        return Err(flawed(roots, &survey, &urls));
    }
    let complete = |root: &StorePath| Ok((root.clone(), complete(root, &survey, &urls)?));
    roots.iter().map(complete).collect()
}

/// Returns what is known of the paths that a root needs.
fn needed<'a>(root: &StorePath, survey: &'a Survey) -> BTreeMap<&'a StorePath, &'a Accepted> {
    let mut needed = BTreeMap::new();
    let mut waiting = vec![root];
    while let Some(path) = waiting.pop() {
        // All are there, for nothing is flawed.
        if let Some((path, accepted)) = survey.accepted.get_key_value(path)
            && needed.insert(path, accepted).is_none()
        {
            waiting.extend(&accepted.info.references);
        }
    }
    needed
}

fn complete(root: &StorePath, survey: &Survey, urls: &[String]) -> Result<Complete, Problem> {
    let needed = needed(root, survey);
    let infos = needed.values().map(|accepted| &accepted.info);
    let index = ClosureIndex::from_paths(root, infos).map_err(|error| {
        Problem::from_error(Kind::Trust, "closure", &error).leaves("nothing changed")
    })?;
    let mut hints = Hints::default();
    let mut weights = Closure::new();
    let mut coverage: Vec<(String, usize)> = urls.iter().map(|url| (url.clone(), 0)).collect();
    for (path, accepted) in needed {
        let mut file = None;
        for offer in &accepted.offers {
            let Some((url, count)) = coverage.get_mut(offer.cache) else { continue };
            *count += 1;
            let Some(file_size) = offer.narinfo.file_size else { continue };
            file = file.or(Some(file_size));
            let nar = NarHint {
                cache: hints.add_cache(url),
                compression: offer.narinfo.compression,
                file_size,
                url: offer.narinfo.url.clone(),
            };
            hints.entry(path).nars.push(nar);
        }
        let entry = hints.entry(path);
        entry.signatures = accepted.info.signatures.clone();
        entry.content_address = accepted.info.content_address.clone();
        entry.deriver = accepted.info.deriver.clone();
        weights.insert(path.clone(), Weight { nar: accepted.info.nar_size, file });
    }
    Ok(Complete { index, hints, weights, coverage })
}

fn cache_urls(policy: &Policy) -> Result<Vec<String>, Problem> {
    let mut caches: Vec<_> = policy.caches.iter().collect();
    caches.sort_by_key(|cache| cache.priority);
    if caches.is_empty() {
        let what = format!("the policy of `{}` allows no cache", policy.group);
        return Err(Problem::new(Kind::Negative, "no_cache", what)
            .leaves("nothing changed")
            .fix("ask the owners of the group to add one")
            .next(format!("registry group set {} --cache URL", policy.group)));
    }
    Ok(caches.into_iter().map(|cache| cache.url.clone()).collect())
}

async fn open_caches(urls: &[String]) -> Result<Vec<BinaryCache>, Problem> {
    let network = Network::new(&NetworkOptions::from_environment())
        .map_err(|error| Problem::from_error(Kind::Runtime, "http", &error))?;
    let mut caches = Vec::new();
    for url in urls {
        let location = Location::parse(url)
            .map_err(|source| CacheError::Location { location: url.clone(), source })
            .map_err(|error| cache_problem(&error))?;
        let opened = BinaryCache::open(&location, &network).await;
        caches.push(opened.map_err(|error| cache_problem(&error))?);
    }
    Ok(caches)
}

fn cache_problem(error: &CacheError) -> Problem {
    let kind = if error.is_unreachable() {
        Kind::Unreachable
    } else if matches!(error, CacheError::Read { .. }) {
        Kind::Runtime
    } else {
        Kind::Trust
    };
    Problem::from_error(kind, "cache", error)
        .leaves("nothing changed")
        .fix("hosts would meet the same cache: mend it, or take it out of the policy")
}

fn flawed(roots: &BTreeSet<StorePath>, survey: &Survey, urls: &[String]) -> Problem {
    let (flawed, all) = (survey.flawed.len(), survey.flawed.len() + survey.accepted.len());
    let missing = survey.flawed.values().all(|flaw| *flaw == Flaw::Missing);
    let (kind, code) =
        if missing { (Kind::Negative, "missing_paths") } else { (Kind::Trust, "unvouched_paths") };
    let of = match roots.first() {
        Some(root) if roots.len() == 1 => format!("in the closure of `{root}`"),
        Some(_) | None => format!("in the closures of {} roots", roots.len()),
    };
    let what = format!("hosts could not take {flawed} of {all} paths {of}");
    let named: Vec<String> = roots.iter().take(NAMED).map(ToString::to_string).collect();
    let mut problem = Problem::new(kind, code, what);
    let cache = |at: usize| urls.get(at).map_or("a cache", String::as_str);
    for (path, flaw) in survey.flawed.iter().take(NAMED) {
        problem = problem.because(match flaw {
            Flaw::Missing => format!("`{path}` is in no cache of the policy"),
            Flaw::Unvouched { cache: at, why } => format!("in {}: {why}", cache(*at)),
            Flaw::OtherBytes { cache: at } => {
                format!("`{path}` has other contents in {} than here", cache(*at))
            }
        });
    }
    if flawed > NAMED {
        problem = problem.because(format!("and {} more", flawed - NAMED));
    }
    problem
        .leaves("nothing changed")
        .fix("put them into a cache of the policy, signed by a builder of the policy")
        .next(format!("registry cache push --to file://DIR --key-file FILE {}", named.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symlink_below_the_root_of_a_store_names_a_store_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("/nix/store/{}-web-1", "1".repeat(32));
        let real = folder.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&real).unwrap();
        let link = folder.path().join("result");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let store = StoreArgs { root: Some(folder.path().to_owned()) };
        assert_eq!(store.resolve(&path).unwrap().to_string(), path);
        assert_eq!(store.resolve(link.to_str().unwrap()).unwrap().to_string(), path);
        assert_eq!(store.resolve("/etc").unwrap_err().kind, Kind::Usage);
    }
}
