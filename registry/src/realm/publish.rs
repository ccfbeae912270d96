//! Taking a new version of a role: what an agent would refuse, the registry refuses first.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, btree_map},
};

use jiff::Timestamp;
use shared::{
    api::PublishReceipt,
    closure::{ClosureError, ClosureIndex},
    feature::Feature,
    hints::{Hints, HintsError},
    id::{Digest, IdError, TargetPath},
    manifest::{Entry, Manifest, ManifestError},
    nix::{Sha256, StorePath},
    policy::{Policy, PolicyError},
    shard::ShardError,
    trust::{
        self, admit,
        writer::{self, Target, Targets},
    },
    version::SoftwareVersion,
};

use super::{Head, Realm, RealmError, verify::Future};
use crate::blobs::{Blobs, FileName};

/// What the publisher believes is current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// `If-Match`: this version of the role.
    Version(u64),
    /// `If-None-Match: *`: no version of the role.
    Absent,
}

/// Whether the files beside a role are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Needed,
    /// The role is published already: its publisher lost our answer.
    Known,
}

/// What a publisher sends.
#[derive(Debug, Default)]
pub(crate) struct Submission {
    /// The signed role.
    pub(crate) role: Vec<u8>,
    /// Files that it references, by their hashes.
    pub(crate) blobs: BTreeMap<Sha256, Vec<u8>>,
    /// Hints for closure indexes among them.
    pub(crate) hints: Vec<Vec<u8>>,
}

