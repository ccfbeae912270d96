//! What a registry asks of a role file before it takes it: all that an agent would ask, and that
//! it follows on the current version.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sigstore_tuf::metadata::RoleKeys;
use sigstore_tuf::{Key, Metadata, Role as _, Root, Snapshot, Targets};

use super::fence::{self, Pattern, RoleKind};
use super::keys::KeyId;
use super::metadata::{self, Ruled};
use super::rules::{Rules, Violation};
use super::threshold::{self, ThresholdError};
use super::writer::Target;
use crate::id::TargetPath;
use crate::nix::Sha256;

/// A realm's files as they are now, from whoever keeps them.
pub trait Realm {
    /// Returns the current file of a role: `root`, `targets`, or one delegated to.
    fn role(&self, role: &str) -> Option<Vec<u8>>;

    /// Returns the version of a role that snapshots pin, 0 for one that never was; an entry stays
    /// also when the role is removed.
    fn version(&self, role: &str) -> u64;

    /// Returns the length of a target file that is there, by its path and hash.
    fn target(&self, path: &str, sha256: &Sha256) -> Option<u64>;
}

/// A role file that the registry may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The role.
    pub role: String,
    /// Its new version.
    pub version: u64,
    /// Who signed it.
    pub signers: Vec<KeyId>,
    /// All that it lists.
    pub targets: BTreeMap<String, Target>,
    /// The paths whose bytes came with it, or were there under another version.
    pub changed: Vec<String>,
}

/// Why a registry does not take a role file.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No current metadata delegates to the role.
    #[error("no role delegates to `{role}`")]
    Undelegated {
        /// The role.
        role: String,
    },
    /// Not signed by those who may.
    #[error("role `{role}` is not signed by those who may")]
    Signatures {
        /// The role.
        role: String,
        /// The count.
        #[source]
        source: ThresholdError,
    },
    /// A target that the role may not hold.
    #[error("role `{role}` may not publish `{path}`")]
    OutsideFence {
        /// The role.
        role: String,
        /// The path.
        path: String,
    },
    /// Not the version after the current one.
    #[error("role `{role}` is at version {current}, so the next is {next}, not {found}", next = .current + 1)]
    Moved {
        /// The role.
        role: String,
        /// The current version.
        current: u64,
        /// The version that came.
        found: u64,
    },
    /// Against the rules.
    #[error("role `{role}` breaks the rules")]
    Malformed {
        /// The role.
        role: String,
        /// The rule.
        #[source]
        source: Violation,
    },
    /// Expired, or so nearly that nobody could use it.
    #[error("role `{role}` expired at {expires}")]
    Expired {
        /// The role.
        role: String,
        /// When.
        expires: Timestamp,
    },
    /// A target whose bytes did not come, or are not those listed.
    #[error("the bytes of `{path}` with SHA-256 {sha256} are missing", sha256 = .sha256.to_hex())]
    Missing {
        /// The path.
        path: String,
        /// The hash listed.
        sha256: Sha256,
    },
    /// A role that the registry signs itself.
    #[error("role `{role}` is not published")]
    NotPublished {
        /// The role.
        role: String,
    },
    /// What is there now cannot be read: the registry's own trouble.
    #[error("the current metadata of `{role}` cannot be used")]
    Current {
        /// The role.
        role: String,
        /// Why.
        #[source]
        source: Violation,
    },
}

impl Refusal {
    /// Returns the HTTP status that says so.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Undelegated { .. } | Self::Signatures { .. } | Self::OutsideFence { .. } => 403,
            Self::Moved { .. } => 412,
            Self::Malformed { source: Violation::TooLarge { .. }, .. } => 413,
            Self::Malformed { .. }
            | Self::Expired { .. }
            | Self::Missing { .. }
            | Self::NotPublished { .. } => 422,
            Self::Current { .. } => 500,
        }
    }

    /// Returns the stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Undelegated { .. } => "not_delegated",
            Self::Signatures { .. } => "bad_signature",
            Self::OutsideFence { .. } => "fence",
            Self::Moved { .. } => "moved",
            Self::Malformed { source, .. } => source.code(),
            Self::Expired { .. } => "expired",
            Self::Missing { .. } => "missing_target",
            Self::NotPublished { .. } => "not_published",
            Self::Current { .. } => "registry_state",
        }
    }
}

