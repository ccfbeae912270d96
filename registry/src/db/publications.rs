//! The history of what was published: an index of the signed files.

use shared::{
    id::{GroupName, ProfileName, RealmName},
    version::VersionNumber,
};

/// Which publications are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) realm: RealmName,
    pub(crate) group: GroupName,
    pub(crate) profile: Option<ProfileName>,
    /// Only this one; there may be one in each epoch.
    pub(crate) version: Option<VersionNumber>,
    pub(crate) limit: usize,
    /// How many of the latest to pass over.
    pub(crate) skip: usize,
}
