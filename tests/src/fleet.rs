//! Many hosts in one process, without agents: real keys, real certificates, real reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, ensure};
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, spki::der::pem::LineEnding};
use jiff::{SignedDuration, Timestamp};
use shared::{
    certificate::{self, EnrolmentRequest},
    closure::ClosureIndex,
    health::Health,
    id::{GroupName, HostName, ProfileName, RawKey, RealmName, System},
    manifest::{Activation, ActivationKind, Entry, Manifest, Selector},
    nix::{PathInfo, Sha256, StorePath, base32},
    report::{self, Attempt, Clock, Free, ProfileReport, Report, Running, TrustState, Wanted},
    state_word::StateWord,
    time::Time,
    trust::{
        SigningKey,
        dsse::Envelope,
        writer::{self, Delegation, Document, Header, Keyring, Root, Snapshot, Target, Targets},
    },
    version::{SoftwareVersion, VersionNumber},
    window::Windows,
};

/// The realm that [`make_data`] makes.
pub const REALM: &str = "main";

/// The group of all hosts here.
pub const GROUP: &str = "eu-prod";

/// Returns a key by its number.
#[must_use]
pub fn key(number: u64) -> SigningKey {
    SigningKey::from_seed(&seed(number))
}

fn seed(number: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    for (byte, from) in seed.iter_mut().zip(number.to_le_bytes()) {
        *byte = from;
    }
    seed
}

/// Returns the header of a role of this version, which holds for a day.
#[must_use]
pub fn header(version: u64) -> Header {
    let expires = Timestamp::now().saturating_add(SignedDuration::from_hours(24));
    Header { realm: REALM.to_owned(), version, expires: expires.unwrap_or(Timestamp::MAX).into() }
}

/// Signs a role with a key of this number.
///
/// # Errors
/// When it cannot be written.
pub fn signed(
    document: Result<Document, writer::WriteError>,
    number: u64,
) -> anyhow::Result<Vec<u8>> {
    let mut document = document?;
    document.sign(&key(number));
    Ok(document.to_bytes())
}

/// Makes a server's folder: root is key 1, targets 2, team `web` 3, snapshot 5, timestamp 6,
/// enrolment 7.
///
/// # Errors
/// When it cannot be written.
pub fn make_data(data: &Path) -> anyhow::Result<()> {
    let metadata = data.join("r/main/metadata");
    fs::create_dir_all(&metadata)?;
    fs::create_dir_all(data.join("keys"))?;
    for (name, number) in [("snapshot", 5), ("timestamp", 6), ("enrolment", 7)] {
        let key = ed25519_dalek::SigningKey::from_bytes(&seed(number));
        let pem = key.to_pkcs8_pem(LineEnding::LF);
        let pem = pem.context("a key that can be written")?;
        fs::write(data.join(format!("keys/{name}.pem")), pem.as_bytes())?;
    }
    let ring = |number| Keyring::single(key(number).public());
    let root = Root {
        header: header(1),
        root: ring(1),
        targets: ring(2),
        snapshot: ring(5),
        timestamp: ring(6),
    };
    let mut targets = Targets::empty("targets", header(1));
    let patterns = vec!["eu-prod/web*".parse()?];
    targets.delegate(Delegation { role: "web".to_owned(), ring: ring(3), patterns })?;
    let roles = BTreeMap::from([("targets".to_owned(), 1)]);
    let snapshot = signed(Snapshot { header: header(1), roles }.document(), 5)?;
    let timestamp = writer::Timestamp {
        header: header(1),
        signed_at: Timestamp::now().into(),
        snapshot: 1,
        pin: Target::of(&snapshot),
    };
    for (name, bytes) in [
        ("1.root.json", signed(root.document(), 1)?),
        ("1.targets.json", signed(targets.document(), 2)?),
        ("1.snapshot.json", snapshot),
        ("timestamp.json", signed(timestamp.document(), 6)?),
    ] {
        fs::write(metadata.join(name), bytes)?;
    }
    Ok(())
}

/// What [`release`] publishes.
pub const TARGET: &str = "eu-prod/web";

/// What a version of the team's role brings.
#[derive(Debug, Clone)]
pub struct Release {
    /// The role, signed.
    pub role: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The closure index that it names.
    pub closure: Vec<u8>,
}

/// Returns version `version` of the role of team `web`, with a manifest of that version.
///
/// # Errors
/// When it cannot be written.
pub fn release(version: u32) -> anyhow::Result<Release> {
    release_of(version, 1)
}

/// Returns a release like that, whose closure has so many paths.
///
/// # Errors
/// When it cannot be written.
pub fn release_of(version: u32, paths: u32) -> anyhow::Result<Release> {
    let closure = closure(&format!("web-{version}"), paths)?;
    let manifest = manifest(version, vec![entry(Vec::new(), &closure)?])?.to_bytes()?;
    Ok(Release { role: role(version, &manifest)?, manifest, closure: closure.to_bytes() })
}

/// Returns the closure of a root with this name, and of so many paths with it.
///
/// # Errors
/// When it cannot be written.
pub fn closure(root: &str, paths: u32) -> anyhow::Result<ClosureIndex> {
    let path = |name: String| {
        let digest = Sha256::of(name.as_bytes());
        let hash = base32::encode(digest.0.get(..20).context("20 bytes")?);
        anyhow::Ok((StorePath::from_base_name(&format!("{hash}-{name}"))?, digest))
    };
    let (root, nar_hash) = path(root.to_owned())?;
    let libraries = (1..paths).map(|number| path(format!("library-{number}")));
    let libraries: Vec<_> = libraries.collect::<anyhow::Result<_>>()?;
    let info = |path: &StorePath, nar_hash, references| PathInfo {
        path: path.clone(),
        nar_hash,
        nar_size: 1000,
        references,
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    };
    let mut references: BTreeSet<_> = libraries.iter().map(|(path, _)| path.clone()).collect();
    references.insert(root.clone());
    let mut infos = vec![info(&root, nar_hash, references)];
    infos.extend(libraries.iter().map(|(path, hash)| info(path, *hash, BTreeSet::new())));
    Ok(ClosureIndex::from_paths(&root, &infos)?)
}

