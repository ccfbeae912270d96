//! This host's shard of a manifest that has too many entries for one file.

use shared::id::TargetPath;
use shared::manifest::Manifest;
use shared::shard::{MAX_LEN, Shard, Shards};
use shared::trust::Verified;

use super::{Client, Source, Trouble};
use crate::state::Reason;

impl Client {
    /// Takes the entries of this host's shard in, if the manifest has shards.
    pub(super) async fn with_shard(
        &self,
        first: Option<usize>,
        target: &TargetPath,
        manifest: Verified<Manifest>,
    ) -> Result<Verified<Manifest>, Reason> {
        let Some(shards) = &manifest.get().shards else { return Ok(manifest) };
        let shard = self.shard(first, target, shards).await.map_err(|trouble| trouble.reason())?;
        manifest.try_map(|mut manifest| {
            manifest.take_shard(shard);
            Ok(manifest)
        })
    }

    /// Finds the shard of this host: stored, or at the first source that has it.
    async fn shard(
        &self,
        first: Option<usize>,
        target: &TargetPath,
        shards: &Shards,
    ) -> Result<Shard, Trouble> {
        let index = shards.index_of(&self.settings.host.name);
        let stored = self.store.shard(target)?;
        if let Some(Ok(shard)) = stored.map(|bytes| shards.read(index, &bytes)) {
            return Ok(shard);
        }
        let mut worst: Option<Trouble> = None;
        for source in self.sources_from(first).flatten() {
            match self.shard_from(source, target, shards, index).await {
                Ok(shard) => return Ok(shard),
                Err(trouble) => {
                    if worst.as_ref().is_none_or(|worst| trouble.severity() > worst.severity()) {
                        worst = Some(trouble);
                    }
                }
            }
        }
        Err(worst.unwrap_or(Trouble::NoSource))
    }

    async fn shard_from(
        &self,
        source: &Source,
        target: &TargetPath,
        shards: &Shards,
        index: usize,
    ) -> Result<Shard, Trouble> {
        let source_url = || source.base().to_string();
        let pinned = shards.digests.get(index).copied().ok_or(Trouble::NoSource)?;
        let path = self.path("shards", &pinned.to_string());
        let Some(bytes) = source.get(&path, MAX_LEN as u64).await?.found() else {
            return Err(Trouble::NoShard { source_url: source_url(), pinned });
        };
        let shard = shards.read(index, &bytes);
        let shard =
            shard.map_err(|error| Trouble::Shard { source_url: source_url(), source: error })?;
        self.store.keep_shard(target, &bytes)?;
        Ok(shard)
    }
}
