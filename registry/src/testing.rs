//! A realm for tests: real keys, real signatures, a real server on the loopback.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use jiff::Timestamp;
use reqwest::{StatusCode, multipart};
use shared::{
    api::Part,
    certificate::{self, EnrolmentRequest},
    closure::ClosureIndex,
    health::Health,
    id::{Digest, GroupName, HostName, ProfileName, RawKey, RealmName, System, TargetPath},
    manifest::{self, Activation, ActivationKind, Entry, Manifest, Selector},
    nix::{PathInfo, Sha256, StorePath, base32},
    policy::{self, Policy, RolloutRule},
    report::{self, Clock, Free, Report, TrustState},
    time::Time,
    trust::{
        SigningKey,
        dsse::Envelope,
        writer::{Delegation, Header, Keyring, Root, Target, Targets},
    },
    version::{SoftwareVersion, VersionNumber},
    window::Windows,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Access,
    db::{Sqlite, retention::Retention},
    realm,
    serve::{Limits, Options, Server},
};

pub(crate) const REALM: &str = "main";

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

pub(crate) fn realm_name() -> RealmName {
    RealmName::parse(REALM).unwrap()
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

/// The clock of most tests: the real one.
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

fn header(version: u64) -> Header {
    // Fixed, so that the same role is the same bytes whenever it is made.
    let expires = Time::parse("2099-01-01T00:00:00Z").unwrap();
    Header { realm: REALM.to_owned(), version, expires }
}

/// Makes the data of a realm with team `web` (`eu-prod/*` profiles that begin with `web`) and
/// the owners of `eu-prod`. Root is key 1, targets key 2, the team key 3, the owners key 4.
pub(crate) fn data() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let online = realm::open_or_create_keys(data.path()).unwrap();
    let root = Root {
        header: header(1),
        root: Keyring::single(key(1).public()),
        targets: Keyring::single(key(2).public()),
        snapshot: Keyring::single(online.snapshot.public()),
        timestamp: Keyring::single(online.timestamp.public()),
    };
    let mut root = root.document().unwrap();
    root.sign(&key(1));
    let targets = signed(&targets(1), 2);
    realm::create(data.path(), &realm_name(), &root.to_bytes(), &targets, now()).unwrap();
    data
}

/// The role `targets`, which delegates to the team and the owners.
pub(crate) fn targets(version: u64) -> Targets {
    let mut targets = Targets::empty("targets", header(version));
    for (role, seed, pattern) in
        [("web", 3, "eu-prod/web*"), ("owners.eu-prod", 4, "eu-prod/_policy")]
    {
        targets
            .delegate(Delegation {
                role: role.to_owned(),
                ring: Keyring::single(key(seed).public()),
                patterns: vec![pattern.parse().unwrap()],
            })
            .unwrap();
    }
    targets
}

pub(crate) fn signed(targets: &Targets, seed: u8) -> Vec<u8> {
    let mut document = targets.document().unwrap();
    document.sign(&key(seed));
    document.to_bytes()
}

/// A version of a role that lists these files, signed with a key.
pub(crate) fn role(name: &str, version: u64, files: &[(&str, &[u8])], seed: u8) -> Vec<u8> {
    let mut role = Targets::empty(name, header(version));
    let listed = files.iter().map(|(path, bytes)| ((*path).to_owned(), Target::of(bytes)));
    role.targets = listed.collect::<BTreeMap<_, _>>();
    signed(&role, seed)
}

/// A closure of one path, whose content is the number.
pub(crate) fn closure(number: u32) -> ClosureIndex {
    let hash = base32::encode(&Sha256::of(&number.to_be_bytes()).0[..20]);
    let path = StorePath::from_base_name(&format!("{hash}-web-{number}")).unwrap();
    let info = PathInfo {
        path: path.clone(),
        nar_hash: Sha256::of(&number.to_le_bytes()),
        nar_size: 1000,
        references: [path.clone()].into(),
        deriver: None,
        signatures: Vec::new(),
        content_address: None,
    };
    ClosureIndex::from_paths(&path, [&info]).unwrap()
}

/// A manifest of `eu-prod/<profile>` for that closure.
pub(crate) fn manifest(profile: &str, version: u32, closure: &ClosureIndex) -> Manifest {
    Manifest {
        format: manifest::FORMAT,
        realm: realm_name(),
        group: group("eu-prod"),
        profile: ProfileName::parse(profile).unwrap(),
        epoch: 0,
        version: VersionNumber::new(version).unwrap(),
        min_agent: SoftwareVersion::current(),
        note: format!("release {version}"),
        provenance: BTreeMap::new(),
        entries: vec![Entry {
            selector: Selector {
                system: System::parse("x86_64-linux").unwrap(),
                hosts: Vec::new(),
                labels: BTreeMap::new(),
            },
            path: closure.root().clone(),
            closure: closure.digest(),
            paths: closure.len() as u64,
            nar_size: closure.nar_size(),
        }],
        shards: None,
        activation: Activation { kind: ActivationKind::None, timeout: 60 },
        health: Health::default(),
        rollout: None,
        requires: Vec::new(),
        windows: Windows::default(),
        retire: None,
    }
}

/// A policy of `eu-prod` that names an enrolment key.
pub(crate) fn policy(version: u32, enrolment: &SigningKey) -> Policy {
    Policy {
        format: policy::FORMAT,
        realm: realm_name(),
        group: group("eu-prod"),
        version: VersionNumber::new(version).unwrap(),
        min_agent: SoftwareVersion::current(),
        profiles: BTreeMap::new(),
        caches: Vec::new(),
        builders: Vec::new(),
        enrolment: vec![RawKey(*enrolment.public().as_bytes())],
        windows: Windows::default(),
        rollout: RolloutRule::default(),
    }
}

