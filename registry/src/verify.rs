//! Verifying all that a registry publishes, by the code with which hosts verify it.

use std::collections::BTreeSet;

use shared::{
    closure::{self, ClosureIndex},
    hints::{self, Hints},
    human,
    id::{Digest, TargetPath},
    manifest::{Entry, Manifest},
    policy::Policy,
    problem::Problem,
    shard::{self, Shard, Shards},
    trust::{
        self, Verified,
        writer::{Delegation, Targets},
    },
    version::SoftwareVersion,
};

use crate::{
    client::{ReadError, Source},
    roles,
    trusted_realm::{self, TrustedRealm},
};

/// How much is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Roles, policies and manifests.
    Signed,
    /// The closure indexes and hints that they name, too.
    Everything,
}

/// One thing that was looked at.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) what: String,
    /// What it is, or why it is refused.
    pub(crate) outcome: Result<String, Problem>,
}

/// Verifies every role that `targets` delegates to, or the one that holds `only`.
///
/// # Errors
/// When the source cannot be read; what is refused is an outcome, so that all of it is told.
pub(crate) async fn realm(
    realm: &TrustedRealm,
    source: &Source,
    only: Option<&TargetPath>,
    depth: Depth,
) -> Result<Vec<Checked>, Problem> {
    let mut verifier = Verifier { realm, source, depth, checked: Vec::new() };
    let trusted = realm.trusted();
    for role in ["root", "targets", "snapshot", "timestamp"] {
        let version = trusted.version(role).unwrap_or_default();
        let expires = trusted.expires(role).map(|time| time.to_string()).unwrap_or_default();
        verifier.note(format!("role {role}"), Ok(format!("version {version}, until {expires}")));
    }
    let targets = trusted.targets().map_err(|error| roles::problem(&error))?;
    for delegation in &targets.delegations {
        let wanted =
            only.is_none_or(|path| delegation.patterns.iter().any(|pattern| pattern.matches(path)));
        if wanted {
            verifier.role(delegation, only).await?;
        }
    }
    Ok(verifier.checked)
}

struct Verifier<'a> {
    realm: &'a TrustedRealm,
    source: &'a Source,
    depth: Depth,
    checked: Vec<Checked>,
}

