//! What changes, in order, for whoever follows along: bounded, and the same for all.

use shared::api::Publication;

use super::{events::Noted, hosts::HostRow};

/// A change with its number; numbers rise.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) number: u64,
    pub(crate) what: Changed,
}

/// What changed.
#[derive(Debug, Clone)]
pub(crate) enum Changed {
    /// A host is in another state; this is how it is by now.
    Host(Box<HostRow>),
    /// A manifest or policy was published.
    Published(Box<Publication>),
    /// Something was noted in the audit log.
    Noted(Noted),
}

/// The numbers that are still known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The last number before the oldest change that is kept.
    pub(crate) before: u64,
    /// The number of the latest change; 0 if there was none yet.
    pub(crate) newest: u64,
}
