//! A registry that is killed under load: what it acknowledged is there when it is back, and
//! whatever it serves verifies.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::{Method, multipart};
use shared::{
    api::PublishReceipt,
    closure::ClosureIndex,
    id::Digest,
    manifest::Manifest,
    trust::{Clock, Folder, Refresh, Rules, Stored, StoredTarget},
    version::SoftwareVersion,
};
use tests::{
    Service,
    fleet::{GROUP, Member, Release, TARGET, make_data, release},
    long, run, scratch, shoal,
};
use tokio::sync::Notify;

/// How many hosts report at once.
const HOSTS: u64 = 8;

/// A running registry, and what was acknowledged by it and those before it.
struct Registry {
    service: Service,
    url: String,
    http: reqwest::Client,
}

impl Registry {
    fn start(data: &Path) -> Self {
        let mut command = shoal("registry");
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let service = Service::start(&mut command, "http://");
        let url = service.url();
        let builder = reqwest::Client::builder().tls_certs_only([]);
        Self { service, url, http: builder.build().unwrap() }
    }

    fn api(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/api/v1/realms/main/{path}", self.url))
    }

    /// Publishes; none when the registry is gone before it answers.
    async fn publish(&self, version: u32) -> Option<PublishReceipt> {
        let Release { role, manifest, closure } = release(version).unwrap();
        let form = [("role", role), ("blob", manifest), ("blob", closure)]
            .into_iter()
            .fold(multipart::Form::new(), |form, (name, bytes)| {
                form.part(name, multipart::Part::bytes(bytes))
            });
        let request = self.api(Method::PUT, "roles/web").multipart(form);
        let request = match version {
            1 => request.header("If-None-Match", "*"),
            version => request.header("If-Match", format!("\"{}\"", version - 1)),
        };
        let response = request.send().await.ok()?;
        let status = response.status();
        let body = response.bytes().await.ok()?;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        Some(serde_json::from_slice(&body).unwrap())
    }

    /// Sends a report; none when the registry is gone before it answers.
    async fn report(&self, host: &Member, counter: u64) -> Option<()> {
        let body = host.report(counter, 1).unwrap();
        let response = self.api(Method::POST, "reports").body(body).send().await.ok()?;
        let status = response.status();
        let body = response.bytes().await.ok()?;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        Some(())
    }

    /// Reads a file, or learns that there is none; an error when the registry is gone.
    async fn file(&self, path: &str) -> Result<Option<Vec<u8>>, reqwest::Error> {
        let response = self.http.get(format!("{}/r/main/{path}", self.url)).send().await?;
        match response.status().as_u16() {
            200 => Ok(Some(response.bytes().await?.to_vec())),
            404 => Ok(None),
            status => panic!("{path}: {status}"),
        }
    }

    /// Follows what is served as an agent does, and returns the version that is published.
    async fn follow(&self) -> Result<u32, reqwest::Error> {
        let root = self.file("metadata/1.root.json").await?.unwrap();
        let clock = Clock::synchronised(Timestamp::now());
        let rules = Rules::shoal("main");
        let mut refresh = Refresh::new(rules, &root, Stored::default(), clock).unwrap();
        while let Some(need) = refresh.need() {
            let bytes = self.file(&format!("metadata/{}", need.name)).await?;
            refresh.feed(&need.name, bytes).unwrap();
        }
        let trusted = refresh.finish().unwrap();
        let Some(version) = trusted.pinned_version("web") else { return Ok(0) };
        let mut lookup = trusted.lookup(TARGET, StoredTarget::default()).unwrap();
        while let Some(need) = lookup.need() {
            let folder = match need.folder {
                Folder::Metadata => "metadata",
                Folder::Targets => "targets",
            };
            let bytes = self.file(&format!("{folder}/{}", need.name)).await?;
            lookup.feed(&need.name, bytes).unwrap();
        }
        let manifest = lookup.finish().unwrap().target.into_inner();
        let manifest = Manifest::parse(&manifest, SoftwareVersion::current()).unwrap();
        assert_eq!(u64::from(manifest.version.get()), version);
        let digest = manifest.entries[0].closure;
        let index = self.file(&format!("closures/{digest}")).await?.unwrap();
        ClosureIndex::parse_named(&index, digest).unwrap();
        Ok(manifest.version.get())
    }

