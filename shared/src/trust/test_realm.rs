//! A realm in memory for tests: all its keys, every file it ever published.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp as Instant};

use super::writer::{
    Delegation, Document, Header, Keyring, Root, Snapshot, Target, Targets, Timestamp,
};
use super::{
    Clock, Error, Folder, Found, Need, Refresh, Rules, SigningKey, Stored, StoredTarget, Trusted,
};

pub(super) const REALM: &str = "main";

pub(super) fn day(day: i64) -> Instant {
    let start: Instant = "2026-01-01T00:00:00Z".parse().expect("a time");
    start + SignedDuration::from_hours(24 * day)
}

/// The key of a role; another generation is another key.
pub(super) fn key(role: &str, generation: u8) -> SigningKey {
    let mut seed = crate::nix::Sha256::of(role.as_bytes()).0;
    seed[0] = generation;
    SigningKey::from_seed(&seed)
}

pub(super) fn ring(role: &str, generation: u8) -> Keyring {
    Keyring::single(key(role, generation).public())
}

/// A realm on its day, with `shop` holding `eu/web*`, `media` holding `*/video`, and `owners.eu`.
#[derive(Debug, Clone)]
pub(super) struct TestRealm {
    pub today: i64,
    pub root: Root,
    pub roles: BTreeMap<String, Targets>,
    pub versions: BTreeMap<String, u64>,
    pub online: u8,
    pub snapshot: u64,
    pub timestamp: u64,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl TestRealm {
    pub(super) fn new() -> Self {
        let header =
            |days| Header { realm: REALM.to_owned(), version: 1, expires: day(days).into() };
        let root = Root {
            header: header(365),
            root: Keyring {
                keys: vec![key("root", 0).public(), key("root", 1).public()],
                threshold: 2,
            },
            targets: ring("targets", 0),
            snapshot: ring("snapshot", 0),
            timestamp: ring("timestamp", 0),
        };
        let mut realm = Self {
            today: 0,
            root,
            roles: BTreeMap::new(),
            versions: BTreeMap::new(),
            online: 0,
            snapshot: 0,
            timestamp: 0,
            files: BTreeMap::new(),
        };
        realm.write_root(&[0, 1]);
        let mut targets = Targets::empty("targets", header(60));
        for (role, patterns) in
            [("shop", &["eu/web*"][..]), ("media", &["*/video"]), ("owners.eu", &["eu/_policy"])]
        {
            let patterns = patterns.iter().map(|text| text.parse().expect("a pattern")).collect();
            let delegation = Delegation { role: role.to_owned(), ring: ring(role, 0), patterns };
            targets.delegate(delegation).expect("a delegation");
        }
        realm.put_role(&targets, 0);
        for (role, path) in
            [("shop", "eu/webshop"), ("media", "eu/video"), ("owners.eu", "eu/_policy")]
        {
            realm.put_role(&Targets::empty(role, header(300)), 0);
            realm.publish(role, path, format!("{path} version 1").as_bytes());
        }
        realm
    }

    /// Writes the root as it is, signed by these generations of the root key.
    pub(super) fn write_root(&mut self, generations: &[u8]) {
        let mut document = self.root.document().expect("a root");
        for generation in generations {
            document.sign(&key("root", *generation));
        }
        let version = self.root.header.version;
        self.files.insert(format!("{version}.root.json"), document.to_bytes());
    }

    /// Writes a next root with other online keys.
    pub(super) fn rotate_online_keys(&mut self) {
        self.online += 1;
        self.root.header.version += 1;
        self.root.snapshot = ring("snapshot", self.online);
        self.root.timestamp = ring("timestamp", self.online);
        self.write_root(&[0, 1]);
    }

    /// Writes a role as it is, signed by one generation of its key.
    pub(super) fn put_role(&mut self, targets: &Targets, generation: u8) {
        let mut document = targets.document().expect("a role");
        document.sign(&key(&targets.role, generation));
        self.roles.insert(targets.role.clone(), targets.clone());
        let version = targets.header.version;
        self.put_role_bytes(&targets.role, version, document.to_bytes());
    }

    pub(super) fn put_role_bytes(&mut self, role: &str, version: u64, bytes: Vec<u8>) {
        self.versions.insert(role.to_owned(), version);
        self.files.insert(format!("{version}.{role}.json"), bytes);
    }

    /// Publishes a target by its role's next version, with a snapshot and a timestamp.
    pub(super) fn publish(&mut self, role: &str, path: &str, bytes: &[u8]) {
        let targets = self.with_target(role, path, bytes);
        self.put_role(&targets, 0);
        self.commit();
    }

    pub(super) fn with_target(&mut self, role: &str, path: &str, bytes: &[u8]) -> Targets {
        let mut targets = self.roles[role].clone();
        targets.header.version = self.versions[role] + 1;
        let target = Target::of(bytes);
        targets.targets.insert(path.to_owned(), target);
        let (group, profile) = path.split_once('/').expect("two segments");
        let name = format!("{group}/{}.{profile}", target.sha256.to_hex());
        self.files.insert(name, bytes.to_vec());
        targets
    }

    /// Signs a snapshot of all roles, and a timestamp of it.
    pub(super) fn commit(&mut self) {
        self.snapshot += 1;
        let mut document = self.snapshot_document().document().expect("a snapshot");
        document.sign(&key("snapshot", self.online));
        self.files.insert(format!("{}.snapshot.json", self.snapshot), document.to_bytes());
        self.write_timestamp();
    }

    pub(super) fn snapshot_document(&self) -> Snapshot {
        let header = self.header(self.snapshot, 7);
        Snapshot { header, roles: self.versions.clone() }
    }

    pub(super) fn write_timestamp(&mut self) {
        self.timestamp += 1;
        let mut document = self.timestamp_document();
        document.sign(&key("timestamp", self.online));
        self.files.insert("timestamp.json".to_owned(), document.to_bytes());
    }

    pub(super) fn timestamp_document(&self) -> Document {
        let timestamp = Timestamp {
            header: self.header(self.timestamp, 3),
            signed_at: day(self.today).into(),
            snapshot: self.snapshot,
            pin: Target::of(&self.files[&format!("{}.snapshot.json", self.snapshot)]),
        };
        timestamp.document().expect("a timestamp")
    }

    pub(super) fn header(&self, version: u64, days: i64) -> Header {
        let expires = day(self.today + days).into();
        Header { realm: REALM.to_owned(), version, expires }
    }

    pub(super) fn fetch(&self, need: &Need) -> Option<Vec<u8>> {
        self.files.get(&need.name).cloned()
    }
}

/// A host that follows a realm.
#[derive(Debug, Clone)]
pub(super) struct TestHost {
    pub rules: Rules,
    pub pinned: Vec<u8>,
    pub stored: Stored,
    pub targets: BTreeMap<String, StoredTarget>,
    /// What was fetched, in order.
    pub fetched: Vec<String>,
}

impl TestHost {
    pub(super) fn of(realm: &TestRealm) -> Self {
        Self {
            rules: Rules::shoal(REALM),
            pinned: realm.files["1.root.json"].clone(),
            stored: Stored::default(),
            targets: BTreeMap::new(),
            fetched: Vec::new(),
        }
    }