impl Verifier<'_> {
    fn note(&mut self, what: String, outcome: Result<String, Problem>) {
        self.checked.push(Checked { what, outcome });
    }

    async fn role(
        &mut self,
        delegation: &Delegation,
        only: Option<&TargetPath>,
    ) -> Result<(), Problem> {
        let name = format!("role {}", delegation.role);
        let role = match self.realm.role(&delegation.role).await {
            Ok(Some(role)) => role,
            Ok(None) => {
                self.note(name, Ok("nothing published yet".to_owned()));
                return Ok(());
            }
            Err(problem) => {
                self.note(name, Err(problem));
                return Ok(());
            }
        };
        let Targets { header, targets, .. } = &role;
        let text = format!("version {}, until {}", header.version, header.expires);
        self.note(name, Ok(text));
        for path in targets.keys() {
            match TargetPath::parse(path) {
                Ok(path) if only.is_none_or(|only| *only == path) => self.target(&path).await?,
                Ok(_) => {}
                Err(error) => {
                    self.note(path.clone(), Err(refusal("fence", &error)));
                }
            }
        }
        Ok(())
    }

    async fn target(&mut self, path: &TargetPath) -> Result<(), Problem> {
        let found = self.realm.look_up(path).await?;
        let outcome = match found {
            Err(error) => Err(trusted_realm::refused(&error)),
            Ok(verified) if path.profile().is_none() => self.policy(path, &verified),
            Ok(verified) => match self.manifest(path, &verified) {
                Ok((manifest, text)) => {
                    self.note(path.to_string(), Ok(text));
                    if self.depth == Depth::Everything {
                        self.closures(path, &manifest).await?;
                    }
                    return Ok(());
                }
                Err(problem) => Err(problem),
            },
        };
        self.note(path.to_string(), outcome);
        Ok(())
    }

    fn policy(&self, path: &TargetPath, bytes: &Verified<Vec<u8>>) -> Result<String, Problem> {
        let policy = Policy::parse(bytes.get(), SoftwareVersion::current());
        let placed =
            policy.and_then(|policy| policy.check_place(self.realm.name(), path).map(|()| policy));
        let policy = placed.map_err(|error| refusal("policy", &error))?;
        Ok(format!("policy, version {}, {}", policy.version, signed_by(bytes)))
    }

    fn manifest(
        &self,
        path: &TargetPath,
        bytes: &Verified<Vec<u8>>,
    ) -> Result<(Manifest, String), Problem> {
        let manifest = Manifest::parse(bytes.get(), SoftwareVersion::current());
        let placed = manifest
            .and_then(|manifest| manifest.check_place(self.realm.name(), path).map(|()| manifest));
        let manifest = placed.map_err(|error| refusal("manifest", &error))?;
        let text = format!("manifest, version {}, {}", manifest.version, signed_by(bytes));
        Ok((manifest, text))
    }

    /// Checks the closure indexes of a manifest, each once, also those that its shards name.
    async fn closures(&mut self, path: &TargetPath, manifest: &Manifest) -> Result<(), Problem> {
        let mut entries = manifest.entries.clone();
        for (index, shards) in manifest
            .shards
            .iter()
            .flat_map(|all| (0..all.digests.len()).map(move |index| (index, all)))
        {
            match self.shard(path, shards, index).await? {
                Ok(shard) => entries.extend(shard.entries),
                Err(problem) => self.note(format!("{path} shard {index}"), Err(problem)),
            }
        }
        let mut seen = BTreeSet::new();
        entries.retain(|entry| {
            seen.insert((entry.closure, entry.path.clone(), entry.paths, entry.nar_size))
        });
        for entry in &entries {
            self.closure(path, entry).await?;
        }
        Ok(())
    }

    async fn shard(
        &mut self,
        path: &TargetPath,
        shards: &Shards,
        index: usize,
    ) -> Result<Result<Shard, Problem>, Problem> {
        let Some(digest) = shards.digests.get(index) else {
            return Ok(Err(missing(&path.to_string())));
        };
        let name = format!("shards/{digest}");
        Ok(match self.read(&name, shard::MAX_LEN).await? {
            Some(bytes) => shards.read(index, &bytes).map_err(|error| refusal("shard", &error)),
            None => Err(missing(&name)),
        })
    }

    async fn closure(&mut self, path: &TargetPath, entry: &Entry) -> Result<(), Problem> {
        let what = format!("{path} closure {}", short(entry.closure));
        let name = format!("closures/{}", entry.closure);
        let outcome = match self.read(&name, closure::MAX_LEN).await? {
            Some(bytes) => index(&bytes, entry),
            None => Err(missing(&name)),
        };
        self.note(what, outcome);
        let what = format!("{path} hints {}", short(entry.closure));
        let name = format!("closures/{}.hints", entry.closure);
        let outcome = match self.read(&name, hints::MAX_LEN).await? {
            Some(bytes) => Hints::parse(&bytes, entry.closure)
                .map(|hints| format!("of {}", human::count(hints.caches().count(), "cache")))
                .map_err(|error| refusal("hints", &error)),
            None => Ok("none; hosts ask the caches instead".to_owned()),
        };
        self.note(what, outcome);
        Ok(())
    }

    async fn read(&self, name: &str, max: usize) -> Result<Option<Vec<u8>>, Problem> {
        let read = self.source.get(name, max as u64).await;
        read.map(|bytes| bytes.map(Vec::from)).map_err(|error: ReadError| error.problem())
    }
}

fn index(bytes: &[u8], entry: &Entry) -> Result<String, Problem> {
    let index = ClosureIndex::parse_named(bytes, entry.closure)
        .map_err(|error| refusal("closure", &error))?;
    let said = (&entry.path, entry.paths, entry.nar_size);
    if said != (index.root(), index.len() as u64, index.nar_size()) {
        let what = "the closure index has another root or size than the manifest says";
        return Err(Problem::new(shared::problem::Kind::Trust, "closure", what));
    }
    Ok(format!("{} of {}", human::count(index.len(), "path"), index.root()))
}

fn signed_by(bytes: &Verified<Vec<u8>>) -> String {
    let keys: Vec<String> = bytes.signers().iter().map(|key| key.short().to_owned()).collect();
    format!("signed by key {}", keys.join(", "))
}

fn short(digest: Digest) -> String {
    digest.to_string().chars().take(8).collect()
}

fn missing(name: &str) -> Problem {
    let error = trust::Error::Behind { what: format!("it has no `{name}`") };
    trusted_realm::refused(&error)
}

fn refusal(code: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::from_error(shared::problem::Kind::Trust, code, error)
}
