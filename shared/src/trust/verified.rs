//! The only proof, in types, that bytes were signed by those who may decide.

use super::keys::KeyId;

/// A value that signatures vouch for, and who gave them.
///
/// Only a [`Lookup`](super::Lookup) makes one. What is parsed from it stays one by
/// [`Verified::try_map`].
///
/// ```compile_fail
/// # use shared::trust::Verified;
/// let (path, role) = ("eu-prod/webshop".to_owned(), "shop".to_owned());
/// let forged = Verified { value: "anything", path, role, version: 1, signers: Vec::new() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    path: String,
    role: String,
    version: u64,
    signers: Vec<KeyId>,
}

impl<T> Verified<T> {
    pub(super) const fn new(
        value: T,
        path: String,
        role: String,
        version: u64,
        signers: Vec<KeyId>,
    ) -> Self {
        Self { value, path, role, version, signers }
    }

    /// Returns the value.
    pub const fn get(&self) -> &T {
        &self.value
    }

    /// Takes the value out; what remains is no proof any more.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Returns the target path that was asked for, such as `eu-prod/webshop`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the role that lists the target.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Returns that role's version.
    pub const fn role_version(&self) -> u64 {
        self.version
    }

    /// Returns the keys whose signatures were counted.
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }

    /// Parses the value, and keeps who vouched for it.
    ///
    /// # Errors
    /// When `parse` does.
    pub fn try_map<U, E>(self, parse: impl FnOnce(T) -> Result<U, E>) -> Result<Verified<U>, E> {
        let Self { value, path, role, version, signers } = self;
        Ok(Verified { value: parse(value)?, path, role, version, signers })
    }
}
