//! The last gate of a publication: the agent's own code, run over what would be served.

use std::collections::HashMap;

use jiff::Timestamp;
use shared::trust::{Clock, Error, Folder, Need, Refresh, Rules, Stored, StoredTarget};

use crate::blobs::{Blobs, FileName};

/// What would be served: new files over those that are there.
#[derive(Debug)]
pub(super) struct Future<'a> {
    pub(super) blobs: &'a Blobs,
    pub(super) files: HashMap<FileName, &'a [u8]>,
}

impl Future<'_> {
    /// Follows root, timestamp and snapshot to each of the target paths, as an agent would that
    /// starts from this root.
    pub(super) fn verify(
        &self,
        root: &[u8],
        paths: &[String],
        rules: &Rules,
        now: Timestamp,
    ) -> Result<(), Error> {
        let clock = Clock::synchronised(now);
        let mut refresh = Refresh::new(rules.clone(), root, Stored::default(), clock)?;
        while let Some(need) = refresh.need() {
            let bytes = self.read(&need);
            refresh.feed(&need.name, bytes)?;
        }
        let trusted = refresh.finish()?;
        for path in paths {
            let mut lookup = trusted.lookup(path, StoredTarget::default())?;
            while let Some(need) = lookup.need() {
                let bytes = self.read(&need);
                lookup.feed(&need.name, bytes)?;
            }
            lookup.finish()?;
        }
        Ok(())
    }

    fn read(&self, need: &Need) -> Option<Vec<u8>> {
        let folder = match need.folder {
            Folder::Metadata => "metadata",
            Folder::Targets => "targets",
        };
        let name = FileName::parse(&format!("{folder}/{}", need.name))?;
        match self.files.get(&name) {
            Some(bytes) => Some(bytes.to_vec()),
            None => self.blobs.read(&name).ok().flatten(),
        }
    }
}
