//! Roles as their signers need them: verified, but perhaps expired, to be changed and signed anew.

use sigstore_tuf::{Role as _, Targets};

use super::error::Error;
use super::keys::KeyId;
use super::rules::Violation;
use super::trusted::Trusted;
use super::writer::{self, WriteError};
use super::{Folder, Need, metadata, threshold};

impl Trusted {
    /// Returns the role `targets`, to read its delegations or to change them.
    ///
    /// # Errors
    /// When it breaks the rules of the writer, which no file of ours does.
    pub fn targets(&self) -> Result<writer::Targets, WriteError> {
        let bytes = self.stored.targets.as_deref().unwrap_or_default();
        writer::Targets::read(bytes, "targets", &self.rules)
    }

    /// Returns the file of a role that `targets` delegates to; none when it was never published.
    #[must_use]
    pub fn role_need(&self, role: &str) -> Option<Need> {
        let version = self.pinned_version(role)?;
        Some(Need {
            folder: Folder::Metadata,
            name: format!("{version}.{role}.json"),
            max_len: self.rules.sizes.delegated,
        })
    }

    /// Verifies the file of a role that `targets` delegates to, and returns it with its signers.
    ///
    /// Expiry is not looked at: whoever signs the next version needs this one all the same.
    ///
    /// # Errors
    /// When it is not the version that the snapshot pins, or not signed by those who may.
    pub fn read_role(
        &self,
        role: &str,
        bytes: &[u8],
    ) -> Result<(writer::Targets, Vec<KeyId>), Error> {
        let file = || format!("{role}.json");
        let malformed = |source| Error::Malformed { file: file(), source };
        let delegations =
            self.set.targets_role("targets").and_then(|targets| targets.delegations.as_ref());
        let authority = delegations
            .and_then(|all| all.roles.iter().find(|known| known.name == role).zip(Some(&all.keys)));
        let Some((delegation, keys)) = authority else {
            return Err(malformed(Violation::Form("nobody delegates to this role".to_owned())));
        };
        let max = self.rules.sizes.delegated;
        let read = metadata::read::<Targets>(bytes, role, max, &self.rules).map_err(malformed)?;
        let signers = threshold::verify(&read, keys, &delegation.role_keys(), role)
            .map_err(|source| Error::Signatures { file: file(), source })?;
        let (found, pinned) = (read.signed().version(), self.pinned_version(role));
        if Some(found) != pinned {
            let what = format!("it is version {found}, and {pinned:?} is pinned");
            return Err(Error::Pin { file: file(), what });
        }
        let targets = writer::Targets::read(bytes, role, &self.rules).map_err(|_| {
            malformed(Violation::Form("its delegations cannot be written again".to_owned()))
        })?;
        Ok((targets, signers))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::{ExpiryRule, Rules};
    use super::super::test_realm::{REALM, TestHost, TestRealm};

    #[test]
    fn whoever_signs_a_role_anew_may_read_it_after_it_has_expired() {
        let mut realm = TestRealm::new();
        realm.today = 70;
        realm.commit();
        let refresh = |expiry| {
            let mut host = TestHost::of(&realm);
            host.rules = Rules { expiry, max_age: None, ..Rules::shoal(REALM) };
            host.refresh(&realm)
        };
        assert_eq!(refresh(ExpiryRule::AllRoles).expect_err("expired").code(), "expired");
        let trusted = refresh(ExpiryRule::OnlineRoles).expect("the signer's view");
        assert_eq!(trusted.targets().expect("targets").delegations.len(), 3);
        let (need, bytes) = (trusted.role_need("shop").expect("published"), "2.shop.json");
        assert_eq!(need.name, bytes);
        let (shop, signers) = trusted.read_role("shop", &realm.files[bytes]).expect("signed");
        assert_eq!((shop.header.version, signers.len()), (2, 1));
        assert!(trusted.read_role("media", &realm.files[bytes]).is_err());
        assert!(trusted.read_role("shop", &realm.files["1.shop.json"]).is_err());
    }
}
