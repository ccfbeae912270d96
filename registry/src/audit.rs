//! Replaying what was published: every version of every role, judged again by the code that took it,
//! against the keys and fences of its own time.
//!
//! In which order things were published is the registry's own word, in the snapshots that its key
//! signed; that each was signed by those who might is proven by the files alone.

use std::{collections::BTreeMap, io};

use jiff::Timestamp;
use shared::{
    id::{Digest, RealmName, TargetPath},
    nix::Sha256,
    problem,
    trust::{
        Rules,
        admit::{self, Refusal},
        writer::Snapshot,
    },
};

use crate::blobs::{Blobs, FileName};

/// One version of a role, judged again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replayed {
    pub(crate) role: String,
    pub(crate) version: u64,
    /// The keys that signed it, or why it is refused.
    pub(crate) outcome: Result<Vec<String>, String>,
}

/// Judges every version of every role that the snapshots name, in their order.
///
/// # Errors
/// When the files cannot be read at all; what is refused is an outcome, so that all of it is told.
pub(crate) fn replay(realm: &RealmName, blobs: Blobs) -> io::Result<Vec<Replayed>> {
    let rules = Rules::shoal(realm.as_str());
    let mut snapshots: Vec<u64> = blobs
        .list_metadata()?
        .into_iter()
        .filter_map(|name| match name {
            FileName::Metadata { version, role } if role == "snapshot" => Some(version),
            FileName::Metadata { .. }
            | FileName::Timestamp
            | FileName::Target { .. }
            | FileName::Closure(_)
            | FileName::Hints(_)
            | FileName::Shard(_) => None,
        })
        .collect();
    snapshots.sort_unstable();
    let past = Past { blobs, root: 1, versions: BTreeMap::new() };
    let mut replay = Replay { past, rules, told: Vec::new() };
    for version in snapshots {
        let file = FileName::metadata(version, "snapshot");
        let bytes = replay.past.blobs.read(&file)?.unwrap_or_default();
        let signed = replay.check_snapshot(&bytes).map_err(|error| problem::chain(&error));
        let read = signed.and_then(|()| {
            Snapshot::read(&bytes, &replay.rules).map_err(|error| problem::chain(&error))
        });
        // One that nobody vouches for says nothing of the order; those after it name the same.
        match read {
            Ok(snapshot) => replay.follow(&snapshot),
            Err(why) => replay.tell("snapshot", version, Err(why)),
        }
    }
    while replay.next_root() {}
    Ok(replay.told)
}

struct Replay {
    past: Past,
    rules: Rules,
    told: Vec<Replayed>,
}

impl Replay {
    fn tell(&mut self, role: &str, version: u64, outcome: Result<Vec<String>, String>) {
        self.told.push(Replayed { role: role.to_owned(), version, outcome });
    }

    /// Checks that a snapshot is signed with the key of its time.
    fn check_snapshot(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let signers = |past: &Past, root| {
            let root = past.blobs.read(&FileName::metadata(root, "root")).ok().flatten();
            admit::snapshot_signers(&root.unwrap_or_default(), bytes, &self.rules)
        };
        let refused = match signers(&self.past, self.past.root) {
            Ok(_signers) => return Ok(()),
            Err(refused) => refused,
        };
        // A root may have changed the key before; one that no later root names either is forged,
        // and proves nothing of the root.
        let later = (self.past.root + 1..)
            .take_while(|root| self.past.blobs.has(&FileName::metadata(*root, "root")))
            .find(|root| signers(&self.past, *root).is_ok());
        let Some(later) = later else { return Err(refused) };
        while self.past.root < later && self.next_root() {}
        Ok(())
    }

    /// Judges what a snapshot names for the first time; `targets` before those that it delegates to.
    fn follow(&mut self, snapshot: &Snapshot) {
        let mut roles: Vec<(&String, &u64)> = snapshot.roles.iter().collect();
        roles.sort_by_key(|(role, _)| (*role != "targets", *role));
        for (role, version) in roles {
            let known = admit::Realm::version(&self.past, role);
            if *version < known {
                let why = format!("a later snapshot goes back from version {known}");
                self.tell(role, *version, Err(why));
            }
            for next in known + 1..=*version {
                self.judge(role, next);
            }
        }
    }

    fn judge(&mut self, role: &str, version: u64) {
        let outcome = loop {
            match self.admit(role, version) {
                // A root may have been changed before; nothing pins when.
                Err(Refusal::Signatures { .. }) if role == "targets" && self.next_root() => {}
                other => break other,
            }
        };
        let outcome = outcome.map(|signers| signers.iter().map(ToString::to_string).collect());
        self.tell(role, version, outcome.map_err(|error| problem::chain(&error)));
        self.past.versions.insert(role.to_owned(), version);
    }

    fn admit(&self, role: &str, version: u64) -> Result<Vec<shared::trust::KeyId>, Refusal> {
        let file = FileName::metadata(version, role);
        let bytes = self.past.blobs.read(&file).ok().flatten().unwrap_or_default();
        // Whatever has expired since was good in its time.
        let then = Timestamp::MIN;
        let blobs = BTreeMap::new();
        let admitted = admit::admit(&self.past, role, &bytes, &blobs, &self.rules, then)?;
        Ok(admitted.signers)
    }

    /// Judges the next root, if there is one.
    fn next_root(&mut self) -> bool {
        let next = self.past.root + 1;
        if !self.past.blobs.has(&FileName::metadata(next, "root")) {
            return false;
        }
        let outcome = self.admit("root", next);
        let outcome = outcome.map(|signers| signers.iter().map(ToString::to_string).collect());
        self.tell("root", next, outcome.map_err(|error| problem::chain(&error)));
        self.past.root = next;
        true
    }
}

