//! Which generations of a profile go: pure.
//!
//! What the profile needs stays, whatever the rule says; what its journal cannot vouch for stays
//! too. Only then comes the rule: so many of the newest, and all that were current lately.

use std::collections::BTreeSet;

use jiff::Timestamp;
use shared::human;
use shared::nix::StorePath;
use store::profile::Generation;

use super::systems::need;
use crate::state::{Profile, State, Target};
use crate::systems::Systems;

/// What is kept of that which nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    /// So many of the newest generations of each profile.
    pub(crate) newest: usize,
    /// All that were current at this time, or later; any age if there is none.
    pub(crate) since: Option<Timestamp>,
}

impl Keep {
    /// Returns the rule that a count and a time make, if there is either.
    pub(crate) fn new(newest: Option<usize>, since: Option<Timestamp>) -> Option<Self> {
        let any = newest.is_some() || since.is_some();
        any.then_some(Self { newest: newest.unwrap_or(0), since })
    }
}

/// What becomes of a generation, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Keep(Why),
    /// It goes.
    Delete {
        /// When the next generation came, if one did.
        replaced: Option<Timestamp>,
    },
}

/// Why a generation stays; the first that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The profile's link leads to it.
    Current,
    /// The journal has it as the last good one.
    LastGood,
    /// A switch is under way, and goes back to it if it fails.
    RollbackTarget,
    /// A switch is under way to it.
    Attempt,
    /// A switch to it waits for its gate.
    Staged,
    /// The machine was booted from it.
    Booted,
    /// It is the activated system.
    Activated,
    /// The machine boots from it next.
    BootDefault,
    /// Somebody holds the profile, and may be about to go back.
    Pinned,
    /// The profile is in the middle of a switch, or has failed: somebody must look.
    Unsettled,
    /// Nothing says that any may go.
    NoRule,
    /// It is one of the newest, so many of which are kept.
    Newest(usize),
    /// It has never been replaced.
    NotReplaced,
    /// It was replaced at this time, lately enough.
    Recent(Timestamp),
}

impl Verdict {
    /// Returns whether the generation stays.
    pub(crate) const fn keeps(self) -> bool {
        matches!(self, Self::Keep(_))
    }

    /// Returns the stable word for programs.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Delete { replaced: Some(_) } => "replaced",
            Self::Delete { replaced: None } => "unneeded",
            Self::Keep(why) => match why {
                Why::Current => "current",
                Why::LastGood => "last_good",
                Why::RollbackTarget => "rollback_target",
                Why::Attempt => "attempt",
                Why::Staged => "staged",
                Why::Booted => "booted",
                Why::Activated => "activated",
                Why::BootDefault => "boot_default",
                Why::Pinned => "pinned",
                Why::Unsettled => "unsettled",
                Why::NoRule => "no_rule",
                Why::Newest(_) => "newest",
                Why::NotReplaced => "not_replaced",
                Why::Recent(_) => "recent",
            },
        }
    }

    /// Returns the reason as people read it.
    pub(crate) fn text(self, now: Timestamp) -> String {
        let why = match self {
            Self::Delete { replaced: Some(at) } => {
                return format!("replaced {}", human::ago(at, now));
            }
            Self::Delete { replaced: None } => return "nothing needs it".to_owned(),
            Self::Keep(why) => why,
        };
        match why {
            Why::Current => "current".to_owned(),
            Why::LastGood => "last good".to_owned(),
            Why::RollbackTarget => "a switch that is under way goes back to it".to_owned(),
            Why::Attempt => "a switch to it is under way".to_owned(),
            Why::Staged => "a switch to it waits".to_owned(),
            Why::Booted => "booted from it".to_owned(),
            Why::Activated => "the activated system".to_owned(),
            Why::BootDefault => "boots from it next".to_owned(),
            Why::Pinned => "the profile is pinned".to_owned(),
            Why::Unsettled => "the profile is not at rest".to_owned(),
            Why::NoRule => "neither `gc.keep` nor `gc.older_than` is set".to_owned(),
            Why::Newest(1) => "the newest".to_owned(),
            Why::Newest(count) => format!("one of the newest {count}"),
            Why::NotReplaced => "never replaced".to_owned(),
            Why::Recent(replaced) => format!("replaced only {}", human::ago(replaced, now)),
        }
    }
}

