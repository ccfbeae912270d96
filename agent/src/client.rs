//! The network side of trust: asks the sources, drives the verification, remembers the outcome.
//!
//! Which bytes are believed is decided in `shared::trust`; here they are only carried. Whatever
//! fails, the host keeps what it runs: [`Client::poll`] never fails as a whole, it says what it
//! has and what the trouble was.

mod closure;
mod documents;
mod record;
mod refresh;
mod shard;
mod source;
mod trouble;

use std::time::Duration;

use jiff::Timestamp;
use shared::id::GroupName;
use shared::problem::chain;
use shared::trust::rules::MaxAge;
use shared::trust::{Clock, Rules, Synchronised};

pub(crate) use self::closure::{ClosureError, ClosureSource};
pub(crate) use self::documents::{Documents, GroupDocuments};
pub(crate) use self::record::{PollRecord, TrustFacts};
pub(crate) use self::source::{Answer, Posted, Source, SourceError};
pub(crate) use self::trouble::Trouble;

use crate::config::Settings;
use crate::host;
use crate::trust_store::TrustStore;

/// What one poll brought.
#[derive(Debug)]
pub(crate) struct Poll {
    /// What is verified and fresh; nothing if not even the stored state is.
    pub(crate) documents: Option<Documents>,
    /// Why no source was good, if none was.
    pub(crate) trouble: Option<Trouble>,
    /// Whether a source had something new.
    pub(crate) news: News,
}

/// Whether a poll brought something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The signed state changed, or was never seen whole.
    Some,
    /// It is what it was.
    None,
}

/// Asks one realm's sources.
#[derive(Debug)]
pub(crate) struct Client {
    settings: Settings,
    sources: Vec<Source>,
    store: TrustStore,
    rules: Rules,
    record: PollRecord,
}

impl Client {
    /// Prepares; asks nothing yet.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Trouble> {
        let mut rules = Rules::shoal(settings.realm.as_str());
        rules.max_age = Some(max_age(settings));
        Ok(Self {
            sources: Source::all(&settings.registry)?,
            store: TrustStore::new(&settings.state_dir, &settings.realm),
            record: PollRecord::load(&settings.state_dir)?,
            rules,
            settings: settings.clone(),
        })
    }

    /// Returns what is known of the polls so far.
    pub(crate) const fn record(&self) -> &PollRecord {
        &self.record
    }

    /// Returns the sources, in the order in which they are asked.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Asks the sources once; a live registry may hold its answer back for up to `wait`.
    pub(crate) async fn poll(&mut self, wait: Duration) -> Poll {
        self.sources = self.sources.iter().map(Source::for_one_round).collect();
        let poll = match self.refresh(wait).await {
            Ok(refreshed) => {
                let documents = self.documents(&refreshed.trusted, Some(refreshed.source)).await;
                Poll { documents: Some(documents), trouble: None, news: refreshed.news }
            }
            Err(trouble) => {
                let documents = match self.refresh_offline() {
                    Ok(trusted) => Some(self.documents(&trusted, None).await),
                    Err(_) => None,
                };
                Poll { documents, trouble: Some(trouble), news: News::None }
            }
        };
        self.note(&poll);
        poll
    }

    fn note(&mut self, poll: &Poll) {
        self.record.note(poll, Timestamp::now());
        // The record is for people; a poll is not worse for a lost one.
        if let Err(error) = self.record.save(&self.settings.state_dir) {
            tracing::warn!(error = %chain(&error), "cannot record this poll");
        }
    }

    fn groups(&self) -> &[GroupName] {
        &self.settings.groups
    }

    fn clock() -> Clock {
        let synchronised =
            if host::is_clock_synchronised() { Synchronised::Yes } else { Synchronised::No };
        Clock { now: Timestamp::now(), synchronised }
    }
}

fn max_age(settings: &Settings) -> MaxAge {
    let seconds = |count: u32| jiff::SignedDuration::from_secs(count.into());
    let ages = settings.max_age;
    MaxAge {
        targets: seconds(ages.targets),
        owners: seconds(ages.owners),
        team: seconds(ages.team),
        snapshot: seconds(ages.snapshot),
        timestamp: seconds(ages.timestamp),
    }
}
