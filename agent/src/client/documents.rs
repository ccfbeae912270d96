//! Policies and manifests: each found, verified and stored on its own, so that what fails holds
//! back only its group or its profile.

use std::collections::BTreeMap;

use shared::id::{GroupName, ProfileName, TargetPath};
use shared::manifest::{Manifest, ManifestError};
use shared::policy::{Policy, PolicyError, Take};
use shared::problem::chain;
use shared::trust::{Error, Found, Trusted, Verified};
use shared::version::SoftwareVersion;

use super::refresh::RESTARTS;
use super::{Client, Source, Trouble, TrustFacts};
use crate::state::{Code, Reason};

/// All that this host's groups publish for it.
#[derive(Debug)]
pub(crate) struct Documents {
    /// What was verified at the top.
    pub(crate) facts: TrustFacts,
    /// Each group that the host follows, or why nothing of it can be used.
    pub(crate) groups: BTreeMap<GroupName, Result<GroupDocuments, Reason>>,
}

/// What one group publishes.
#[derive(Debug)]
pub(crate) struct GroupDocuments {
    /// The policy.
    pub(crate) policy: Verified<Policy>,
    /// The manifest of each profile that the policy lets run, or why there is none.
    pub(crate) manifests: BTreeMap<ProfileName, Result<Verified<Manifest>, Reason>>,
}

impl Client {
    /// Reads every document of every group; `first` is the source that was good.
    pub(super) async fn documents(&self, trusted: &Trusted, first: Option<usize>) -> Documents {
        let mut groups = BTreeMap::new();
        for group in self.groups() {
            let documents = self.group_documents(trusted, first, group).await;
            groups.insert(group.clone(), documents);
        }
        Documents { facts: TrustFacts::of(trusted), groups }
    }

    async fn group_documents(
        &self,
        trusted: &Trusted,
        first: Option<usize>,
        group: &GroupName,
    ) -> Result<GroupDocuments, Reason> {
        let target = TargetPath::Policy(group.clone());
        let found = self.target(trusted, first, &target).await?;
        let policy = found.target.try_map(|bytes| {
            let policy = Policy::parse(&bytes, SoftwareVersion::current())?;
            policy.check_place(&self.settings.realm, &target)?;
            Ok(policy)
        });
        let policy = policy.map_err(|error: PolicyError| {
            let misplaced = matches!(error, PolicyError::Misplaced { .. });
            malformed(misplaced, &error)
        })?;
        let mut manifests = BTreeMap::new();
        for (profile, rule) in &policy.get().profiles {
            if rule.take == Take::Yes {
                let target = TargetPath::Manifest(group.clone(), profile.clone());
                manifests.insert(profile.clone(), self.manifest(trusted, first, &target).await);
            }
        }
        Ok(GroupDocuments { policy, manifests })
    }

    async fn manifest(
        &self,
        trusted: &Trusted,
        first: Option<usize>,
        target: &TargetPath,
    ) -> Result<Verified<Manifest>, Reason> {
        let found = self.target(trusted, first, target).await?;
        let manifest = found.target.try_map(|bytes| {
            let manifest = Manifest::parse(&bytes, SoftwareVersion::current())?;
            manifest.check_place(&self.settings.realm, target)?;
            Ok(manifest)
        });
        let manifest = manifest.map_err(|error: ManifestError| {
            let misplaced = matches!(error, ManifestError::Misplaced { .. });
            malformed(misplaced, &error)
        })?;
        self.with_shard(first, target, manifest).await
    }

    /// Finds one target, asking the sources in turn for what is not stored.
    async fn target(
        &self,
        trusted: &Trusted,
        first: Option<usize>,
        path: &TargetPath,
    ) -> Result<Found, Reason> {
        let mut worst: Option<Trouble> = None;
        for source in self.sources_from(first) {
            match self.target_patiently(trusted, source, path).await {
                Ok(found) => return Ok(found),
                Err(Attempt::NotListed(reason)) => return Err(reason),
                Err(Attempt::Failed(trouble)) => {
                    if worst.as_ref().is_none_or(|worst| trouble.severity() > worst.severity()) {
                        worst = Some(trouble);
                    }
                }
            }
        }
        Err(worst.unwrap_or(Trouble::NoSource).reason())
    }

