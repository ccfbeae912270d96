//! From the sources to trusted metadata: root, timestamp, snapshot and targets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::id::Digest;
use shared::problem::chain;
use shared::trust::{Folder, Need, Refresh, Stored, Trusted};

use super::{Answer, Client, News, Source, Trouble};
use crate::config::RootOfTrust;

/// How often the next root is asked for although nothing else changed.
const ROOT_EVERY: SignedDuration = SignedDuration::from_mins(15);

/// How many versions of root are looked through for the one that the configuration pins.
const MAX_ROOTS: u32 = 256;

/// The largest root metadata that is read for a pinned digest.
const MAX_ROOT: u64 = 256 * 1024;

/// How often one source is asked again because another process was faster: whoever is overtaken
/// that often is among more processes than one host has.
pub(super) const RESTARTS: u32 = 5;

/// Verified metadata, and the place among the sources of the one that had it.
#[derive(Debug)]
pub(super) struct Refreshed {
    pub(super) trusted: Trusted,
    pub(super) source: usize,
    pub(super) news: News,
}

impl Client {
    /// Asks one source after the other until one is good; tells the worst trouble if none is.
    pub(super) async fn refresh(&mut self, wait: Duration) -> Result<Refreshed, Trouble> {
        let mut worst = Trouble::NoSource;
        for index in 0..self.sources.len() {
            let Some(source) = self.sources.get(index).cloned() else { break };
            match self.refresh_from(&source, wait).await {
                Ok((trusted, news)) => return Ok(Refreshed { trusted, source: index, news }),
                Err(trouble) => {
                    let error = chain(&trouble);
                    tracing::debug!(registry = %source.base(), %error, "this source is no good");
                    if matches!(worst, Trouble::NoSource) || trouble.severity() > worst.severity() {
                        worst = trouble;
                    }
                }
            }
        }
        Err(worst)
    }

    /// Opens the stored state, if it is whole and still fresh.
    pub(super) fn refresh_offline(&self) -> Result<Trusted, Trouble> {
        let pinned = self.store.pinned(&self.settings.root)?.ok_or(Trouble::NoSource)?;
        self.open_stored(&pinned, self.store.top()?)
    }

    fn open_stored(&self, pinned: &[u8], stored: Stored) -> Result<Trusted, Trouble> {
        Refresh::offline(self.rules.clone(), pinned, stored, Self::clock())
            .map_err(|source| Trouble::Trust { source_url: "state_dir".to_owned(), source })
    }

    /// Asks one source, again if another process has meanwhile committed what is newer.
    async fn refresh_from(
        &mut self,
        source: &Source,
        mut wait: Duration,
    ) -> Result<(Trusted, News), Trouble> {
        let mut restarts = 0;
        loop {
            match self.refresh_once(source, wait).await {
                Err(trouble) if trouble.is_overtaken() && restarts < RESTARTS => {
                    tracing::debug!(registry = %source.base(), "overtaken by another process");
                    restarts += 1;
                    wait = Duration::ZERO;
                }
                outcome => return outcome,
            }
        }
    }

    async fn refresh_once(
        &mut self,
        source: &Source,
        wait: Duration,
    ) -> Result<(Trusted, News), Trouble> {
        let refused =
            |error| Trouble::Trust { source_url: source.base().to_string(), source: error };
        let mut stored = self.store.top()?;
        let pinned = self.pinned_root(source).await?;
        let mut timestamp = None;
        if !self.is_root_due() && stored.timestamp.is_some() {
            timestamp = Some(self.timestamp(source, &stored, wait).await?);
            // Another process may have gone on while the registry held our request back.
            stored = self.store.top()?;
            if let Some(Answer::NotModified) = timestamp
                && let Ok(trusted) = self.open_stored(&pinned, stored.clone())
            {
                return Ok((trusted, News::None));
            }
        }
        let mut refresh = Refresh::new(self.rules.clone(), &pinned, stored.clone(), Self::clock())
            .map_err(refused)?;
        while let Some(need) = refresh.need() {
            let bytes = if need.name == "timestamp.json" {
                let answer = match timestamp.take() {
                    Some(answer) => answer,
                    None => self.timestamp(source, &stored, Duration::ZERO).await?,
                };
                match answer {
                    Answer::Found(bytes) => Some(bytes),
                    Answer::NotModified => stored.timestamp.clone(),
                    Answer::Absent => None,
                }
            } else {
                self.fetch(source, &need).await?
            };
            refresh.feed(&need.name, bytes).map_err(refused)?;
        }
        let trusted = refresh.finish().map_err(refused)?;
        self.store.commit_top(&stored, trusted.stored())?;
        self.record.root_checked_at = Some(Timestamp::now());
        let news =
            if trusted.stored().timestamp == stored.timestamp { News::None } else { News::Some };
        Ok((trusted, news))
    }

    /// Gets one file; none if the source does not have it.
    pub(super) async fn fetch(
        &self,
        source: &Source,
        need: &Need,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        let folder = match need.folder {
            Folder::Metadata => "metadata",
            Folder::Targets => "targets",
        };
        let path = self.path(folder, &need.name);
        Ok(source.get(&path, need.max_len).await?.found())
    }

    /// Returns the path of a file of this realm.
    pub(super) fn path(&self, folder: &str, name: &str) -> String {
        format!("r/{}/{folder}/{name}", self.settings.realm)
    }

    async fn timestamp(
        &self,
        source: &Source,
        stored: &Stored,
        wait: Duration,
    ) -> Result<Answer, Trouble> {
        let path = self.path("metadata", "timestamp.json");
        let tag = stored.timestamp.as_deref().map(entity_tag);
        let max = self.rules.sizes.timestamp;
        Ok(source.get_if_changed(&path, max, tag.as_deref(), wait).await?)
    }

    fn is_root_due(&self) -> bool {
        let now = Timestamp::now();
        self.record
            .root_checked_at
            .is_none_or(|at| at > now || now.duration_since(at) >= ROOT_EVERY)
    }

    /// Returns the root that the configuration pins, fetched once if it pins a digest alone.
    async fn pinned_root(&self, source: &Source) -> Result<Vec<u8>, Trouble> {
        if let Some(root) = self.store.pinned(&self.settings.root)? {
            return Ok(root);
        }
        let RootOfTrust::Digest(digest) = &self.settings.root else {
            return Err(Trouble::NoSource);
        };
        let root = find_root(source, self.settings.realm.as_str(), digest).await?;
        self.store.keep_pinned(&root)?;
        Ok(root)
    }
}

/// Looks through the versions of root for the one with this digest.
async fn find_root(source: &Source, realm: &str, digest: &Digest) -> Result<Vec<u8>, Trouble> {
    for version in 1..=MAX_ROOTS {
        let path = format!("r/{realm}/metadata/{version}.root.json");
        match source.get(&path, MAX_ROOT).await?.found() {
            Some(root) if Digest::of(&root) == *digest => return Ok(root),
            Some(_) => {}
            None => break,
        }
    }
    Err(Trouble::PinnedRoot { source_url: source.base().to_string() })
}

/// Returns the entity tag that every honest source gives `timestamp.json`.
fn entity_tag(timestamp: &[u8]) -> String {
    Digest::of(timestamp).to_string().chars().take(16).collect()
}
