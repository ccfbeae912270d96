//! The registry's memory beside the signed files: tokens, hosts, what they said, what was published.
//!
//! [`Db`] is all that the rest of the program may ask of it, in the words of the domain and with no
//! word of SQL; what every implementation must keep to is in its test suite. What can be rebuilt
//! from the files and from the next reports of the hosts is an index; tokens and revocations live
//! by backup.

use std::{collections::BTreeMap, path::Path};

use shared::{
    api::Publication,
    id::{GroupName, HostId, RealmName, TokenName},
    state_word::StateWord,
    time::Time,
};

pub(crate) mod attempts;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod hosts;
pub(crate) mod publications;
pub(crate) mod reports;
pub(crate) mod retention;
pub(crate) mod sqlite;
pub(crate) mod stream;
pub(crate) mod tokens;

#[cfg(test)]
mod suite;

pub(crate) use error::DbError;
pub(crate) use sqlite::Sqlite;

use attempts::{AttemptQuery, AttemptRow};
use events::Event;
use hosts::{Application, EnrolRefusal, HostPage, HostQuery, HostRow, Revocation, Roster};
use reports::{Incoming, Stored};
use retention::{Pruned, Retention};
use stream::{Change, Known};
use tokens::{Grant, ReadToken};

/// What the registry remembers.
///
/// Whatever has returned well is on the disk. Reads see all writes that returned before they began.
pub(crate) trait Db: Clone + Send + Sync + 'static {
    /// Keeps a token, by its hash alone.
    fn add_token(
        &self,
        hash: [u8; 32],
        grant: Grant,
        now: Time,
    ) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Keeps a read token, by its hash alone. Returns whether it could: no other of its realm may
    /// have its name, though it may have ended.
    fn add_read_token(
        &self,
        hash: [u8; 32],
        token: ReadToken,
    ) -> impl Future<Output = Result<bool, DbError>> + Send;

    /// Lists the read tokens of a realm by name, also those that have ended.
    fn read_tokens(
        &self,
        realm: RealmName,
    ) -> impl Future<Output = Result<Vec<ReadToken>, DbError>> + Send;

    /// Forgets a read token. Returns whether there was one.
    fn revoke_read_token(
        &self,
        realm: RealmName,
        name: TokenName,
        now: Time,
    ) -> impl Future<Output = Result<bool, DbError>> + Send;

    /// Tells whether a read token of this hash is good for a realm, or for any.
    fn may_read(
        &self,
        hash: [u8; 32],
        realm: Option<RealmName>,
        now: Time,
    ) -> impl Future<Output = Result<bool, DbError>> + Send;

    /// Takes a host in, if its token lets it; returns its certificate in its envelope, which is the
    /// one from before for a host that lost our answer.
    fn enrol(
        &self,
        application: Application,
        now: Time,
    ) -> impl Future<Output = Result<Result<String, EnrolRefusal>, DbError>> + Send;

    /// Takes no more reports of this host. Returns whether there is such a host.
    fn revoke(
        &self,
        realm: RealmName,
        host: HostId,
        revocation: Revocation,
    ) -> impl Future<Output = Result<bool, DbError>> + Send;

    /// Stores a report if it is newer than the last one of its host.
    ///
    /// A counter that grows proves that, and so does a nonce that was given out and not used yet. A
    /// host that the database does not know, because it was lost, is challenged, so that no old
    /// report is replayed.
    ///
    /// # Errors
    /// With [`DbError::Busy`] at once where too many writes wait.
    fn ingest(
        &self,
        incoming: Incoming,
        now: Time,
    ) -> impl Future<Output = Result<Stored, DbError>> + Send;

    /// Makes hosts `stale` that have said nothing since `before`, some of them at a time; returns
    /// how many.
    fn mark_silent(&self, before: Time) -> impl Future<Output = Result<usize, DbError>> + Send;

    /// Finds a host by its id, or the one that has this name now.
    fn host(
        &self,
        realm: RealmName,
        name_or_id: String,
    ) -> impl Future<Output = Result<Option<HostRow>, DbError>> + Send;

    /// Lists hosts, without those revoked or made anew since.
    fn hosts(&self, query: HostQuery) -> impl Future<Output = Result<HostPage, DbError>> + Send;

    /// Lists every key that ever enrolled, by name, from behind `after`.
    fn roster(
        &self,
        realm: RealmName,
        after: String,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Roster>, DbError>> + Send;

    /// Counts the hosts of a group, or all, by their states.
    fn counts(
        &self,
        realm: RealmName,
        group: Option<GroupName>,
    ) -> impl Future<Output = Result<BTreeMap<StateWord, u64>, DbError>> + Send;

    /// Counts the hosts of every group by their states.
    fn counts_by_group(
        &self,
        realm: RealmName,
    ) -> impl Future<Output = Result<BTreeMap<GroupName, BTreeMap<StateWord, u64>>, DbError>> + Send;

    /// Returns when the host that has been silent for longest, and is not counted as silent, was
    /// heard.
    fn oldest_report(&self) -> impl Future<Output = Result<Option<Time>, DbError>> + Send;

    /// Lists what became of a host's attempts, the latest first.
    fn attempts(
        &self,
        query: AttemptQuery,
    ) -> impl Future<Output = Result<Vec<AttemptRow>, DbError>> + Send;

    /// Returns the highest version of a timestamp beyond our own that a host has told of.
    fn seen_ahead(
        &self,
        realm: RealmName,
    ) -> impl Future<Output = Result<Option<Ahead>, DbError>> + Send;

    /// Returns those of these versions of roles that the history lacks.
    fn missing_roles(
        &self,
        realm: RealmName,
        roles: Vec<(String, u64)>,
    ) -> impl Future<Output = Result<Vec<(String, u64)>, DbError>> + Send;

    /// Adds what a version of a role brought to the history; what is known stays as it is.
    fn add_publications(
        &self,
        realm: RealmName,
        role: (String, u64),
        publications: Vec<Publication>,
        at: Time,
    ) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Lists what was published for a group, the latest first.
    fn publications(
        &self,
        query: publications::Query,
    ) -> impl Future<Output = Result<Vec<Publication>, DbError>> + Send;

    /// Returns the latest publication of each target of a group.
    fn latest_publications(
        &self,
        realm: RealmName,
        group: GroupName,
    ) -> impl Future<Output = Result<Vec<Publication>, DbError>> + Send;

    /// Challenges every host once: what they told lately is not known.
    fn forget_counters(&self) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Forgets which hosts have seen more than we have: we have as much now.
    fn forget_ahead(&self, realm: RealmName) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Notes that something happened.
    fn note(&self, event: Event) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Lists what happened, oldest first, from behind the number `after`.
    fn events(
        &self,
        realm: RealmName,
        after: u64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<events::Noted>, DbError>> + Send;

    /// Returns which numbers of changes are known, of all realms together.
    fn stream_known(&self) -> impl Future<Output = Result<Known, DbError>> + Send;

    /// Lists what changed, oldest first, from behind the number `after`, and the number up to which
    /// was looked. A host that changed several times is told once, as it is by now.
    fn changes(
        &self,
        realm: RealmName,
        after: u64,
        limit: usize,
    ) -> impl Future<Output = Result<(Vec<Change>, u64), DbError>> + Send;

    /// Deletes what is older than it has to be.
    fn prune(
        &self,
        retention: Retention,
        now: Time,
    ) -> impl Future<Output = Result<Pruned, DbError>> + Send;

    /// Writes a whole and checked copy to a file that is not there yet, while others write.
    fn copy_to(&self, file: &Path) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Answers if the database can be read.
    fn ping(&self) -> impl Future<Output = Result<(), DbError>> + Send;

    /// Answers if the writer takes work and commits it.
    ///
    /// # Errors
    /// With [`DbError::Busy`] at once where too many writes wait.
    fn check_writer(&self) -> impl Future<Output = Result<(), DbError>> + Send;
}

/// A host that has seen more than this registry has: its files are from an old backup, or the host
/// lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// The version of the timestamp.
    pub(crate) timestamp: u64,
    /// The host that told the highest one.
    pub(crate) host: HostId,
    /// How many hosts told of one beyond ours.
    pub(crate) hosts: u64,
}