/// Checks a new version of `role`; `blobs` are the target files that came with it, by hash.
///
/// # Errors
/// When the registry must not take it; see [`Refusal::status`].
pub fn admit(
    realm: &impl Realm,
    role: &str,
    candidate: &[u8],
    blobs: &BTreeMap<Sha256, Vec<u8>>,
    rules: &Rules,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let kind = fence::role_kind(role).map_err(|error| malformed(role, error.into()))?;
    match (kind, role) {
        (RoleKind::TopLevel, "root") => admit_root(realm, candidate, rules, now),
        (RoleKind::TopLevel, "snapshot" | "timestamp") => {
            Err(Refusal::NotPublished { role: role.to_owned() })
        }
        (RoleKind::TopLevel | RoleKind::Owners(_) | RoleKind::Team | RoleKind::Part { .. }, _) => {
            admit_targets(realm, role, candidate, blobs, rules, now)
        }
    }
}

/// Returns the keys that signed a snapshot, of those that this root names for it.
///
/// For who looks at the past: what a host takes is pinned by the timestamp, too.
///
/// # Errors
/// When either file breaks the rules, or the snapshot has too few signatures.
pub fn snapshot_signers(
    root: &[u8],
    snapshot: &[u8],
    rules: &Rules,
) -> Result<Vec<KeyId>, Refusal> {
    let root = current_file::<Root>(root, "root", rules)?;
    let snapshot = read::<Snapshot>(snapshot, "snapshot", rules)?;
    let authority = root.signed().role("snapshot").ok_or_else(|| undelegated("snapshot"))?;
    count(&snapshot, &root.signed().keys, authority, "snapshot")
}

fn admit_root(
    realm: &impl Realm,
    candidate: &[u8],
    rules: &Rules,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let new = read::<Root>(candidate, "root", rules)?;
    let current = realm.role("root").ok_or_else(|| undelegated("root"))?;
    let current = current_file::<Root>(&current, "root", rules)?;
    let version = current.signed().version;
    follows("root", version, new.signed().version)?;
    let mut signers = Vec::new();
    for root in [current.signed(), new.signed()] {
        let authority = root.role("root").ok_or_else(|| undelegated("root"))?;
        signers = count(&new, &root.keys, authority, "root")?;
    }
    unexpired("root", new.signed().expires(), now)?;
    Ok(Admitted {
        role: "root".to_owned(),
        version: new.signed().version,
        signers,
        targets: BTreeMap::new(),
        changed: Vec::new(),
    })
}

fn admit_targets(
    realm: &impl Realm,
    role: &str,
    candidate: &[u8],
    blobs: &BTreeMap<Sha256, Vec<u8>>,
    rules: &Rules,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let authority = authority(realm, role, rules)?;
    let new = read::<Targets>(candidate, role, rules)?;
    let signers = count(&new, &authority.keys, &authority.role_keys, role)?;
    for path in new.signed().targets.keys() {
        if !authority.allows(path) {
            return Err(Refusal::OutsideFence { role: role.to_owned(), path: path.clone() });
        }
    }
    follows(role, realm.version(role), new.signed().version)?;
    unexpired(role, new.signed().expires(), now)?;
    let targets = listed(&new);
    let mut changed = Vec::new();
    for (path, target) in &targets {
        let sent = blobs.get(&target.sha256).map(Vec::as_slice).map(Target::of);
        let there = realm.target(path, &target.sha256);
        let right = |length: u64| length == target.length && length <= rules.sizes.target;
        if sent.is_some_and(|sent| right(sent.length) && sent.sha256 == target.sha256) {
            changed.push(path.clone());
        } else if !there.is_some_and(right) {
            return Err(Refusal::Missing { path: path.clone(), sha256: target.sha256 });
        }
    }
    let version = new.signed().version;
    Ok(Admitted { role: role.to_owned(), version, signers, targets, changed })
}

/// Who may sign for a role, and every fence on the way to it.
struct Authority {
    keys: BTreeMap<String, Key>,
    role_keys: RoleKeys,
    fences: Vec<Vec<Pattern>>,
}

impl Authority {
    fn allows(&self, path: &str) -> bool {
        TargetPath::parse(path).is_ok_and(|path| {
            self.fences.iter().all(|fence| fence.iter().any(|pattern| pattern.matches(&path)))
        })
    }
}