/// A server that runs until the value is gone.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) db: Sqlite,
    http: reqwest::Client,
    stopper: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(data: &Path) -> Self {
        Self::with(data, |_| ()).await
    }

    pub(crate) async fn with(data: &Path, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            data: data.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            cache: None,
            stale_after: 180,
            retention: Retention::default(),
            access: Access::default(),
            limits: Limits::of_process(),
        };
        change(&mut options);
        let server = Server::start(&options, now).await.unwrap();
        let url = format!("http://{}", server.address().unwrap());
        let (stopper, db) = (server.stopper(), server.db());
        let serving = tokio::spawn(server.run());
        let builder = reqwest::Client::builder().tls_certs_only([]);
        Self { url, db, http: builder.build().unwrap(), stopper, serving }
    }

    pub(crate) async fn stop(self) {
        self.stopper.cancel();
        self.serving.await.unwrap();
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    pub(crate) fn api(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/api/v1/realms/{REALM}/{path}", self.url))
    }

    /// Reads a published file.
    pub(crate) async fn file(&self, path: &str) -> Option<Vec<u8>> {
        let response = self.get(&format!("/r/{REALM}/{path}")).send().await.unwrap();
        match response.status() {
            StatusCode::OK => Some(response.bytes().await.unwrap().to_vec()),
            StatusCode::NOT_FOUND => None,
            status => panic!("{path}: {status}"),
        }
    }

    /// Publishes a role; `after` is the version that it follows on, 0 for none.
    pub(crate) async fn publish(
        &self,
        role: &str,
        after: u64,
        bytes: &[u8],
        blobs: &[&[u8]],
    ) -> (StatusCode, serde_json::Value) {
        let part = |part: Part, bytes: &[u8]| (part.name(), bytes.to_vec());
        let blobs = blobs.iter().map(|bytes| part(Part::Blob, bytes));
        self.send(role, after, std::iter::once(part(Part::Role, bytes)).chain(blobs)).await
    }

    pub(crate) async fn send(
        &self,
        role: &str,
        after: u64,
        parts: impl IntoIterator<Item = (&'static str, Vec<u8>)>,
    ) -> (StatusCode, serde_json::Value) {
        let mut form = multipart::Form::new();
        for (name, bytes) in parts {
            form = form.part(name, multipart::Part::bytes(bytes));
        }
        let request = self.api(reqwest::Method::PUT, &format!("roles/{role}")).multipart(form);
        let request = match after {
            0 => request.header("If-None-Match", "*"),
            version => request.header("If-Match", format!("\"{version}\"")),
        };
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Publishes version `version` of the manifest `eu-prod/web` as that version of the team's
    /// role.
    pub(crate) async fn publish_web(&self, version: u32) -> (StatusCode, serde_json::Value) {
        let closure = closure(version);
        let bytes = manifest("web", version, &closure).to_bytes().unwrap();
        let role = role("web", version.into(), &[("eu-prod/web", &bytes)], 3);
        let index = closure.to_bytes();
        self.publish("web", u64::from(version) - 1, &role, &[&bytes, &index]).await
    }
}

/// A host, by its key.
pub(crate) struct Host {
    pub(crate) key: SigningKey,
    pub(crate) name: HostName,
}

impl Host {
    pub(crate) fn new(name: &str, seed: u8) -> Self {
        Self { key: key(seed), name: HostName::parse(name).unwrap() }
    }

    pub(crate) fn raw_key(&self) -> RawKey {
        RawKey(*self.key.public().as_bytes())
    }

    pub(crate) fn request(&self, groups: &[&str]) -> Envelope {
        let request = EnrolmentRequest {
            format: certificate::FORMAT,
            realm: realm_name(),
            key: self.raw_key(),
            name: self.name.clone(),
            groups: groups.iter().map(|name| group(name)).collect(),
            labels: BTreeMap::new(),
        };
        let payload = request.to_bytes().unwrap();
        Envelope::sign(certificate::REQUEST_PAYLOAD_TYPE, &payload, &self.key)
    }

    pub(crate) fn report(&self, counter: u64, nonce: Option<&str>) -> Report {
        Report {
            format: report::FORMAT,
            realm: realm_name(),
            host: self.raw_key().host_id(),
            name: self.name.clone(),
            boot_id: "b".to_owned(),
            counter,
            nonce: nonce.map(str::to_owned),
            time: Time::of(now()),
            agent: SoftwareVersion::current(),
            system: System::parse("x86_64-linux").unwrap(),
            labels: BTreeMap::new(),
            clock: Clock::Synchronized,
            free: Free { store: None, boot: None },
            systems: None,
            trust: TrustState { root: 1, timestamp: None, snapshot: None, signed_at: None },
            profiles: Vec::new(),
        }
    }

    pub(crate) fn signed(&self, report: &Report, certificate: &Envelope) -> Vec<u8> {
        let payload = report.to_bytes().unwrap();
        let envelope = Envelope::sign(report::PAYLOAD_TYPE, &payload, &self.key);
        envelope.with_certificate(certificate.clone()).to_bytes()
    }
}

/// Returns the path below a realm where a target lies.
pub(crate) fn target_file(path: &str, bytes: &[u8]) -> String {
    let file = TargetPath::parse(path).unwrap().file_name(&Sha256::of(bytes));
    format!("targets/{file}")
}

pub(crate) fn closure_file(digest: Digest) -> String {
    format!("closures/{digest}")
}