/// Decides about each of a profile's generations, which come oldest first.
pub(super) fn judge(
    known: &Profile,
    generations: &[Generation],
    current: Option<u64>,
    systems: &Systems,
    keep: Option<&Keep>,
    now: Timestamp,
) -> Vec<Verdict> {
    let mut replaced = None;
    let mut verdicts = Vec::new();
    for (newer, generation) in generations.iter().rev().enumerate() {
        let needed = (current == Some(generation.number))
            .then_some(Why::Current)
            .or_else(|| needed(known, generation))
            .or_else(|| need(systems, &generation.path))
            .or_else(|| held(known, now));
        verdicts.push(match (needed, keep) {
            (Some(why), _) => Verdict::Keep(why),
            (None, None) => Verdict::Keep(Why::NoRule),
            // A generation served until the next one came, so that one's date is what counts.
            (None, Some(keep)) => by_rule(keep, newer, replaced),
        });
        replaced = Some(generation.created);
    }
    verdicts.reverse();
    verdicts
}

fn by_rule(keep: &Keep, newer: usize, replaced: Option<Timestamp>) -> Verdict {
    if newer < keep.newest {
        return Verdict::Keep(Why::Newest(keep.newest));
    }
    match (replaced, keep.since) {
        // The newest, from which somebody went back.
        (None, Some(_)) => Verdict::Keep(Why::NotReplaced),
        (Some(at), Some(since)) if at >= since => Verdict::Keep(Why::Recent(at)),
        (replaced, Some(_) | None) => Verdict::Delete { replaced },
    }
}

/// Returns why the journal needs a generation.
fn needed(known: &Profile, generation: &Generation) -> Option<Why> {
    let number = generation.number;
    if known.running.as_ref().is_some_and(|running| running.generation == number) {
        return Some(Why::LastGood);
    }
    let leads_to = |target: &Target| match target {
        Target::Wanted { wanted } => wanted.path == generation.path,
        Target::Generation { running } => running.generation == number,
        Target::Nothing => false,
    };
    match &known.state {
        State::Staged { target } => leads_to(target).then_some(Why::Staged),
        State::Switching { attempt }
        | State::RebootPending { attempt, .. }
        | State::Confirming { attempt, .. }
        | State::RollingBack { attempt, .. } => {
            let back = attempt.from.as_ref().is_some_and(|from| from.generation == number);
            let made = match &known.state {
                State::RebootPending { generation, .. } | State::Confirming { generation, .. } => {
                    *generation == number
                }
                State::Starting
                | State::Steady { .. }
                | State::Fetching { .. }
                | State::Staged { .. }
                | State::Switching { .. }
                | State::RollingBack { .. }
                | State::Failed { .. } => false,
            };
            back.then_some(Why::RollbackTarget)
                .or_else(|| (made || leads_to(&attempt.target)).then_some(Why::Attempt))
        }
        State::Starting | State::Steady { .. } | State::Fetching { .. } | State::Failed { .. } => {
            None
        }
    }
}

/// Returns why nothing at all of a profile may go.
fn held(known: &Profile, now: Timestamp) -> Option<Why> {
    if known.is_pinned(now) {
        return Some(Why::Pinned);
    }
    match &known.state {
        State::Steady { .. } | State::Fetching { .. } | State::Staged { .. } => None,
        State::Starting
        | State::Switching { .. }
        | State::RebootPending { .. }
        | State::Confirming { .. }
        | State::RollingBack { .. }
        | State::Failed { .. } => Some(Why::Unsettled),
    }
}

/// Returns every path that a profile's journal needs: what runs, what a switch leads to and back
/// to, what waits, and what is wanted while something else holds the profile.
pub(super) fn paths_of(known: &Profile) -> BTreeSet<&StorePath> {
    fn of_target(target: &Target) -> Option<&StorePath> {
        match target {
            Target::Wanted { wanted } => Some(&wanted.path),
            Target::Generation { running } => Some(&running.path),
            Target::Nothing => None,
        }
    }
    let mut paths = BTreeSet::new();
    paths.extend(known.running.as_ref().map(|running| &running.path));
    paths.extend(known.held_back());
    match &known.state {
        State::Fetching { wanted, .. } => {
            paths.insert(&wanted.path);
        }
        State::Steady { obstacle: Some(obstacle) } => {
            paths.insert(&obstacle.wanted.path);
        }
        State::Staged { target } => paths.extend(of_target(target)),
        State::Switching { attempt }
        | State::RebootPending { attempt, .. }
        | State::Confirming { attempt, .. }
        | State::RollingBack { attempt, .. } => {
            paths.extend(attempt.from.as_ref().map(|from| &from.path));
            paths.extend(of_target(&attempt.target));
        }
        State::Starting | State::Steady { obstacle: None } | State::Failed { .. } => {}
    }
    paths
}

#[cfg(test)]
mod tests;
