//! Hosts: who is enrolled, and what each last said.

use serde::Deserialize;
use shared::{
    certificate::Certificate,
    id::{GroupName, LabelName, LabelValue, RealmName},
    report::Report,
    state_word::StateWord,
    time::Time,
};

use super::tokens::TokenError;

/// A host as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct HostRow {
    /// Its key in the database.
    pub(crate) key: i64,
    pub(crate) certificate: Certificate,
    pub(crate) enrolled_at: Time,
    pub(crate) reported_at: Option<Time>,
    pub(crate) report: Option<Report>,
    /// The state under which it is listed and counted: what it said, or `stale` if that is long ago.
    pub(crate) shown: StateWord,
    pub(crate) standing: Standing,
}

/// Whether the reports of a host count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// They do.
    Good,
    /// Another key has enrolled under its name since.
    Replaced,
    /// Somebody has revoked it.
    Revoked(Revocation),
}

/// The end of a host's reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revocation {
    pub(crate) at: Time,
    pub(crate) why: String,
}

/// A key that enrolled, in short.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    pub(crate) certificate: Certificate,
    pub(crate) enrolled_at: Time,
    pub(crate) reported_at: Option<Time>,
    pub(crate) standing: Standing,
}

/// Which hosts are asked for.
#[derive(Debug, Clone)]
pub(crate) struct HostQuery {
    pub(crate) realm: RealmName,
    pub(crate) group: Option<GroupName>,
    /// Only hosts in one of these states.
    pub(crate) states: Option<Vec<StateWord>>,
    /// Only those that are labelled so.
    pub(crate) label: Option<(LabelName, LabelValue)>,
    /// Only those whose names begin so.
    pub(crate) begin: Option<String>,
    pub(crate) sort: Sort,
    /// Where the page before ended.
    pub(crate) after: Place,
    pub(crate) limit: usize,
}

impl HostQuery {
    /// Asks for the first hosts by name.
    pub(crate) fn first(realm: RealmName, limit: usize) -> Self {
        let (group, states, label, begin) = (None, None, None, None);
        let (sort, after) = (Sort::Name, Place::default());
        Self { realm, group, states, label, begin, sort, after, limit }
    }
}

/// In which order hosts are listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sort {
    /// By name.
    #[default]
    Name,
    /// The worst state first, then by name.
    State,
    /// Those that have been silent for longest first.
    Seen,
}

/// A place in a list of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Of what comes before the name: the state, or a kind of silence; 0 by name.
    pub(crate) part: i64,
    /// When the host was heard, where that is the order.
    pub(crate) at: i64,
    pub(crate) name: String,
    pub(crate) key: i64,
}

/// A part of a list of hosts.
#[derive(Debug, Clone)]
pub(crate) struct HostPage {
    pub(crate) rows: Vec<HostRow>,
    /// Where the next page begins; there may be more even where this one is not full.
    pub(crate) next: Option<Place>,
}

/// A host that wants to enrol, with the certificate that it gets if its token lets it.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    pub(crate) certificate: Certificate,
    /// The signed certificate, in its envelope.
    pub(crate) envelope: String,
    /// The hash of the token that it showed.
    pub(crate) token: [u8; 32],
}

impl Application {
    /// Says whether a certificate issued before has what is asked for now.
    pub(crate) fn is_answered_by(&self, issued: &Certificate) -> bool {
        let said = |it: &Certificate| {
            (it.host, it.name.clone(), it.groups.clone(), it.labels.clone(), it.realm.clone())
        };
        said(&self.certificate) == said(issued)
    }
}

/// Why a host is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnrolRefusal {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the key of this host was revoked at {at}: {why}")]
    Revoked { at: Time, why: String },
}
