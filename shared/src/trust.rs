//! Who may decide what, as signed TUF 1.0 metadata.
//!
//! Everything here is pure: callers fetch, load and save bytes, and pass the time. The ways in:
//!
//! - [`Refresh`] takes a host from its pinned root and its [`Stored`] state to [`Trusted`]
//!   metadata, one needed file at a time.
//! - [`Lookup`] finds one target below it, role by role, and ends in [`Verified`] bytes. Nothing
//!   else can make a [`Verified`].
//! - [`Rules`] say what Shoal demands beyond TUF. [`fence`] says which paths a role may hold.
//! - [`writer`] makes and signs the same files; [`admit`] is what a registry asks before it takes
//!   one; [`dsse`] signs what is no metadata: reports and certificates.
//!
//! Signatures are counted in one function, [`threshold::verify`].

pub mod admit;
pub mod dsse;
mod error;
pub mod fence;
pub mod keys;
mod lookup;
pub mod metadata;
mod refresh;
mod renew;
pub mod rules;
mod stored;
#[cfg(test)]
mod test_realm;
#[cfg(test)]
mod tests;
pub mod threshold;
mod trusted;
mod verified;
pub mod writer;

pub use error::{Error, Verdict};
pub use keys::{KeyId, PublicKey, SigningKey};
pub use lookup::{Found, Lookup};
pub use refresh::Refresh;
pub use rules::{ExpiryRule, Rules};
pub use stored::{Seen, Stored, StoredError, StoredTarget};
pub use trusted::{Clock, Synchronised, Trusted};
pub use verified::Verified;

/// A file that a [`Refresh`] or a [`Lookup`] needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Which of a realm's folders it lies in.
    pub folder: Folder,
    /// Its name below that folder, safe in a URL: `timestamp.json`, `3.targets.json`,
    /// `eu-prod/<sha256>.webshop`.
    pub name: String,
    /// The most bytes to read; more is a refused file.
    pub max_len: u64,
}

/// A folder of a realm's URL space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folder {
    /// `/r/<realm>/metadata/`.
    Metadata,
    /// `/r/<realm>/targets/`.
    Targets,
}
