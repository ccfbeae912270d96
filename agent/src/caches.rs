//! Where the paths of one group may come from, and whom this host believes.
//!
//! The policy proposes, the host's configuration narrows that and adds its own. Caches are opened
//! when there is something to fetch, so a poll with nothing new never touches them.

use std::collections::BTreeSet;

use shared::hints::Hints;
use shared::nix::{PublicKey, TrustedKeys};
use shared::policy::Policy;
use shared::problem::chain;
use store::cache::{BinaryCache, Location, Network};
use store::substitute::Sources;

use crate::config::Settings;
use crate::state::{Code, Reason};

/// Caches in the order of their priority, not yet opened.
#[derive(Debug, Clone)]
pub(crate) struct Caches {
    /// Each cache with the priority that outranks its own.
    pub(crate) locations: Vec<(Location, Option<u32>)>,
    /// The keys that vouch for paths which are not content-addressed.
    pub(crate) trusted: TrustedKeys,
    /// The HTTP client.
    pub(crate) network: Network,
}

impl Caches {
    /// Takes what the policy proposes and this host allows, and what this host adds.
    pub(crate) fn allowed(policy: &Policy, settings: &Settings, network: &Network) -> Self {
        let taken = |url: &str| {
            let allowed = settings.caches.as_ref();
            allowed.is_none_or(|allowed| allowed.iter().any(|known| same_url(known.as_str(), url)))
        };
        let proposed = policy.caches.iter().filter(|cache| taken(&cache.url));
        let proposed = proposed.map(|cache| (cache.url.as_str(), Some(cache.priority)));
        let own = settings.extra_caches.iter().map(|cache| (cache.url.as_str(), cache.priority));
        let mut seen = BTreeSet::new();
        let mut locations = Vec::new();
        for (url, priority) in own.chain(proposed) {
            match Location::parse(url) {
                Ok(location) if seen.insert(location.to_string()) => {
                    locations.push((location, priority));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(url, %error, "cannot use a cache"),
            }
        }
        Self { locations, trusted: trusted(policy, settings), network: network.clone() }
    }

    /// Opens the caches; only if none can be used is that a failure.
    pub(crate) async fn open(&self, hints: Option<Hints>) -> Result<Sources, Reason> {
        let hints = Vec::from_iter(hints);
        let (caches, errors) = BinaryCache::open_all(&self.locations, &hints, &self.network).await;
        if caches.is_empty() {
            let failed: Vec<String> = errors.iter().map(|error| chain(error)).collect();
            let text = match failed.as_slice() {
                [] => "no cache is allowed by both the policy and this host".to_owned(),
                failed => failed.join("; "),
            };
            return Err(Reason::new(Code::FetchFailed, text));
        }
        for error in &errors {
            tracing::warn!(error = %chain(error), "goes on without a cache");
        }
        Ok(Sources { caches, trusted: self.trusted.clone(), hints })
    }
}

/// The policy's builders, less those that this host excludes, plus this host's own.
fn trusted(policy: &Policy, settings: &Settings) -> TrustedKeys {
    let taken =
        |key: &&PublicKey| settings.builders.as_ref().is_none_or(|allowed| allowed.contains(key));
    let own = settings.extra_caches.iter().flat_map(|cache| &cache.keys);
    policy.builders.iter().filter(taken).chain(own).cloned().collect()
}

fn same_url(left: &str, right: &str) -> bool {
    left.trim_end_matches('/') == right.trim_end_matches('/')
}