/// The realm as it was when something was published.
struct Past {
    blobs: Blobs,
    root: u64,
    versions: BTreeMap<String, u64>,
}

impl admit::Realm for Past {
    fn role(&self, role: &str) -> Option<Vec<u8>> {
        let version = if role == "root" { self.root } else { admit::Realm::version(self, role) };
        self.blobs.read(&FileName::metadata(version, role)).ok().flatten()
    }

    fn version(&self, role: &str) -> u64 {
        self.versions.get(role).copied().unwrap_or(0)
    }

    fn target(&self, path: &str, sha256: &Sha256) -> Option<u64> {
        let path = TargetPath::parse(path).ok()?;
        let name = FileName::Target { path, digest: Digest::from(*sha256) };
        let bytes = self.blobs.read(&name).ok()??;
        (Sha256::of(&bytes) == *sha256).then_some(bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::testing::{self, Running, data, key, realm_name, role};

    fn replayed(data: &Path) -> Vec<Replayed> {
        replay(&realm_name(), Blobs::new(crate::realm::folder(data, &realm_name()))).unwrap()
    }

    fn refused(data: &Path) -> Vec<(String, u64)> {
        let all = replayed(data).into_iter().filter(|it| it.outcome.is_err());
        all.map(|it| (it.role, it.version)).collect()
    }

    #[tokio::test]
    async fn every_version_is_judged_by_the_keys_of_its_own_time() {
        let data = data();
        let server = Running::start(data.path()).await;
        server.publish_web(1).await;
        // The team gets another key, and goes on with that.
        let mut targets = testing::targets(2);
        targets.undelegate("web").unwrap();
        targets
            .delegate(shared::trust::writer::Delegation {
                role: "web".to_owned(),
                ring: shared::trust::writer::Keyring::single(key(13).public()),
                patterns: vec!["eu-prod/web*".parse().unwrap()],
            })
            .unwrap();
        let targets = testing::signed(&targets, 2);
        let (status, told) = server.publish("targets", 1, &targets, &[]).await;
        assert_eq!(status, 201, "{told}");
        let index = testing::closure(2);
        let bytes = testing::manifest("web", 2, &index).to_bytes().unwrap();
        let second = role("web", 2, &[("eu-prod/web", &bytes)], 13);
        let (status, told) = server.publish("web", 1, &second, &[&bytes, &index.to_bytes()]).await;
        assert_eq!(status, 201, "{told}");
        server.stop().await;

        let all = replayed(data.path());
        let order: Vec<_> = all.iter().map(|it| (it.role.as_str(), it.version)).collect();
        assert_eq!(order, [("targets", 1), ("web", 1), ("targets", 2), ("web", 2)]);
        let signer = |seed| Ok(vec![key(seed).public().key_id().to_string()]);
        let signers: Vec<_> = all.iter().map(|it| it.outcome.clone()).collect();
        assert_eq!(signers, [signer(2), signer(3), signer(2), signer(13)]);

        // Whoever rewrites the past needs the keys of the past.
        let metadata = data.path().join("r/main/metadata");
        let forged = role("web", 1, &[], 13);
        fs::write(metadata.join("1.web.json"), forged).unwrap();
        assert_eq!(refused(data.path()), [("web".to_owned(), 1)]);
        fs::remove_file(metadata.join("2.web.json")).unwrap();
        assert_eq!(refused(data.path()), [("web".to_owned(), 1), ("web".to_owned(), 2)]);
    }

    #[tokio::test]
    async fn an_old_snapshot_that_the_key_of_its_time_did_not_sign_is_found() {
        let data = data();
        let server = Running::start(data.path()).await;
        for version in 1..=2 {
            let (status, told) = server.publish_web(version).await;
            assert_eq!(status, 201, "{told}");
        }
        server.stop().await;
        assert!(refused(data.path()).is_empty());
        let metadata = data.path().join("r/main/metadata");
        let file = metadata.join("2.snapshot.json");
        let rules = Rules::shoal("main");
        let snapshot = Snapshot::read(&fs::read(&file).unwrap(), &rules).unwrap();
        assert_eq!(snapshot.roles["web"], 1, "the first publication's");
        // The same words, by a team's key instead of the registry's.
        let mut forged = snapshot.document().unwrap();
        forged.sign(&key(3));
        fs::write(&file, forged.to_bytes()).unwrap();
        assert_eq!(refused(data.path()), [("snapshot".to_owned(), 2)]);
        // What it named is named by the next one too, and judged all the same.
        let judged: Vec<_> =
            replayed(data.path()).into_iter().map(|it| (it.role, it.version)).collect();
        for version in 1..=2 {
            assert!(judged.contains(&("web".to_owned(), version)), "{judged:?}");
        }
    }

    #[tokio::test]
    async fn a_manifest_that_was_changed_on_the_disk_is_found() {
        let data = data();
        let server = Running::start(data.path()).await;
        server.publish_web(1).await;
        server.stop().await;
        assert!(refused(data.path()).is_empty());
        let bytes = testing::manifest("web", 1, &testing::closure(1)).to_bytes().unwrap();
        let file = data.path().join("r/main").join(testing::target_file("eu-prod/web", &bytes));
        fs::write(file, b"other").unwrap();
        assert_eq!(refused(data.path()), [("web".to_owned(), 1)]);
    }
}
