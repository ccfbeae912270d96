//! `pins.json`: the profiles that somebody on this host holds back, why, and until when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::id::ProfileName;

use crate::files::{self, FileError};
use crate::state::Pin;

/// Name of the file in the state folder.
const NAME: &str = "pins.json";

/// Pins are written by hand through commands; more than this is not ours.
const MAX_LEN: u64 = 1 << 20;

/// The version of the format.
const FORMAT: u32 = 1;

/// Why pins could not be read or written. Nothing is switched then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinsError {
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what we wrote.
    #[error("`{}` is not a list of pins", path.display())]
    Corrupt { path: PathBuf, source: serde_json::Error },
    /// Written by another version of the agent.
    #[error("`{}` has format {format}, this agent reads format {FORMAT}", path.display())]
    Format { path: PathBuf, format: u32 },
}

/// All pins of this host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pins {
    format: u32,
    pins: BTreeMap<ProfileName, Pin>,
}

impl Pins {
    /// Reads the pins; a host without the file has none.
    pub(crate) fn read(state_dir: &Path) -> Result<Self, PinsError> {
        let path = state_dir.join(NAME);
        let Some(bytes) = files::read(&path, MAX_LEN)? else {
            return Ok(Self { format: FORMAT, pins: BTreeMap::new() });
        };
        let pins: Self = serde_json::from_slice(&bytes)
            .map_err(|source| PinsError::Corrupt { path: path.clone(), source })?;
        if pins.format != FORMAT {
            return Err(PinsError::Format { path, format: pins.format });
        }
        Ok(pins)
    }

    /// Returns the pin of a profile.
    pub(crate) fn get(&self, profile: &ProfileName) -> Option<&Pin> {
        self.pins.get(profile)
    }

    /// Pins a profile, or lifts its pin, on disk when it returns. The caller has the host's lock.
    pub(crate) fn set(
        state_dir: &Path,
        profile: &ProfileName,
        pin: Option<Pin>,
    ) -> Result<(), PinsError> {
        let mut pins = Self::read(state_dir)?;
        match pin {
            Some(pin) => pins.pins.insert(profile.clone(), pin),
            None => pins.pins.remove(profile),
        };
        let path = state_dir.join(NAME);
        let bytes = serde_json::to_vec_pretty(&pins)
            .map_err(|source| PinsError::Corrupt { path: path.clone(), source })?;
        files::replace(&path, &bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_there_until_it_is_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let name = ProfileName::parse("web").unwrap();
        let since = "2026-11-23T08:00:00Z".parse().unwrap();
        let pin = Pin { reason: "kernel panic".into(), since, until: None };
        Pins::set(folder.path(), &name, Some(pin.clone())).unwrap();
        assert_eq!(Pins::read(folder.path()).unwrap().get(&name), Some(&pin));
        Pins::set(folder.path(), &name, None).unwrap();
        assert_eq!(Pins::read(folder.path()).unwrap().get(&name), None);
    }

    #[test]
    fn pins_that_cannot_be_read_are_an_error_and_not_no_pins() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{}", "{\"format\":2,\"pins\":{}}", "{\"format\":1,\"pins\":{},\"x\":1}"] {
            std::fs::write(folder.path().join(NAME), text).unwrap();
            assert!(Pins::read(folder.path()).is_err(), "{text}");
        }
    }
}
