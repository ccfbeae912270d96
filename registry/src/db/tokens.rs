//! Tokens: who has one may enrol hosts into its groups, or read what is known of a realm.

use std::collections::BTreeMap;

use shared::{
    id::{GroupName, LabelName, LabelValue, RealmName, TokenName},
    nix::Sha256,
    time::Time,
};

/// What an enrolment token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) realm: RealmName,
    pub(crate) groups: Vec<GroupName>,
    /// What every host that enrols with it must be labelled.
    pub(crate) labels: BTreeMap<LabelName, LabelValue>,
    /// How many hosts may enrol with it.
    pub(crate) uses: u32,
    pub(crate) expires_at: Time,
}

/// Why a token allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is unknown")]
    Unknown,
    #[error("the token ended at {0}")]
    Expired(Time),
    #[error("the token has been used as often as it may")]
    Used,
    #[error("the token is not for group `{0}`")]
    Group(GroupName),
    #[error("the token is for hosts with the label `{0}={1}`")]
    Label(LabelName, LabelValue),
    #[error("another host has this name, and the token is not for its group `{0}`")]
    Name(GroupName),
}

impl Grant {
    /// Checks what does not change with time or use: groups, labels, and the groups of the host
    /// whose name is taken over, for only who could enrol that one may.
    pub(crate) fn check(
        &self,
        groups: &[GroupName],
        labels: &BTreeMap<LabelName, LabelValue>,
        replaced: &[GroupName],
    ) -> Result<(), TokenError> {
        let foreign = |wanted: &[GroupName]| {
            wanted.iter().find(|group| !self.groups.contains(group)).cloned()
        };
        if let Some(group) = foreign(groups) {
            return Err(TokenError::Group(group));
        }
        if let Some(group) = foreign(replaced) {
            return Err(TokenError::Name(group));
        }
        match self.labels.iter().find(|(name, value)| labels.get(*name) != Some(value)) {
            Some((name, value)) => Err(TokenError::Label(name.clone(), value.clone())),
            None => Ok(()),
        }
    }
}

/// A token with which a realm can be read, and nothing else be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadToken {
    pub(crate) realm: RealmName,
    /// Whose it is; no two of a realm have the same.
    pub(crate) name: TokenName,
    pub(crate) created_at: Time,
    pub(crate) expires_at: Time,
}

/// Returns the hash by which a token is stored. A token has 256 random bits: no salt is needed.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::of(token.as_bytes()).0
}