/// Follows the delegations from root to `role`, as its name says they go.
fn authority(realm: &impl Realm, role: &str, rules: &Rules) -> Result<Authority, Refusal> {
    let delegator = match fence::role_kind(role) {
        Ok(RoleKind::Owners(_) | RoleKind::Team) => "targets".to_owned(),
        Ok(RoleKind::Part { team }) => team,
        Ok(RoleKind::TopLevel) => {
            let root = realm.role("root").ok_or_else(|| undelegated(role))?;
            let root = current_file::<Root>(&root, "root", rules)?;
            let role_keys = root.signed().role(role).ok_or_else(|| undelegated(role))?.clone();
            let keys = root.signed().keys.clone();
            return Ok(Authority { keys, role_keys, fences: Vec::new() });
        }
        Err(error) => return Err(malformed(role, error.into())),
    };
    let above = authority(realm, &delegator, rules)?;
    let file = realm.role(&delegator).ok_or_else(|| undelegated(role))?;
    let file = current_file::<Targets>(&file, &delegator, rules)?;
    // The keys above may have changed since the delegator last published.
    count(&file, &above.keys, &above.role_keys, &delegator)?;
    let delegations = file.signed().delegations.as_ref().ok_or_else(|| undelegated(role))?;
    let patterns = metadata::patterns(delegations)
        .map_err(|source| Refusal::Current { role: delegator.clone(), source })?;
    let (delegation, patterns) = delegations
        .roles
        .iter()
        .zip(patterns)
        .find(|(delegation, _)| delegation.name == role)
        .ok_or_else(|| undelegated(role))?;
    let mut fences = above.fences;
    fences.push(patterns);
    Ok(Authority { keys: delegations.keys.clone(), role_keys: delegation.role_keys(), fences })
}

fn listed(targets: &Metadata<Targets>) -> BTreeMap<String, Target> {
    let describe = |(path, file): (&String, &sigstore_tuf::TargetFile)| {
        let sha256 = Sha256::from_hex(file.hashes.get("sha256")?)?;
        Some((path.clone(), Target { length: file.length, sha256 }))
    };
    targets.signed().targets.iter().filter_map(describe).collect()
}

fn read<T: Ruled>(bytes: &[u8], role: &str, rules: &Rules) -> Result<Metadata<T>, Refusal> {
    metadata::read(bytes, role, rules.max_len(role), rules)
        .map_err(|source| malformed(role, source))
}

fn current_file<T: Ruled>(bytes: &[u8], role: &str, rules: &Rules) -> Result<Metadata<T>, Refusal> {
    metadata::read(bytes, role, rules.max_len(role), rules)
        .map_err(|source| Refusal::Current { role: role.to_owned(), source })
}

fn count<T: Ruled>(
    file: &Metadata<T>,
    keys: &BTreeMap<String, Key>,
    authority: &RoleKeys,
    role: &str,
) -> Result<Vec<KeyId>, Refusal> {
    threshold::verify(file, keys, authority, role)
        .map_err(|source| Refusal::Signatures { role: role.to_owned(), source })
}

fn follows(role: &str, current: u64, found: u64) -> Result<(), Refusal> {
    if current.checked_add(1) != Some(found) {
        return Err(Refusal::Moved { role: role.to_owned(), current, found });
    }
    Ok(())
}

fn unexpired(role: &str, expires: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if expires <= now {
        return Err(Refusal::Expired { role: role.to_owned(), expires });
    }
    Ok(())
}

fn undelegated(role: &str) -> Refusal {
    Refusal::Undelegated { role: role.to_owned() }
}

