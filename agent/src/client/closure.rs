//! Closure indexes and their hints: fetched by digest, so that any source will do.

use shared::closure::{self, ClosureIndex};
use shared::hints::{self, Hints};
use shared::id::Digest;

use super::{Client, Source, SourceError};

/// Why a closure index could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClosureError {
    /// No source gave an answer.
    #[error("cannot fetch closure index `{digest}`")]
    Source { digest: Digest, source: SourceError },
    /// A source gave something else.
    #[error("closure index `{digest}` from `{source_url}` is refused")]
    Refused { digest: Digest, source_url: String, source: closure::ClosureError },
    /// No source has it.
    #[error("no source has closure index `{digest}`")]
    Absent { digest: Digest },
}

impl Client {
    /// Returns what fetches closure indexes, apart from the polls.
    pub(crate) fn closures(&self) -> ClosureSource {
        // An index may be large, and is no business of a round.
        let sources = self.sources.iter().map(Source::without_round).collect();
        ClosureSource { sources, realm: self.settings.realm.to_string() }
    }
}

/// Fetches closure indexes and hints.
#[derive(Debug, Clone)]
pub(crate) struct ClosureSource {
    sources: Vec<Source>,
    realm: String,
}

impl ClosureSource {
    /// Fetches the index with this digest, and its hints if somebody has some.
    pub(crate) async fn fetch(
        &self,
        digest: Digest,
    ) -> Result<(ClosureIndex, Option<Hints>), ClosureError> {
        let mut failure = ClosureError::Absent { digest };
        for source in &self.sources {
            match self.index(source, digest).await {
                Ok(Some(index)) => return Ok((index, self.hints(source, digest).await)),
                Ok(None) => {}
                // A refusal says more than a source that is down.
                Err(error) => match failure {
                    ClosureError::Refused { .. } => {}
                    ClosureError::Source { .. } | ClosureError::Absent { .. } => failure = error,
                },
            }
        }
        Err(failure)
    }

    async fn index(
        &self,
        source: &Source,
        digest: Digest,
    ) -> Result<Option<ClosureIndex>, ClosureError> {
        let path = format!("r/{}/closures/{digest}", self.realm);
        let answer = source.get(&path, closure::MAX_LEN as u64).await;
        let answer = answer.map_err(|source| ClosureError::Source { digest, source })?;
        let Some(bytes) = answer.found() else { return Ok(None) };
        let parsed = ClosureIndex::parse_named(&bytes, digest);
        let source_url = || source.base().to_string();
        parsed.map(Some).map_err(|source| ClosureError::Refused {
            digest,
            source_url: source_url(),
            source,
        })
    }

    /// Hints save time and decide nothing, so that whatever is wrong with them is not worth a word.
    async fn hints(&self, source: &Source, digest: Digest) -> Option<Hints> {
        let path = format!("r/{}/closures/{digest}.hints", self.realm);
        let bytes = source.get(&path, hints::MAX_LEN as u64).await.ok()?.found()?;
        Hints::parse(&bytes, digest).ok()
    }
}
