//! What goes from this host: old generations, and what only they kept.
//!
//! `policy` decides about generations and knows nothing but what it is given; `generations` reads
//! and deletes them; `systems` finds what the machine itself runs and boots. Around them,
//! `collector` is the daemon's own collection, and `room` makes space for a fetch. The store
//! finds what is dead; here is said what this host needs besides all that roots say.

mod collector;
mod generations;
mod policy;
mod room;
mod systems;

use std::collections::BTreeSet;

use jiff::Timestamp;
use shared::nix::StorePath;
use shared::problem::{Kind, Problem};
use store::gc;

use crate::converge::Converger;

pub(crate) use self::collector::{Collector, line, summary};
pub(crate) use self::generations::{Judged, delete, judge};
pub(crate) use self::policy::Keep;
pub(crate) use self::room::make_room;

/// Returns what a collection on this host keeps: what its journals need and its systems, and what
/// `nix.conf` says where there is one.
pub(crate) fn options(converger: &Converger) -> Result<gc::Options, Problem> {
    let mut options = plain_options()?;
    let profiles = converger.profiles().map_err(|error| error.problem())?;
    options.more_roots = needed(&profiles);
    options.more_roots.extend(crate::systems::Systems::read(converger.root()).paths());
    Ok(options)
}

/// Returns what a collection keeps on whatever host.
pub(crate) fn plain_options() -> Result<gc::Options, Problem> {
    let settings = gc::Settings::read(|name| std::env::var_os(name));
    let settings = settings.map_err(|error| {
        Problem::from_error(Kind::Runtime, "nix_conf", &error)
            .leaves("nothing changed")
            .fix("make it readable: it may say what is to be kept")
    })?;
    Ok(gc::Options { keep: settings.keep, ..gc::Options::default() })
}

fn needed(profiles: &[crate::state::Profile]) -> BTreeSet<StorePath> {
    profiles.iter().flat_map(policy::paths_of).cloned().collect()
}

/// Returns what a configuration keeps, if it lets any generation go.
pub(crate) fn rule(gc: &crate::config::Gc, now: Timestamp) -> Option<Keep> {
    let since = gc.older_than.map(|span| now.checked_sub(span).unwrap_or(Timestamp::MIN));
    Keep::new(gc.keep, since)
}