fn malformed(role: &str, source: Violation) -> Refusal {
    Refusal::Malformed { role: role.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::test_realm::{REALM, TestRealm, day, key, ring};
    use super::super::writer::{self, Delegation, Document};
    use super::*;

    impl Realm for TestRealm {
        fn role(&self, role: &str) -> Option<Vec<u8>> {
            let version = match role {
                "root" => self.root.header.version,
                role => self.version(role),
            };
            self.files.get(&format!("{version}.{role}.json")).cloned()
        }

        fn version(&self, role: &str) -> u64 {
            self.versions.get(role).copied().unwrap_or(0)
        }

        fn target(&self, path: &str, sha256: &Sha256) -> Option<u64> {
            let (group, profile) = path.split_once('/')?;
            let bytes = self.files.get(&format!("{group}/{}.{profile}", sha256.to_hex()))?;
            u64::try_from(bytes.len()).ok()
        }
    }

    const NEW: &[u8] = b"eu/webshop version 2";

    fn try_put(
        realm: &TestRealm,
        role: &str,
        candidate: &[u8],
        blob: &[u8],
    ) -> Result<Admitted, Refusal> {
        let blobs = BTreeMap::from([(Sha256::of(blob), blob.to_vec())]);
        admit(realm, role, candidate, &blobs, &Rules::shoal(REALM), day(0))
    }

    fn signed(
        document: Result<Document, writer::WriteError>,
        role: &str,
        generation: u8,
    ) -> Vec<u8> {
        let mut document = document.expect("a document");
        document.sign(&key(role, generation));
        document.to_bytes()
    }

    /// The next version of `shop`, whose bytes the realm has not.
    fn next(realm: &mut TestRealm) -> writer::Targets {
        let next = realm.with_target("shop", "eu/webshop", NEW);
        realm.files.retain(|_, bytes| bytes != NEW);
        next
    }

    #[test]
    fn takes_the_next_version_and_says_what_changed() {
        let mut realm = TestRealm::new();
        let role = signed(next(&mut realm).document(), "shop", 0);
        let admitted = try_put(&realm, "shop", &role, NEW).expect("admitted");
        assert_eq!((admitted.version, admitted.changed), (3, vec!["eu/webshop".to_owned()]));
        assert_eq!(admitted.signers, [key("shop", 0).public().key_id()]);
    }

    #[test]
    fn refuses_what_an_agent_would_refuse() {
        type Change = fn(&mut writer::Targets);
        type Case = (&'static str, Change, u8, &'static [u8], u16, &'static str);
        let cases: [Case; 9] = [
            ("a stranger's key", |_| {}, 7, NEW, 403, "bad_signature"),
            ("an old version", |role| role.header.version = 2, 0, NEW, 412, "moved"),
            ("a version ahead", |role| role.header.version = 4, 0, NEW, 412, "moved"),
            ("expired", |role| role.header.expires = day(0).into(), 0, NEW, 422, "expired"),
            ("no bytes", |_| {}, 0, b"other", 422, "missing_target"),
            (
                "a wrong length",
                |role| role.targets.get_mut("eu/webshop").expect("a target").length += 1,
                0,
                NEW,
                422,
                "missing_target",
            ),
            ("beyond its fence", |role| put(role, "eu/video"), 0, NEW, 403, "fence"),
            ("a policy", |role| put(role, "eu/_policy"), 0, NEW, 403, "fence"),
            ("another group", |role| put(role, "us/webshop"), 0, NEW, 403, "fence"),
        ];
        for (what, change, generation, blob, status, code) in cases {
            let mut realm = TestRealm::new();
            let mut role = next(&mut realm);
            change(&mut role);
            let role = signed(role.document(), "shop", generation);
            let refusal = try_put(&realm, "shop", &role, blob).expect_err(what);
            assert_eq!((refusal.status(), refusal.code()), (status, code), "{what}");
        }
    }

    fn put(role: &mut writer::Targets, path: &str) {
        role.targets.insert(path.to_owned(), writer::Target::of(NEW));
    }

    #[test]
    fn refuses_roles_that_nobody_delegates_to_and_those_it_signs_itself() {
        let mut realm = TestRealm::new();
        let role = signed(next(&mut realm).document(), "shop", 0);
        for (name, status) in [
            ("shop.ci", 403),
            ("stranger", 403),
            ("snapshot", 422),
            ("../root", 422),
            ("Shop", 422),
        ] {
            assert_eq!(
                try_put(&realm, name, &role, NEW).expect_err(name).status(),
                status,
                "{name}"
            );
        }
    }

    #[test]
    fn a_removed_team_is_refused_and_comes_back_above_its_last_version() {
        let mut realm = TestRealm::new();
        let mut targets = realm.roles["targets"].clone();
        let delegation = targets.undelegate("shop").expect("a delegation");
        targets.header.version = 2;
        realm.put_role(&targets, 0);
        let role = signed(next(&mut realm).document(), "shop", 0);
        assert_eq!(try_put(&realm, "shop", &role, NEW).expect_err("removed").status(), 403);

        targets.delegate(Delegation { ring: ring("shop", 1), ..delegation }).expect("a delegation");
        targets.header.version = 3;
        let candidate = signed(targets.document(), "targets", 0);
        try_put(&realm, "targets", &candidate, b"").expect("admitted");
        realm.put_role(&targets, 0);
        assert_eq!(try_put(&realm, "shop", &role, NEW).expect_err("old key").status(), 403);
        let role = signed(next(&mut realm).document(), "shop", 1);
        assert_eq!(try_put(&realm, "shop", &role, NEW).expect("admitted").version, 3);
    }

    #[test]
    fn a_root_follows_the_old_keys_and_its_own() {
        let mut realm = TestRealm::new();
        realm.root.header.version = 2;
        realm.root.root.keys = vec![key("root", 1).public(), key("root", 2).public()];
        for (signers, status) in
            [(&[0, 1, 2][..], None), (&[0, 1], Some(403)), (&[1, 2], Some(403))]
        {
            realm.write_root(signers);
            let candidate = realm.files.remove("2.root.json").expect("a root");
            let mut current = realm.clone();
            current.root.header.version = 1;
            let refusal = try_put(&current, "root", &candidate, b"").err();
            assert_eq!(refusal.map(|refusal| refusal.status()), status, "{signers:?}");
        }
    }
}
