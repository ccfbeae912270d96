//! Room for a fetch: what is dead goes before a deployment stops because of it.

use shared::problem::Problem;
use store::substitute::SubstituteError;
use tokio_util::sync::CancellationToken;

use super::collector::{Owner, collect, owner};
use crate::config::Gc;
use crate::converge::Converger;

/// Deletes as much garbage as a fetch needs that failed so; returns how many bytes that freed.
///
/// Nothing if the disk is not what it failed of, if it is not allowed, or if the store is another
/// user's. Blocks.
pub(crate) fn make_room(
    converger: &Converger,
    gc: &Gc,
    error: &SubstituteError,
    stop: &CancellationToken,
) -> Result<u64, Problem> {
    if gc.min_free == 0 || owner(converger.root()) != Owner::Us {
        return Ok(0);
    }
    let goal = goal(error, gc.max_free);
    tracing::info!(goal_bytes = goal, "makes room for a fetch: {error}");
    collect(converger, gc, goal, stop).map(|collected| collected.freed)
}

/// Returns how many bytes to free, if it is known how many are missing.
fn goal(error: &SubstituteError, max_free: u64) -> Option<u64> {
    // Otherwise somebody else filled the disk meanwhile, nobody knows how far.
    let SubstituteError::NoSpace { lack, .. } = error else { return None };
    let missing = lack.missing();
    // How many inodes a path frees, nobody knows before.
    (missing.inodes == 0).then(|| missing.bytes.max(max_free.saturating_sub(lack.free.bytes)))
}

#[cfg(test)]
mod tests {
    use store::space::{Lack, Space};

    use super::*;

    fn no_space(needed: Space, free: Space) -> SubstituteError {
        let lack = Lack { needed, min_free: Space::default(), free };
        SubstituteError::NoSpace { folder: "/".into(), lack }
    }

    #[test]
    fn it_frees_what_is_missing_or_more_if_so_much_is_to_be_free() {
        let space = |bytes, inodes| Space { bytes, inodes };
        let error = no_space(space(700, 1), space(400, 9));
        assert_eq!(goal(&error, 0), Some(300));
        assert_eq!(goal(&error, 500), Some(300));
        assert_eq!(goal(&error, 1000), Some(600));
        assert_eq!(goal(&no_space(space(1, 9), space(400, 1)), 500), None);
        assert_eq!(goal(&SubstituteError::GivenUp, 1000), None);
    }
}
