//! What service managers say of units, for checks of the kind `unit`.

use std::fmt;

use futures_util::future::BoxFuture;

/// Whose units are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    /// The system's own.
    System,
    /// That of a user, by user id.
    User(u32),
}

/// Asks service managers.
pub(crate) trait Units: fmt::Debug + Send + Sync {
    /// Returns systemd's `ActiveState` of a unit, such as `active` or `failed`; an error, in a
    /// clause for people, if the manager cannot be asked.
    fn active_state<'a>(
        &'a self,
        manager: Manager,
        unit: &'a str,
    ) -> BoxFuture<'a, Result<String, String>>;
}