/// Why a publication is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    /// The world moved.
    #[error("role `{role}` is at version {current}, not {}", shown(.expected))]
    Moved { role: String, current: u64, expected: Precondition },
    /// An agent would refuse it.
    #[error(transparent)]
    Refused(#[from] admit::Refusal),
    /// A target path that is none of ours.
    #[error(transparent)]
    Path(#[from] IdError),
    /// A target that is no manifest.
    #[error("`{path}` is refused")]
    Manifest {
        path: TargetPath,
        #[source]
        source: ManifestError,
    },
    /// A target that is no policy.
    #[error("`{path}` is refused")]
    Policy {
        path: TargetPath,
        #[source]
        source: PolicyError,
    },
    /// It asks for what no agent can do.
    #[error("`{path}` asks for {feature}, which no agent supports")]
    Unsupported { path: TargetPath, feature: Feature },
    /// A manifest or policy that does not rise.
    #[error("`{path}` has version {found}, but {current} is published: versions only rise")]
    Version { path: TargetPath, current: String, found: String },
    /// A closure index that did not come and is not there.
    #[error("closure index {digest} of `{path}` is missing")]
    NoClosure { path: TargetPath, digest: Digest },
    /// A closure index that is none.
    #[error("closure index {digest} of `{path}` is refused")]
    Closure {
        path: TargetPath,
        digest: Digest,
        #[source]
        source: ClosureError,
    },
    /// A closure index of something else than the manifest says.
    #[error(
        "closure index {digest} is not of `{root}` with the paths and bytes that `{path}` says"
    )]
    OtherClosure { path: TargetPath, digest: Digest, root: StorePath },
    /// A shard that did not come and is not there.
    #[error("shard {digest} of `{path}` is missing")]
    NoShard { path: TargetPath, digest: Digest },
    /// A shard that hosts would refuse.
    #[error("shard {digest} of `{path}` is refused")]
    Shard {
        path: TargetPath,
        digest: Digest,
        #[source]
        source: ShardError,
    },
    /// Hints that are none.
    #[error("the hints are refused")]
    Hints(#[source] HintsError),
    /// A root that this server could not serve.
    #[error("the new root names other keys for `{0}` than this server's")]
    OnlineKey(&'static str),
    /// The agent's own code does not find its way through what would be served.
    #[error("an agent would refuse what would be served")]
    Agent(#[source] trust::Error),
    /// The registry failed.
    #[error(transparent)]
    Realm(#[from] RealmError),
}

fn shown(expected: &Precondition) -> String {
    match expected {
        Precondition::Version(version) => version.to_string(),
        Precondition::Absent => "absent".to_owned(),
    }
}

/// What agents of this version do not do, whatever the policy says.
const RESERVED: [Feature; 2] = [Feature::Requires, Feature::Rollout];

impl Realm {
    /// Checks that a role may be published, before its files are looked at; tells whether they are
    /// needed.
    pub(crate) fn may_publish(
        &self,
        role: &str,
        expected: Precondition,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Rest, PublishError> {
        let head = self.committed();
        let state = State { realm: self, head: &head };
        if admit::Realm::role(&state, role).is_some_and(|current| current == bytes) {
            return Ok(Rest::Known);
        }
        check_precondition(role, head.version(role), expected)?;
        match admit::admit(&state, role, bytes, &BTreeMap::new(), &self.rules, now) {
            Ok(_) | Err(admit::Refusal::Missing { .. }) => Ok(Rest::Needed),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Takes a new version of a role; once this returns, it is on the disk and served.
    pub(crate) fn publish(
        &self,
        role: &str,
        expected: Precondition,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<PublishReceipt, PublishError> {
        let mut head = self.lock();
        let receipt = |head: &Head| PublishReceipt {
            role: role.to_owned(),
            version: head.version(role),
            timestamp: head.timestamp.header.version,
        };
        let state = State { realm: self, head: &head };
        // Who lost the answer and asks again has already got what they want.
        if admit::Realm::role(&state, role).is_some_and(|bytes| bytes == submission.role) {
            return Ok(receipt(&head));
        }
        check_precondition(role, head.version(role), expected)?;
        let Submission { role: bytes, blobs, .. } = submission;
        let admitted = admit::admit(&state, role, bytes, blobs, &self.rules, now)?;
        if role == "root" {
            self.publish_root(&mut head, bytes, now)?;
            return Ok(receipt(&head));
        }
        let files = Files::collect(&state, &admitted, submission)?;
        self.publish_role(&mut head, &admitted, &files, submission, now)?;
        Ok(receipt(&head))
    }

    fn publish_root(
        &self,
        head: &mut Head,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<(), PublishError> {
        let root = writer::Root::read(bytes, &self.rules)
            .map_err(|source| self.unsigned("root", source))?;
        if let Some(role) = super::foreign_key(&root, &self.keys) {
            return Err(PublishError::OnlineKey(role));
        }
        let name = FileName::metadata(root.header.version, "root");
        self.blobs.write(&name, bytes).map_err(RealmError::from)?;
        head.root = root.header.version;
        // Nothing pins a root; a new timestamp wakes the agents that wait, and they look.
        Ok(self.commit_timestamp(head, now)?)
    }

    fn publish_role(
        &self,
        head: &mut Head,
        admitted: &admit::Admitted,
        files: &Files<'_>,
        submission: &Submission,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        let role_file = FileName::metadata(admitted.version, &admitted.role);
        let mut roles = head.snapshot.roles.clone();
        roles.insert(admitted.role.clone(), admitted.version);
        let (snapshot, bytes) = self.sign_snapshot(head, roles, now)?;
        let version = snapshot.header.version;
        let snapshot_file = FileName::metadata(version, "snapshot");
        let (timestamp, pinned) = self.sign_timestamp(head, version, Target::of(&bytes), now)?;

        let mut future: HashMap<FileName, &[u8]> =
            files.list.iter().map(|(name, bytes)| (name.clone(), *bytes)).collect();
        future.insert(role_file.clone(), &submission.role);
        future.insert(snapshot_file.clone(), &bytes);
        future.insert(FileName::Timestamp, &pinned);
        let root = super::read(&self.name, &self.blobs, &FileName::metadata(head.root, "root"))?;
        Future { blobs: &self.blobs, files: future }
            .verify(&root, &files.changed, &self.rules, now)
            .map_err(PublishError::Agent)?;

        let write =
            |name: &FileName, bytes: &[u8]| self.blobs.write(name, bytes).map_err(RealmError::from);
        for (name, bytes) in &files.list {
            write(name, bytes)?;
        }
        write(&role_file, &submission.role)?;
        write(&snapshot_file, &bytes)?;
        self.write_timestamp(head, Head { root: head.root, timestamp, snapshot }, pinned)?;
        Ok(())
    }
}

fn check_precondition(
    role: &str,
    current: u64,
    expected: Precondition,
) -> Result<(), PublishError> {
    let holds = match expected {
        Precondition::Version(version) => version == current && current > 0,
        Precondition::Absent => current == 0,
    };
    if holds {
        return Ok(());
    }
    Err(PublishError::Moved { role: role.to_owned(), current, expected })
}

/// A realm as admission asks for it.
struct State<'a> {
    realm: &'a Realm,
    head: &'a Head,
}

impl State<'_> {
    fn read(&self, name: &FileName) -> Option<Vec<u8>> {
        self.realm.blobs.read(name).ok().flatten()
    }
}

impl admit::Realm for State<'_> {
    fn role(&self, role: &str) -> Option<Vec<u8>> {
        self.read(&FileName::metadata(self.head.version(role), role))
    }

    fn version(&self, role: &str) -> u64 {
        self.head.version(role)
    }

    fn target(&self, path: &str, sha256: &Sha256) -> Option<u64> {
        let path = TargetPath::parse(path).ok()?;
        let name = FileName::Target { path, digest: Digest::from(*sha256) };
        let metadata = std::fs::metadata(self.realm.blobs.file(&name)).ok()?;
        metadata.is_file().then_some(metadata.len())
    }
}

/// The files of a publication beside the role. What nothing references is left out.
struct Files<'a> {
    list: Vec<(FileName, &'a [u8])>,
    /// The target paths that are new or changed.
    changed: Vec<String>,
}

impl<'a> Files<'a> {
    fn collect(
        state: &State<'_>,
        admitted: &admit::Admitted,
        submission: &'a Submission,
    ) -> Result<Self, PublishError> {
        let previous = previous(state, &admitted.role);
        let mut files = Self { list: Vec::new(), changed: Vec::new() };
        let mut needs = Needs::default();
        for (text, target) in &admitted.targets {
            let path = TargetPath::parse(text)?;
            let name = FileName::Target { path: path.clone(), digest: target.sha256.into() };
            let sent = submission.blobs.get(&target.sha256).map(Vec::as_slice);
            files.list.extend(sent.map(|bytes| (name.clone(), bytes)));
            let before = previous.get(text);
            if before == Some(target) {
                continue;
            }
            files.changed.push(text.clone());
            let there = if sent.is_none() { state.read(&name) } else { None };
            let bytes = sent.or(there.as_deref()).unwrap_or_default();
            let before = before.and_then(|target| {
                let digest = target.sha256.into();
                state.read(&FileName::Target { path: path.clone(), digest })
            });
            check_target(state, &path, bytes, before.as_deref(), submission, &mut needs)?;
        }
        files.add(&state.realm.blobs, &needs, submission);
        files.add_hints(&needs.closures, submission)?;
        Ok(files)
    }

    /// Adds the closure indexes and shards that came and are not there yet.
    fn add(&mut self, blobs: &Blobs, needs: &Needs, submission: &'a Submission) {
        let closures = needs.closures.keys().map(|digest| (FileName::Closure(*digest), digest));
        let shards = needs.shards.iter().map(|digest| (FileName::Shard(*digest), digest));
        for (name, digest) in closures.chain(shards) {
            let sent = submission.blobs.get(&Sha256::from(*digest));
            if let Some(bytes) = sent.filter(|_| !blobs.has(&name)) {
                self.list.push((name, bytes));
            }
        }
    }

    fn add_hints(
        &mut self,
        closures: &BTreeMap<Digest, (u64, u64, StorePath)>,
        submission: &'a Submission,
    ) -> Result<(), PublishError> {
        for bytes in &submission.hints {
            let digest = Hints::index_of(bytes).map_err(PublishError::Hints)?;
            Hints::parse(bytes, digest).map_err(PublishError::Hints)?;
            if !closures.contains_key(&digest) {
                return Err(PublishError::Hints(HintsError::OtherIndex(digest)));
            }
            self.list.push((FileName::Hints(digest), bytes));
        }
        Ok(())
    }
}

/// Returns what the current version of a role lists.
fn previous(state: &State<'_>, role: &str) -> BTreeMap<String, Target> {
    let bytes = admit::Realm::role(state, role);
    let read = bytes.and_then(|bytes| Targets::read(&bytes, role, &state.realm.rules).ok());
    read.map(|targets| targets.targets).unwrap_or_default()
}

/// The files that the targets of a publication name.
#[derive(Debug, Default)]
struct Needs {
    /// With the paths, the bytes and the root of each.
    closures: BTreeMap<Digest, (u64, u64, StorePath)>,
    shards: BTreeSet<Digest>,
}

/// Checks a manifest or policy as an agent would, and notes which files it needs.
fn check_target(
    state: &State<'_>,
    path: &TargetPath,
    bytes: &[u8],
    before: Option<&[u8]>,
    submission: &Submission,
    needs: &mut Needs,
) -> Result<(), PublishError> {
    let ours = SoftwareVersion::current();
    let reserved = |features: Vec<Feature>| {
        let feature = features.into_iter().find(|feature| RESERVED.contains(feature));
        feature.map_or(Ok(()), |feature| {
            Err(PublishError::Unsupported { path: path.clone(), feature })
        })
    };
    if let TargetPath::Policy(_) = path {
        let refused = |source| PublishError::Policy { path: path.clone(), source };
        let policy = Policy::parse(bytes, ours).map_err(refused)?;
        policy.check_place(&state.realm.name, path).map_err(refused)?;
        reserved(policy.features())?;
        let before = before.and_then(|bytes| Policy::parse(bytes, ours).ok());
        let before = before.map(|policy| (0, policy.version.get()));
        return check_rises(path, before, (0, policy.version.get()));
    }
    let refused = |source| PublishError::Manifest { path: path.clone(), source };
    let manifest = Manifest::parse(bytes, ours).map_err(refused)?;
    manifest.check_place(&state.realm.name, path).map_err(refused)?;
    reserved(manifest.features())?;
    let before = before.and_then(|bytes| Manifest::parse(bytes, ours).ok());
    let floor = |manifest: &Manifest| (manifest.epoch, manifest.version.get());
    check_rises(path, before.as_ref().map(floor), floor(&manifest))?;
    for entry in &manifest.entries {
        check_entry(state, path, entry, submission, needs)?;
    }
    let shards = manifest.shards.iter();
    for (index, shards, digest) in
        shards.flat_map(|all| (0..).zip(&all.digests).map(move |(at, digest)| (at, all, *digest)))
    {
        let bytes = find(state, &FileName::Shard(digest), digest, submission)
            .ok_or_else(|| PublishError::NoShard { path: path.clone(), digest })?;
        let shard = shards.read(index, &bytes).map_err(|source| PublishError::Shard {
            path: path.clone(),
            digest,
            source,
        })?;
        needs.shards.insert(digest);
        for entry in &shard.entries {
            check_entry(state, path, entry, submission, needs)?;
        }
    }
    Ok(())
}

/// Checks that the closure index of an entry is there, and is what the entry says.
fn check_entry(
    state: &State<'_>,
    path: &TargetPath,
    entry: &Entry,
    submission: &Submission,
    needs: &mut Needs,
) -> Result<(), PublishError> {
    let digest = entry.closure;
    let index = match needs.closures.entry(digest) {
        btree_map::Entry::Occupied(known) => known.into_mut(),
        btree_map::Entry::Vacant(unknown) => {
            let bytes = find(state, &FileName::Closure(digest), digest, submission)
                .ok_or_else(|| PublishError::NoClosure { path: path.clone(), digest })?;
            let index = ClosureIndex::parse_named(&bytes, digest)
                .map_err(|source| PublishError::Closure { path: path.clone(), digest, source })?;
            unknown.insert((index.len() as u64, index.nar_size(), index.root().clone()))
        }
    };
    if *index != (entry.paths, entry.nar_size, entry.path.clone()) {
        let root = entry.path.clone();
        return Err(PublishError::OtherClosure { path: path.clone(), digest, root });
    }
    Ok(())
}

/// Returns a file that was sent, or is there already.
fn find<'a>(
    state: &State<'_>,
    name: &FileName,
    digest: Digest,
    submission: &'a Submission,
) -> Option<Cow<'a, [u8]>> {
    let sent = submission.blobs.get(&Sha256::from(digest));
    sent.map(|bytes| Cow::Borrowed(bytes.as_slice())).or_else(|| state.read(name).map(Cow::Owned))
}

fn check_rises(
    path: &TargetPath,
    current: Option<(u32, u32)>,
    found: (u32, u32),
) -> Result<(), PublishError> {
    match current {
        Some(current) if current >= found => Err(PublishError::Version {
            path: path.clone(),
            current: format!("{} of epoch {}", current.1, current.0),
            found: format!("{} of epoch {}", found.1, found.0),
        }),
        Some(_) | None => Ok(()),
    }
}
