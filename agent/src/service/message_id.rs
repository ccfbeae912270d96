//! The stable ids by which a journal's reader finds what the daemon tells.
//!
//! `journalctl MESSAGE_ID=…` needs no pattern and survives every change of a wording. They are never
//! reused; `deploy/shoal.catalog` explains them, for `journalctl --catalog`.

use shared::state_word::StateWord;

/// The daemon runs, and its journal agrees with the host.
pub(crate) const STARTED: &str = "9851d44558af1badfbc035af7e484cdf";
/// The daemon stops; what runs goes on.
pub(crate) const STOPPED: &str = "aff4d8d4b367a992989055a4e0c93bd3";
/// No source of signed metadata is good any more.
pub(crate) const SOURCES_LOST: &str = "4331ca1bf82a3e130f104e12433addbc";
/// A source of signed metadata is good again.
pub(crate) const SOURCES_BACK: &str = "d5a87cd18c2c1213970a23369a1acf3a";

/// Returns the id of "a profile is in this state now".
pub(crate) const fn of_state(word: StateWord) -> &'static str {
    match word {
        StateWord::Untrusted => "c8f013bc69a0d3bb26bda55175c2365c",
        StateWord::Failed => "a0c7ac8a897d6f8199cb34c0d9a1c965",
        StateWord::RolledBack => "c291daf92d72e5893e5d27d7ce7a49e4",
        StateWord::Stale => "df22dd535b317651b6cca39f58872d80",
        StateWord::Pinned => "6d57ae1ad87d0b9a4cd3b7dd5523014e",
        StateWord::Held => "7b872e89827990faad1bd831b92e50bb",
        StateWord::RebootPending => "a9ee592532b516326be9658b601b37b2",
        StateWord::Confirming => "d0682071f41fd2f24b1b40f1c911df5d",
        StateWord::Switching => "e6e5500e21fd42b574587b79d76aec42",
        StateWord::Fetching => "161913b697faf6ba8945a2c076a87229",
        StateWord::Waiting => "268ca3578d7d3477a8d8e954e39dfd74",
        StateWord::Converged => "485db5b64468a10ed46dc1d21cc9f8f4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_unique_and_explained_in_the_catalog() {
        let states = StateWord::ALL.map(of_state);
        let others = [STARTED, STOPPED, SOURCES_LOST, SOURCES_BACK];
        let all: Vec<&str> = states.into_iter().chain(others).collect();
        let listed = include_str!("../../../deploy/shoal.catalog");
        for (index, id) in all.iter().enumerate() {
            assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
            assert!(!all[..index].contains(id), "{id}");
            assert!(listed.contains(&format!("\n-- {id}\nSubject: ")), "the catalog lacks {id}");
        }
    }
}