    /// Kills it as a power cut would.
    fn kill(&self) {
        let process = rustix::process::Pid::from_raw(i32::try_from(self.service.id()).unwrap());
        let kill = rustix::process::Signal::KILL;
        rustix::process::kill_process(process.unwrap(), kill).unwrap();
    }

    async fn counter(&self, host: &Member) -> u64 {
        let request = self.api(Method::GET, &format!("hosts/{}", host.name));
        let detail: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        detail["report"]["counter"].as_u64().unwrap_or(0)
    }
}

/// Lets so many hosts in.
async fn enrol(registry: &Registry, data: &Path, hosts: u64) -> Vec<Member> {
    let mut command = shoal("registry");
    let uses = hosts.to_string();
    command.args(["host", "enroll-token", "--group", GROUP, "--uses", &uses, "--data"]).arg(data);
    let token = run(&mut command).ok().trim().to_owned();
    let mut members = Vec::new();
    for number in 0..hosts {
        let member = Member::enrol(&registry.http, &registry.url, &token, number).await;
        members.push(member.unwrap());
    }
    members
}

/// Checks the folder itself, which a mirror copies: nothing half, nothing that was not committed,
/// every named digest right.
fn check_folder(data: &Path, published: u32) {
    let folder = data.join("r/main");
    let names = |path: PathBuf| -> Vec<(String, PathBuf)> {
        let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
        let entry = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), entry.path());
        entries.map(|found| entry(found.unwrap())).collect()
    };
    let mut roles = 0;
    for (name, path) in names(folder.join("metadata")) {
        assert!(!name.starts_with('.'), "{name} was left behind");
        serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).expect(&name);
        if let Some(version) = name.strip_suffix(".web.json") {
            assert!(version.parse::<u32>().unwrap() <= published, "{name} was never committed");
            roles += 1;
        }
    }
    assert_eq!(roles, published, "every committed version of the role stays");
    let targets = names(folder.join("targets/eu-prod"));
    for (name, path) in names(folder.join("closures")).into_iter().chain(targets) {
        assert!(!name.starts_with('.'), "{name} was left behind");
        let digest = name.split('.').next().unwrap();
        assert_eq!(Digest::of(&fs::read(path).unwrap()).to_string(), digest);
    }
}

#[test]
fn a_registry_killed_under_load_loses_nothing_that_it_acknowledged() {
    let folder = scratch();
    let data = folder.path().join("data");
    make_data(&data).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut registry = Registry::start(&data);
        let hosts = enrol(&registry, &data, HOSTS).await;
        let (mut published, mut reported) = (0, vec![0; hosts.len()]);
        for round in 0..if long() { 200 } else { 20 } {
            // Publications, reports and readers, until the registry is killed under them.
            let under_way = Notify::new();
            let publishing = async {
                let mut acknowledged = published;
                while let Some(receipt) = registry.publish(acknowledged + 1).await {
                    under_way.notify_one();
                    acknowledged += 1;
                    assert_eq!(receipt.version, u64::from(acknowledged));
                }
                acknowledged
            };
            let registry_now = &registry;
            let reporting = join_all(hosts.iter().zip(&reported).map(|(host, before)| async {
                let mut acknowledged = *before;
                while registry_now.report(host, acknowledged + 1).await.is_some() {
                    acknowledged += 1;
                }
                acknowledged
            }));
            let reading = async {
                let mut seen = published;
                // Whatever is asked for in the middle of a publication verifies.
                while let Ok(version) = registry.follow().await {
                    assert!(version >= seen, "version {version} is served after {seen}");
                    seen = version;
                }
            };
            let killing = async {
                under_way.notified().await;
                // Primes, so that the rounds hit different moments of a publication.
                tokio::time::sleep(Duration::from_millis(round * 37 % 211)).await;
                registry.kill();
            };
            let (acknowledged, counted, (), ()) =
                tokio::join!(publishing, reporting, reading, killing);
            drop(registry.service);

            registry = Registry::start(&data);
            let served = registry.follow().await.unwrap();
            assert!(
                served == acknowledged || served == acknowledged + 1,
                "round {round}: {acknowledged} was acknowledged, {served} is served"
            );
            check_folder(&data, served);
            published = served;
            for ((host, acknowledged), reported) in hosts.iter().zip(counted).zip(&mut reported) {
                *reported = registry.counter(host).await;
                let expected = acknowledged..=acknowledged + 1;
                assert!(expected.contains(reported), "{round}: {reported} not in {expected:?}");
            }
        }
        assert_eq!(registry.service.terminate(), Some(0));
    });
}
