//! Which generations of this host's profiles are needed no more.
//!
//! [`unneeded_of`] decides and knows nothing but what it is given; the rest reads and deletes, under
//! the host's lock, so that no switch is under way meanwhile.

use std::path::PathBuf;

use jiff::Timestamp;
use shared::id::ProfileName;
use shared::nix::StorePath;
use shared::problem::{Kind, Problem};
use store::profile::{Generation, Profile as Links, ProfileError};

use crate::cli::Host;
use crate::host_lock::HostLock;
use crate::state::{Profile, State, Target};

/// What NixOS booted, and what it has activated.
const SYSTEMS: [&str; 2] = ["/run/booted-system", "/run/current-system"];

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// So many of the newest generations of each profile.
    pub(super) newest: usize,
    /// All that were current at this time, or later; any age if there is none.
    pub(super) since: Option<Timestamp>,
}

/// A generation that is not needed.
#[derive(Debug)]
pub(super) struct Unneeded {
    pub(super) profile: ProfileName,
    pub(super) generation: Generation,
    links: Links,
}

impl Unneeded {
    /// Returns its link.
    pub(super) fn link(&self) -> PathBuf {
        self.links.generation_link(self.generation.number)
    }
}

/// Returns the generations that are not needed.
pub(super) fn unneeded(host: &Host, keep: &Keep) -> Result<Vec<Unneeded>, Problem> {
    let systems: Vec<StorePath> = SYSTEMS
        .iter()
        .filter_map(|link| StorePath::parse(std::fs::read_link(link).ok()?.to_str()?).ok())
        .collect();
    let mut found = Vec::new();
    for known in host.profiles()? {
        let links = Links::open(&host.converger.link(&known.name)).map_err(failed)?;
        let current = links.current().map_err(failed)?.map(|generation| generation.number);
        let generations = links.generations().map_err(failed)?;
        let numbers = unneeded_of(&known, &generations, current, &systems, keep);
        let chosen = generations.into_iter().filter(|it| numbers.contains(&it.number));
        found.extend(chosen.map(|generation| Unneeded {
            profile: known.name.clone(),
            generation,
            links: links.clone(),
        }));
    }
    Ok(found)
}

