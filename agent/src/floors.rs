//! The highest version of each group's manifest of a profile that this host accepted.
//!
//! The journal knows it as well. Here it outlives the journal, and a host that leaves a group and
//! joins it again: whoever can serve an old manifest must gain nothing by either. Used under the
//! host's lock alone.

use std::io;
use std::path::{Path, PathBuf};

use shared::id::{GroupName, ProfileName, RealmName};

use crate::files::{self, FileError};
use crate::state::EpochVersion;

/// More than any floor takes.
const MAX_FILE: u64 = 4096;

/// The floors of one realm, beside what is trusted of it.
#[derive(Debug)]
pub(crate) struct Floors {
    folder: PathBuf,
}

impl Floors {
    /// Names the folder; nothing is made before the first write.
    pub(crate) fn new(state_dir: &Path, realm: &RealmName) -> Self {
        Self { folder: state_dir.join("trust").join(realm.as_str()).join("floors") }
    }

    /// Returns the highest version ever accepted. A damaged file is an error, not no floor.
    pub(crate) fn get(
        &self,
        group: &GroupName,
        profile: &ProfileName,
    ) -> Result<Option<EpochVersion>, FileError> {
        let path = self.file(group, profile);
        let Some(bytes) = files::read(&path, MAX_FILE)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            FileError { action: "use", path, source }
        })
    }

    /// Raises the floor to `version`, if it is lower; on disk when it returns.
    pub(crate) fn raise(
        &self,
        group: &GroupName,
        profile: &ProfileName,
        version: EpochVersion,
    ) -> Result<(), FileError> {
        if self.get(group, profile)? >= Some(version) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&version).unwrap_or_default();
        files::replace(&self.file(group, profile), &bytes)
    }

    fn file(&self, group: &GroupName, profile: &ProfileName) -> PathBuf {
        self.folder.join(group.as_str()).join(format!("{profile}.json"))
    }
}

#[cfg(test)]
mod tests {
    use shared::version::VersionNumber;

    use super::*;

    #[test]
    fn a_floor_only_rises_and_each_group_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let floors = Floors::new(folder.path(), &RealmName::parse("main").unwrap());
        let [eu, us]: [GroupName; 2] = ["eu", "us"].map(|name| name.parse().unwrap());
        let web = ProfileName::parse("web").unwrap();
        let at =
            |epoch, version| EpochVersion { epoch, version: VersionNumber::new(version).unwrap() };
        assert_eq!(floors.get(&eu, &web).unwrap(), None);
        for (raised, floor) in [(at(0, 5), at(0, 5)), (at(0, 3), at(0, 5)), (at(1, 1), at(1, 1))] {
            floors.raise(&eu, &web, raised).unwrap();
            assert_eq!(floors.get(&eu, &web).unwrap(), Some(floor));
        }
        assert_eq!(floors.get(&us, &web).unwrap(), None);
        std::fs::write(floors.file(&eu, &web), "{}").unwrap();
        assert!(floors.get(&eu, &web).is_err());
    }
}
