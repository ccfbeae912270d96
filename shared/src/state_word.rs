//! The twelve words for the state of a profile on a host.
//!
//! One vocabulary for command lines, JSON, metrics and pages. Where one word must stand for
//! several, the first in this order wins.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a profile on a host, highest precedence first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StateWord {
    /// Bad signatures, a fork, the wrong realm.
    Untrusted,
    /// A rollback failed.
    Failed,
    /// The previous generation runs after a failed switch; that version is refused.
    RolledBack,
    /// No fresh source, or no report.
    Stale,
    /// Held by somebody on the host.
    Pinned,
    /// Stopped by a signed document.
    Held,
    /// Waits for a reboot.
    RebootPending,
    /// Switched, and under health checks.
    Confirming,
    /// Switching, or rolling back.
    Switching,
    /// Fetching, also in backoff.
    Fetching,
    /// Waits for a window, a wave, a requirement, or refuses and leaves things as they are.
    Waiting,
    /// Runs what is wanted, healthy and confirmed.
    Converged,
}

/// A word that is none of the twelve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a state", .0.escape_default())]
pub struct StateWordError(pub String);

impl StateWord {
    /// All words, highest precedence first.
    pub const ALL: [Self; 12] = [
        Self::Untrusted,
        Self::Failed,
        Self::RolledBack,
        Self::Stale,
        Self::Pinned,
        Self::Held,
        Self::RebootPending,
        Self::Confirming,
        Self::Switching,
        Self::Fetching,
        Self::Waiting,
        Self::Converged,
    ];

    /// Returns the word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Stale => "stale",
            Self::Pinned => "pinned",
            Self::Held => "held",
            Self::RebootPending => "reboot_pending",
            Self::Confirming => "confirming",
            Self::Switching => "switching",
            Self::Fetching => "fetching",
            Self::Waiting => "waiting",
            Self::Converged => "converged",
        }
    }

    /// Returns the glyph for terminals and pages; it always stands beside the [letter](Self::letter).
    #[must_use]
    pub const fn glyph(self) -> char {
        match self {
            Self::Untrusted => '‼',
            Self::Failed => '✗',
            Self::RolledBack => '↩',
            Self::Stale => '?',
            Self::Pinned => '⏸',
            Self::Held => '‖',
            Self::RebootPending => '⏻',
            Self::Confirming => '◔',
            Self::Switching => '↻',
            Self::Fetching => '⇣',
            Self::Waiting => '…',
            Self::Converged => '✓',
        }
    }

    /// Returns the letter, so that neither colour nor glyph is the only signal.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Untrusted => 'T',
            Self::Failed => 'X',
            Self::RolledBack => 'R',
            Self::Stale => 'U',
            Self::Pinned => 'P',
            Self::Held => 'H',
            Self::RebootPending => 'B',
            Self::Confirming => 'C',
            Self::Switching => 'S',
            Self::Fetching => 'F',
            Self::Waiting => 'W',
            Self::Converged => '=',
        }
    }

    /// Returns the word that stands for all of them: the one of highest precedence.
    #[must_use]
    pub fn of_all(states: impl IntoIterator<Item = Self>) -> Option<Self> {
        states.into_iter().min()
    }
}

impl fmt::Display for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl std::str::FromStr for StateWord {
    type Err = StateWordError;

    fn from_str(word: &str) -> Result<Self, StateWordError> {
        let error = || StateWordError(word.chars().take(40).collect());
        Self::ALL.into_iter().find(|state| state.word() == word).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn words_are_written_alike_everywhere() {
        for state in StateWord::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
            assert_eq!(state.word().parse(), Ok(state));
        }
        assert!("green".parse::<StateWord>().is_err());
    }

    #[test]
    fn glyphs_and_letters_are_distinct() {
        let glyphs: BTreeSet<char> = StateWord::ALL.map(StateWord::glyph).into();
        let letters: BTreeSet<char> = StateWord::ALL.map(StateWord::letter).into();
        assert_eq!((glyphs.len(), letters.len()), (12, 12));
    }

    #[test]
    fn the_worst_word_stands_for_all() {
        assert!(StateWord::ALL.is_sorted());
        let states = [StateWord::Converged, StateWord::Stale, StateWord::Waiting];
        assert_eq!(StateWord::of_all(states), Some(StateWord::Stale));
        assert_eq!(StateWord::of_all([]), None);
    }
}