/// Deletes the generations that are not needed, and tells which.
pub(super) fn delete(
    host: &Host,
    keep: &Keep,
    tell: &mut dyn FnMut(&Unneeded),
) -> Result<(), Problem> {
    let _lock = HostLock::take(&host.settings.state_dir)
        .map_err(|error| Problem::from_error(Kind::Runtime, "lock", &error))?;
    for unneeded in unneeded(host, keep)? {
        unneeded.links.delete(&[unneeded.generation.number]).map_err(failed)?;
        tell(&unneeded);
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` wants")]
fn failed(error: ProfileError) -> Problem {
    error.problem()
}

/// Decides which of a profile's generations, oldest first, are not needed.
fn unneeded_of(
    known: &Profile,
    generations: &[Generation],
    current: Option<u64>,
    systems: &[StorePath],
    keep: &Keep,
) -> Vec<u64> {
    // A pin says that somebody is at work here.
    if known.pin.is_some() || !is_at_rest(known) {
        return Vec::new();
    }
    let running = known.running.as_ref().map(|running| running.generation);
    let staged = staged(known);
    let needed = |generation: &Generation| {
        let number = Some(generation.number);
        number == current
            || number == running
            || number == staged
            || systems.contains(&generation.path)
    };
    let mut replaced = None;
    let mut unneeded = Vec::new();
    for (newer, generation) in generations.iter().rev().enumerate() {
        // A generation served until the next one came, so that one's date is what counts.
        let old = keep.since.is_none_or(|since| replaced.is_some_and(|at: Timestamp| at < since));
        if newer >= keep.newest && old && !needed(generation) {
            unneeded.push(generation.number);
        }
        replaced = Some(generation.created);
    }
    unneeded.reverse();
    unneeded
}

/// Returns whether no switch is under way, and none has failed so that somebody must look.
fn is_at_rest(known: &Profile) -> bool {
    match &known.state {
        State::Steady { .. } | State::Fetching { .. } | State::Staged { .. } => true,
        State::Starting
        | State::Switching { .. }
        | State::RebootPending { .. }
        | State::Confirming { .. }
        | State::RollingBack { .. }
        | State::Failed { .. } => false,
    }
}

/// Returns the generation that a switch waits to lead to.
fn staged(known: &Profile) -> Option<u64> {
    match &known.state {
        State::Staged { target: Target::Generation { running } } => Some(running.generation),
        State::Staged { target: Target::Wanted { .. } | Target::Nothing }
        | State::Starting
        | State::Steady { .. }
        | State::Fetching { .. }
        | State::Switching { .. }
        | State::RebootPending { .. }
        | State::Confirming { .. }
        | State::RollingBack { .. }
        | State::Failed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Activation, Pin, Running};

    fn path(number: u64) -> StorePath {
        let name = format!("9a455acx720hx0zfwn0q7gn8y2jrvllr-web-{number}");
        StorePath::from_base_name(&name).unwrap()
    }

    /// One generation a day.
    fn generations() -> Vec<Generation> {
        let made = |number| Generation {
            number,
            path: path(number),
            created: Timestamp::from_second(i64::try_from(number).unwrap() * 86_400).unwrap(),
        };
        (1..=6).map(made).collect()
    }

    fn profile(state: State) -> Profile {
        let name = ProfileName::parse("web").unwrap();
        let mut known = Profile::new(None, name, Timestamp::UNIX_EPOCH);
        known.state = state;
        known
    }

    fn running(generation: u64) -> Running {
        let (version, path) = (None, path(generation));
        Running { version, path, generation, activation: Activation::None, unsure: false }
    }

    #[track_caller]
    fn check(known: &Profile, current: u64, newest: usize, day: Option<i64>, unneeded: &[u64]) {
        let since = day.map(|day| Timestamp::from_second(day * 86_400).unwrap());
        let keep = Keep { newest, since };
        assert_eq!(unneeded_of(known, &generations(), Some(current), &[], &keep), unneeded);
    }

    #[test]
    fn the_newest_and_the_current_are_kept() {
        let rests = profile(State::Steady { obstacle: None });
        check(&rests, 6, 2, None, &[1, 2, 3, 4]);
        check(&rests, 3, 2, None, &[1, 2, 4]);
        check(&rests, 6, 0, None, &[1, 2, 3, 4, 5]);
        check(&rests, 6, 9, None, &[]);
    }

    #[test]
    fn what_was_current_at_that_time_is_kept() {
        let rests = profile(State::Steady { obstacle: None });
        // Generation 4 came on day 4 and still was current at the beginning of day 5.
        check(&rests, 6, 0, Some(5), &[1, 2, 3]);
        check(&rests, 6, 5, Some(5), &[1]);
        check(&rests, 6, 0, Some(0), &[]);
    }

    #[test]
    fn what_is_last_good_staged_or_booted_is_kept() {
        let mut known =
            profile(State::Staged { target: Target::Generation { running: running(2) } });
        known.running = Some(running(3));
        let keep = Keep { newest: 0, since: None };
        let systems = [path(1)];
        assert_eq!(unneeded_of(&known, &generations(), Some(6), &systems, &keep), [4, 5]);
    }

    #[test]
    fn nothing_of_a_pinned_profile_or_of_one_on_its_way_is_deleted() {
        let mut pinned = profile(State::Steady { obstacle: None });
        let since = Timestamp::UNIX_EPOCH;
        pinned.pin = Some(Pin { reason: "by hand".to_owned(), since, until: None });
        check(&pinned, 6, 0, None, &[]);
        check(&profile(State::Starting), 6, 0, None, &[]);
    }
}
