//! The history of what was published: an index of the signed files.

use shared::id::{GroupName, ProfileName, RealmName};

/// Which publications are asked for.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) realm: RealmName,
    pub(crate) group: GroupName,
    pub(crate) profile: Option<ProfileName>,
    pub(crate) limit: usize,
    /// How many of the latest to pass over.
    pub(crate) skip: usize,
}
