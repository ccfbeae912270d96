//! Reports on their way into the database, and what is kept of them.

use std::sync::Arc;

use shared::{
    certificate::Certificate,
    id::HostId,
    report::{ProfileReport, Report},
    state_word::StateWord,
};

use super::hosts::Revocation;

/// A verified report on its way into the database.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    pub(crate) certificate: Arc<Certificate>,
    /// The certificate, in its envelope.
    pub(crate) envelope: String,
    pub(crate) report: Report,
    /// What was signed, as it came.
    pub(crate) payload: Vec<u8>,
    /// The signatures of the envelope, as JSON: with the payload all that proves it.
    pub(crate) signatures: String,
    /// A fresh nonce, in case the host has to be challenged.
    pub(crate) nonce: String,
    /// The version of a timestamp that the host has and this registry does not.
    pub(crate) ahead: Option<u64>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is stored, now or before.
    Yes,
    /// Its counter does not count; the next one must repeat this nonce, best with a counter above
    /// the highest that was seen.
    Challenge { nonce: String, highest: Option<u64> },
    /// The host was revoked.
    Revoked(Revocation),
    /// Another key has enrolled under the host's name.
    Replaced(HostId),
}

/// Returns the profiles of a report whose last attempt has ended: only those are kept for good.
pub(crate) fn ended(report: &Report) -> impl Iterator<Item = &ProfileReport> {
    use StateWord::{Confirming, Fetching, RebootPending, Switching};
    report.profiles.iter().filter(|profile| {
        let under_way = [RebootPending, Confirming, Switching, Fetching].contains(&profile.state);
        !under_way && profile.attempt.as_ref().is_some_and(|attempt| !attempt.id.is_empty())
    })
}