    pub(super) fn refresh(&mut self, realm: &TestRealm) -> Result<Trusted, Error> {
        self.refresh_at(realm, Clock::synchronised(day(realm.today)))
    }

    /// Refreshes, and saves the state as a host would: only of a refresh that was whole.
    pub(super) fn refresh_at(&mut self, realm: &TestRealm, clock: Clock) -> Result<Trusted, Error> {
        let stored = self.stored.clone();
        let mut refresh = Refresh::new(self.rules.clone(), &self.pinned, stored, clock)?;
        while let Some(need) = refresh.need() {
            assert_eq!(need.folder, Folder::Metadata);
            self.fetched.push(need.name.clone());
            refresh.feed(&need.name, realm.fetch(&need))?;
        }
        let trusted = refresh.finish()?;
        self.stored = Stored::parse(&trusted.stored().to_bytes()).expect("stored state");
        Ok(trusted)
    }

    pub(super) fn find(&mut self, realm: &TestRealm, path: &str) -> Result<Found, Error> {
        let trusted = self.refresh(realm)?;
        self.find_in(realm, &trusted, path)
    }

    pub(super) fn find_in(
        &mut self,
        realm: &TestRealm,
        trusted: &Trusted,
        path: &str,
    ) -> Result<Found, Error> {
        let known = self.targets.get(path).cloned().unwrap_or_default();
        let mut lookup = trusted.lookup(path, known)?;
        while let Some(need) = lookup.need() {
            self.fetched.push(need.name.clone());
            lookup.feed(&need.name, realm.fetch(&need))?;
        }
        let found = lookup.finish()?;
        let stored = StoredTarget::parse(&found.stored.to_bytes()).expect("stored state");
        self.targets.insert(path.to_owned(), stored);
        Ok(found)
    }
}