/// Returns an entry of a manifest: these hosts, or all, run the root of this closure.
///
/// # Errors
/// Never, but for a fault of this code.
pub fn entry(hosts: Vec<HostName>, closure: &ClosureIndex) -> anyhow::Result<Entry> {
    Ok(Entry {
        selector: Selector {
            system: System::parse("x86_64-linux")?,
            hosts,
            labels: BTreeMap::new(),
        },
        path: closure.root().clone(),
        closure: closure.digest(),
        paths: closure.len() as u64,
        nar_size: closure.nar_size(),
    })
}

/// Returns a manifest of [`TARGET`].
///
/// # Errors
/// When there is no such version.
pub fn manifest(version: u32, entries: Vec<Entry>) -> anyhow::Result<Manifest> {
    Ok(Manifest {
        format: 1,
        realm: RealmName::parse("main")?,
        group: GroupName::parse("eu-prod")?,
        profile: ProfileName::parse("web")?,
        epoch: 0,
        version: VersionNumber::new(version).context("a version")?,
        min_agent: SoftwareVersion::current(),
        note: String::new(),
        provenance: BTreeMap::new(),
        entries,
        shards: None,
        activation: Activation { kind: ActivationKind::None, timeout: 60 },
        health: Health::default(),
        rollout: None,
        requires: Vec::new(),
        windows: Windows::default(),
        retire: None,
    })
}

/// Returns a version of the role of team `web` that lists this manifest.
///
/// # Errors
/// When it cannot be written.
pub fn role(version: u32, manifest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut role = Targets::empty("web", header(version.into()));
    role.targets = BTreeMap::from([(TARGET.to_owned(), Target::of(manifest))]);
    signed(role.document(), 3)
}

/// A host that enrolled.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub name: HostName,
    key: SigningKey,
    certificate: Envelope,
}

impl Member {
    /// Lets host number `number` in, with a token for the group.
    ///
    /// # Errors
    /// When it is not let in.
    pub async fn enrol(
        http: &reqwest::Client,
        url: &str,
        token: &str,
        number: u64,
    ) -> anyhow::Result<Self> {
        let (name, key) = (HostName::parse(&format!("host-{number:05}"))?, key(1000 + number));
        let request = EnrolmentRequest {
            format: certificate::FORMAT,
            realm: RealmName::parse(REALM)?,
            key: RawKey(*key.public().as_bytes()),
            name: name.clone(),
            groups: vec![GROUP.parse()?],
            labels: BTreeMap::new(),
        };
        let request = Envelope::sign(certificate::REQUEST_PAYLOAD_TYPE, &request.to_bytes()?, &key);
        let body = serde_json::json!({"token": token, "request": request});
        let url = format!("{url}/api/v1/realms/{REALM}/enrol");
        let response = http.post(url).json(&body).send().await?;
        let (status, body) = (response.status(), response.bytes().await?);
        ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
        let answer: shared::api::EnrolAnswer = serde_json::from_slice(&body)?;
        Ok(Self { name, key, certificate: answer.certificate })
    }

    /// Returns a signed report, as large as that of a host with one service, which runs this
    /// version of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn report(&self, counter: u64, version: u32) -> anyhow::Result<Vec<u8>> {
        self.report_with(counter, version, |_| ())
    }

    /// Returns a signed report like that, changed first.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn report_with(
        &self,
        counter: u64,
        version: u32,
        change: impl FnOnce(&mut Report),
    ) -> anyhow::Result<Vec<u8>> {
        let path: StorePath = format!("/nix/store/{}-webshop-3.0", "0".repeat(32)).parse()?;
        let (version, now) =
            (VersionNumber::new(version).context("a version")?, Time::of(Timestamp::now()));
        let attempt = Attempt {
            id: "0123456789abcdef".to_owned(),
            phases: vec![("fetching".to_owned(), now, 6), ("converged".to_owned(), now, 0)],
            log: String::new(),
        };
        let profile = ProfileReport {
            group: GROUP.parse()?,
            profile: "webshop".parse()?,
            state: StateWord::Converged,
            since: now,
            reason: None,
            next: None,
            wanted: Some(Wanted { epoch: 0, version, path: Some(path.clone()) }),
            running: Some(Running { epoch: Some(0), version: Some(version), path, generation: 1 }),
            healthy_since: Some(now),
            attempt: Some(attempt),
        };
        let mut report = Report {
            format: report::FORMAT,
            realm: RealmName::parse(REALM)?,
            host: RawKey(*self.key.public().as_bytes()).host_id(),
            name: self.name.clone(),
            boot_id: "9f1c6f3e-6c1d-4f5e-8a43-0d4a0d8f1b11".to_owned(),
            counter,
            nonce: None,
            time: now,
            agent: SoftwareVersion::current(),
            system: System::parse("x86_64-linux")?,
            labels: BTreeMap::new(),
            clock: Clock::Synchronized,
            free: Free { store: Some(44_023_414_784), boot: None },
            systems: None,
            trust: TrustState { root: 1, timestamp: Some(1), snapshot: None, signed_at: Some(now) },
            profiles: vec![profile],
        };
        change(&mut report);
        let envelope = Envelope::sign(report::PAYLOAD_TYPE, &report.to_bytes()?, &self.key);
        Ok(envelope.with_certificate(self.certificate.clone()).to_bytes())
    }
}
