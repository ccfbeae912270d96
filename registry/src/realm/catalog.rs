//! What is in force, as people ask for it: roles, keys, fences, and the targets that each role lists.
//!
//! Read from the signed files, once for each snapshot; a role that did not change is not read again.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use shared::{
    id::{Digest, GroupName, ProfileName, TargetPath},
    problem,
    trust::{
        fence::Pattern,
        writer::{self, Delegation, Document, Keyring, Target, Targets},
    },
};

use super::{Realm, RealmError, read};
use crate::blobs::FileName;

/// The roles of a realm as a snapshot has them.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// The versions of root and snapshot that this is of.
    pub(crate) of: (u64, u64),
    pub(crate) root: writer::Root,
    /// The role `targets`.
    pub(crate) top: Arc<Signed>,
    /// Whom it delegates to, each before those that it delegates to in turn.
    pub(crate) roles: Vec<Role>,
}

/// A delegated role: a team, one of its sub-roles, or the owners of a group.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    /// Who delegates to it.
    pub(crate) parent: String,
    pub(crate) ring: Keyring,
    pub(crate) patterns: Vec<Pattern>,
    /// What it signed last; none before it has published anything.
    pub(crate) signed: Option<Arc<Signed>>,
}

/// A version of a role.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) targets: Targets,
    /// The ids of the keys that signed it.
    pub(crate) signers: Vec<String>,
}

/// A target that is in force.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) path: TargetPath,
    pub(crate) digest: Digest,
}

impl Catalog {
    /// Returns the targets of a group that are in force, policy included, by their paths.
    pub(crate) fn group(&self, group: &GroupName) -> Vec<Listed> {
        let ours = |path: &TargetPath| path.group() == group;
        let mut found: BTreeMap<TargetPath, Listed> = BTreeMap::new();
        for role in &self.roles {
            for listed in role.listed().filter(|listed| ours(&listed.path)) {
                // The first role in order whose fence has it is the one that hosts ask.
                found.entry(listed.path.clone()).or_insert(listed);
            }
        }
        found.into_values().collect()
    }

    /// Returns the manifest of a profile that is in force.
    pub(crate) fn manifest(&self, group: &GroupName, profile: &ProfileName) -> Option<Listed> {
        let found = self.group(group);
        found.into_iter().find(|listed| listed.path.profile() == Some(profile))
    }

    /// Returns every group that somebody may publish for by its name, or has published for.
    pub(crate) fn groups(&self) -> Vec<GroupName> {
        let listed = self.roles.iter().flat_map(Role::listed);
        let owned = self.roles.iter().filter_map(|role| {
            role.name.parse::<shared::id::RoleName>().ok().and_then(|name| name.owned_group())
        });
        let mut groups: Vec<GroupName> =
            listed.map(|listed| listed.path.group().clone()).chain(owned).collect();
        groups.sort();
        groups.dedup();
        groups
    }
}

impl Role {
    /// Returns what it lists within its fence: what hosts would take from it.
    pub(crate) fn listed(&self) -> impl Iterator<Item = Listed> {
        self.signed.iter().flat_map(move |signed| {
            signed.targets.targets.iter().filter_map(move |(path, target): (_, &Target)| {
                let path = TargetPath::parse(path).ok()?;
                let digest = Digest::from(target.sha256);
                let fits = self.patterns.iter().any(|pattern| pattern.matches(&path));
                fits.then_some(Listed { path, digest })
            })
        })
    }
}

impl Realm {
    /// Returns what is in force. Reads files: not where that must not block.
    ///
    /// # Errors
    /// When a file that the snapshot names cannot be read.
    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>, RealmError> {
        // Held while it is read, so that of many who ask one reads.
        let mut kept = self.catalog.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.committed();
        let of = (head.root, head.snapshot.header.version);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.of == of) {
            return Ok(Arc::clone(kept));
        }
        let bytes = read(&self.name, &self.blobs, &FileName::metadata(of.0, "root"))?;
        let root = writer::Root::read(&bytes, &self.rules);
        let root = root.map_err(|source| self.damaged_role("root", source))?;
        let before = kept.as_deref();
        let known = before.into_iter().flat_map(|before| {
            let signed = before.roles.iter().filter_map(|role| role.signed.as_ref());
            signed.chain([&before.top]).map(|signed| {
                let targets = &signed.targets;
                ((targets.role.as_str(), targets.header.version), Arc::clone(signed))
            })
        });
        let known: BTreeMap<(&str, u64), Arc<Signed>> = known.collect();
        let load = |role: &str| -> Result<Option<Arc<Signed>>, RealmError> {
            let version = head.version(role);
            if version == 0 {
                return Ok(None);
            }
            match known.get(&(role, version)) {
                Some(signed) => Ok(Some(Arc::clone(signed))),
                None => self.load_role(role, version).map(|signed| Some(Arc::new(signed))),
            }
        };
        let top = load("targets")?.ok_or_else(|| RealmError::Damaged {
            realm: self.name.clone(),
            file: "metadata".to_owned(),
            source: None,
        })?;
        let mut roles = Vec::new();
        let mut next: Vec<(String, Delegation)> = delegations(&top.targets);
        while !next.is_empty() {
            let mut below = Vec::new();
            for (parent, delegation) in next {
                let Delegation { role: name, ring, patterns } = delegation;
                let signed = load(&name)?;
                // Only a team delegates further, and its sub-roles to nobody.
                if parent == "targets" {
                    below.extend(signed.iter().flat_map(|signed| delegations(&signed.targets)));
                }
                roles.push(Role { name, parent, ring, patterns, signed });
            }
            next = below;
        }
        let catalog = Arc::new(Catalog { of, root, top, roles });
        *kept = Some(Arc::clone(&catalog));
        Ok(catalog)
    }

    fn load_role(&self, role: &str, version: u64) -> Result<Signed, RealmError> {
        let bytes = read(&self.name, &self.blobs, &FileName::metadata(version, role))?;
        let damaged = |source| self.damaged_role(role, source);
        let targets = Targets::read(&bytes, role, &self.rules).map_err(damaged)?;
        let signers = match Document::read(&bytes, role, &self.rules) {
            Ok(document) => document.signers().into_iter().map(ToString::to_string).collect(),
            Err(error) => {
                tracing::warn!(role, error = problem::chain(&error), "cannot tell who signed");
                Vec::new()
            }
        };
        Ok(Signed { targets, signers })
    }

    fn damaged_role(&self, role: &str, source: writer::WriteError) -> RealmError {
        let (realm, file) = (self.name.clone(), role.to_owned());
        RealmError::Damaged { realm, file, source: Some(source) }
    }
}

fn delegations(targets: &Targets) -> Vec<(String, Delegation)> {
    let from = &targets.role;
    targets.delegations.iter().map(|delegation| (from.clone(), delegation.clone())).collect()
}
