//! Versions: of documents, which only rise, and of the software that reads them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::json::{self, JsonError};

/// The version of a manifest or policy: 1 to 2^32-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionNumber(std::num::NonZeroU32);

impl VersionNumber {
    /// The first version.
    pub const FIRST: Self = Self(std::num::NonZeroU32::MIN);

    /// Returns the version with this number, if it is not 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        std::num::NonZeroU32::new(number).map(Self)
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Returns the next version, if there is one.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The version of a program of ours: `major.minor.patch`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SoftwareVersion {
    /// Rises when something that worked stops working.
    pub major: u32,
    /// Rises with new abilities.
    pub minor: u32,
    /// Rises with each release.
    pub patch: u32,
}

/// A text that is not `major.minor.patch`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a version of the form `1.2.3`", .0.escape_default())]
pub struct SoftwareVersionError(String);

impl SoftwareVersion {
    /// Parses `major.minor.patch`.
    ///
    /// # Errors
    ///
    /// If it is anything else.
    pub fn parse(text: &str) -> Result<Self, SoftwareVersionError> {
        let number = |text: &str| {
            crate::closure::decimal(text).and_then(|number| u32::try_from(number).ok())
        };
        let parsed = || {
            let (major, rest) = text.split_once('.')?;
            let (minor, patch) = rest.split_once('.')?;
            Some(Self { major: number(major)?, minor: number(minor)?, patch: number(patch)? })
        };
        parsed().ok_or_else(|| SoftwareVersionError(text.chars().take(40).collect()))
    }

    /// Returns the version that this program was built as.
    #[must_use]
    pub fn current() -> Self {
        let zero = Self { major: 0, minor: 0, patch: 0 };
        Self::parse(env!("CARGO_PKG_VERSION")).unwrap_or(zero)
    }
}

impl fmt::Display for SoftwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Debug for SoftwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SoftwareVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SoftwareVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// What of a document is read first, whatever else it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// The version of its format.
    pub format: u32,
    /// The oldest agent that can read it.
    pub min_agent: SoftwareVersion,
}

/// Why a document is not for this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No JSON object with `format` and `min_agent`.
    #[error("it does not say its `format` and `min_agent`")]
    Json(#[source] JsonError),
    /// A format that this program does not know.
    #[error("the {kind} has format {format}, this program reads format {known}")]
    Format {
        /// What the document is.
        kind: &'static str,
        /// Its format.
        format: u32,
        /// The known format.
        known: u32,
    },
    /// It asks for a newer agent.
    #[error("the {kind} needs agent {min_agent} or newer, this is {ours}")]
    MinAgent {
        /// What the document is.
        kind: &'static str,
        /// What it asks for.
        min_agent: SoftwareVersion,
        /// What we are.
        ours: SoftwareVersion,
    },
}

impl Header {
    /// Reads the header of a document, leniently as to its other keys.
    ///
    /// # Errors
    ///
    /// If it is no strict JSON, or does not have both keys.
    pub fn read(bytes: &[u8], max_len: usize) -> Result<Self, HeaderError> {
        json::read(bytes, max_len).map_err(HeaderError::Json)
    }

    /// Checks that a program of this version can read the rest.
    ///
    /// # Errors
    ///
    /// If the format is another one, or a newer agent is asked for.
    pub fn check(
        self,
        kind: &'static str,
        known: u32,
        ours: SoftwareVersion,
    ) -> Result<(), HeaderError> {
        let Self { format, min_agent } = self;
        if format != known {
            return Err(HeaderError::Format { kind, format, known });
        }
        if min_agent > ours {
            return Err(HeaderError::MinAgent { kind, min_agent, ours });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_versions_compare_by_number() {
        let version = |text| SoftwareVersion::parse(text).unwrap();
        assert!(version("0.10.0") > version("0.9.12"));
        assert_eq!(version("1.2.3").to_string(), "1.2.3");
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.03", "v1.2.3", "1.2.3-rc1", "1.2.4294967296"] {
            assert!(SoftwareVersion::parse(text).is_err(), "{text}");
        }
        assert_ne!(SoftwareVersion::current().to_string(), "0.0.0");
    }

    #[test]
    fn document_versions_begin_at_1() {
        assert!(serde_json::from_str::<VersionNumber>("0").is_err());
        assert!(serde_json::from_str::<VersionNumber>("4294967296").is_err());
        assert_eq!(serde_json::from_str::<VersionNumber>("4294967295").unwrap().next(), None);
        assert_eq!(VersionNumber::FIRST.next(), VersionNumber::new(2));
    }

    #[test]
    fn the_header_is_read_whatever_else_is_there() {
        let bytes = br#"{"format":2,"min_agent":"9.0.0","shape":{"of":"things"}}"#;
        let header = Header::read(bytes, 100).unwrap();
        let ours = SoftwareVersion::parse("1.0.0").unwrap();
        assert!(matches!(header.check("manifest", 1, ours), Err(HeaderError::Format { .. })));
        assert!(matches!(header.check("manifest", 2, ours), Err(HeaderError::MinAgent { .. })));
        assert!(Header::read(br#"{"format":1,"format":1,"min_agent":"1.0.0"}"#, 100).is_err());
    }
}