    /// Returns the sources to ask, the good one first; nobody is better than none, because what
    /// is stored may be enough.
    pub(super) fn sources_from(
        &self,
        first: Option<usize>,
    ) -> impl Iterator<Item = Option<&Source>> {
        let good = first.and_then(|index| self.sources.get(index));
        let others =
            self.sources.iter().enumerate().filter(move |(index, _)| Some(*index) != first);
        let nobody = self.sources.is_empty().then_some(None);
        good.map(Some).into_iter().chain(others.map(|(_, source)| Some(source))).chain(nobody)
    }

    /// Asks one source, again if another process has meanwhile committed this target.
    async fn target_patiently(
        &self,
        trusted: &Trusted,
        source: Option<&Source>,
        path: &TargetPath,
    ) -> Result<Found, Attempt> {
        let mut restarts = 0;
        loop {
            match self.target_from(trusted, source, path).await {
                Err(Attempt::Failed(trouble)) if trouble.is_overtaken() && restarts < RESTARTS => {
                    restarts += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn target_from(
        &self,
        trusted: &Trusted,
        source: Option<&Source>,
        path: &TargetPath,
    ) -> Result<Found, Attempt> {
        let source_url =
            || source.map_or("state_dir".to_owned(), |source| source.base().to_string());
        let refused = |error| Trouble::Trust { source_url: source_url(), source: error };
        let known = self.store.target(path).map_err(Trouble::from)?;
        let before = if known.target.is_some() { Before::Found } else { Before::Nothing };
        let mut lookup = match trusted.lookup(&path.to_string(), known.clone()) {
            Ok(lookup) => lookup,
            Err(Error::NotListed { .. }) => {
                return Err(Attempt::NotListed(not_listed(path, Reached::No, before)));
            }
            Err(error) => return Err(refused(error).into()),
        };
        while let Some(need) = lookup.need() {
            let source = source.ok_or(Trouble::NoSource)?;
            let bytes = self.fetch(source, &need).await?;
            match lookup.feed(&need.name, bytes) {
                Ok(()) => {}
                Err(Error::NotListed { .. }) => {
                    return Err(Attempt::NotListed(not_listed(path, Reached::Yes, before)));
                }
                Err(error) => return Err(refused(error).into()),
            }
        }
        let found = lookup.finish().map_err(refused)?;
        self.store.commit_target(path, &known, &found.stored).map_err(Trouble::from)?;
        Ok(found)
    }
}

/// How the search at one source ended without a target.
#[derive(Debug)]
enum Attempt {
    /// Everything is verified, and nobody lists the target: no other source can know better.
    NotListed(Reason),
    /// This source was no good.
    Failed(Trouble),
}

impl From<Trouble> for Attempt {
    fn from(trouble: Trouble) -> Self {
        Self::Failed(trouble)
    }
}

/// Whether a delegation led somewhere at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes,
    No,
}

/// Whether this host ever found the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Found,
    Nothing,
}

/// Nobody having published is no fault of anything; a publisher who lost the right to is.
fn not_listed(path: &TargetPath, reached: Reached, before: Before) -> Reason {
    match (reached, before) {
        (Reached::No, Before::Found) => {
            Reason::new(Code::Revoked, format!("no role may publish `{path}` any more"))
        }
        (Reached::No, Before::Nothing) | (Reached::Yes, _) => {
            Reason::new(Code::NoManifest, format!("nobody publishes `{path}`"))
        }
    }
}

/// What is rightly signed but is not for this place is a replay; anything else may be the future.
fn malformed(misplaced: bool, error: &dyn std::error::Error) -> Reason {
    let code = if misplaced { Code::Untrusted } else { Code::Unsupported };
    Reason::new(code, chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_that_nobody_published_yet_is_no_fault_but_a_lost_right_is() {
        let path: TargetPath = "eu-prod/web".parse().unwrap();
        for (reached, before, code) in [
            (Reached::No, Before::Nothing, Code::NoManifest),
            (Reached::Yes, Before::Nothing, Code::NoManifest),
            (Reached::Yes, Before::Found, Code::NoManifest),
            (Reached::No, Before::Found, Code::Revoked),
        ] {
            assert_eq!(not_listed(&path, reached, before).code, code, "{reached:?}, {before:?}");
        }
    }
}
