//! What happened, for whoever looks back: a plain table beside the signed files, which prove what
//! was published.

use serde::{Deserialize, Serialize};
use shared::{id::RealmName, time::Time};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) realm: RealmName,
    pub(crate) at: Time,
    pub(crate) what: What,
    /// On what: a host, a role, a token.
    pub(crate) subject: String,
    /// In a sentence.
    pub(crate) detail: String,
}

/// The kinds of things that happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// An enrolment token was made.
    TokenMade,
    /// A read token was made.
    ReadTokenMade,
    /// A read token was revoked.
    ReadTokenRevoked,
    /// A host enrolled.
    Enrolled,
    /// A host was revoked.
    Revoked,
    /// A version of a role was published.
    Published,
    /// The registry was restored from a backup.
    Restored,
    /// Its versions were brought above those that hosts had seen.
    Recovered,
}

impl What {
    const ALL: [Self; 8] = [
        Self::TokenMade,
        Self::ReadTokenMade,
        Self::ReadTokenRevoked,
        Self::Enrolled,
        Self::Revoked,
        Self::Published,
        Self::Restored,
        Self::Recovered,
    ];

    /// Returns the word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::TokenMade => "token_made",
            Self::ReadTokenMade => "read_token_made",
            Self::ReadTokenRevoked => "read_token_revoked",
            Self::Enrolled => "enrolled",
            Self::Revoked => "revoked",
            Self::Published => "published",
            Self::Restored => "restored",
            Self::Recovered => "recovered",
        }
    }

    /// Returns the kind of this word.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|what| what.word() == word)
    }
}

/// An event with its number; numbers rise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) number: u64,
    pub(crate) event: Event,
}
