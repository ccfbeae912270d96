//! Closures that nobody has pinned: what they are is settled by the caches themselves.

use std::{collections::BTreeSet, sync::Arc};

use shared::nix::StorePath;

use super::{
    Fault, FaultCause, Limits, Observer, Outcome, Sources, SubstituteError,
    discover::discover_without, run,
};
use crate::local::LocalStore;

/// Narinfos that are not believed: the cache by its name, and the path.
pub(super) type Disbelieved = BTreeSet<(String, StorePath)>;

/// Does what [`discover`](super::discover) and [`run`] do, one after the other.
///
/// Two builds of one path may both be signed, and the first cache that tells of one settles which it
/// is to be. If then no cache delivers that build, though one has another, it is settled anew,
/// without the word of those that failed. So a cache with a narinfo and no good NAR for it does not
/// stand in the way of one that has both.
///
/// # Errors
/// As both.
pub async fn run_unpinned(
    roots: &[StorePath],
    store: &Arc<LocalStore>,
    sources: &Sources,
    limits: &Limits,
    observer: &Observer,
) -> Result<Outcome, SubstituteError> {
    let mut disbelieved = Disbelieved::new();
    // Whoever lied or was not there is asked last from then on: each cache spoils a round at most.
    let mut rounds = sources.caches.len();
    loop {
        let found = discover_without(&disbelieved, roots, Some(store), sources, observer);
        // Dropped where it is, which nothing is the worse for.
        let found = limits.stop.run_until_cancelled(found).await;
        let found = found.ok_or(SubstituteError::Stopped)??;
        let mut sources = sources.clone();
        sources.hints.push(found.hints);
        match run(store, &found.closures, &sources, limits, observer).await {
            Err(SubstituteError::Path { path, faults }) if rounds > 1 && has_other(&faults) => {
                rounds -= 1;
                tracing::info!(%path, "another build of it is to be had: that one, then");
                let failed = faults.into_iter().filter(|fault| !is_other(fault));
                disbelieved.extend(failed.map(|fault| (fault.cache, path.clone())));
            }
            ended => return ended,
        }
    }
}

fn has_other(faults: &[Fault]) -> bool {
    faults.iter().any(is_other)
}

/// Returns whether a cache has another build, for which somebody we trust vouches.
const fn is_other(fault: &Fault) -> bool {
    matches!(fault.cause, FaultCause::Differs { vouched: true, .. })
}
