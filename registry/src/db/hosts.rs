//! Hosts: who is enrolled, and what each last said.

use shared::{
    certificate::Certificate,
    id::{GroupName, RealmName},
    report::Report,
    state_word::StateWord,
    time::Time,
};

use super::tokens::TokenError;

/// A host as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct HostRow {
    /// Its place in lists, behind its name.
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
    /// The name and the key of the last one told.
    pub(crate) after: (String, i64),
    pub(crate) limit: usize,
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
