//! A fleet over some time: hosts that poll, verify what is new, and report; a publication in the
//! middle, and later a restart of the registry.
//!
//! `fleet simulate REGISTRY FOLDER HOSTS SECONDS POLL REPORT CONNECTIONS LONG_POLLS`: every host
//! polls each POLL seconds over one of so many kept connections, and reports each REPORT seconds
//! and on change; the first LONG_POLLS of them have a connection each instead, and their polls wait
//! at the registry. Prints one line of JSON; fails if a report is lost or a host is left behind.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shared::report::Report;
use tests::{
    Service,
    fleet::{GROUP, REALM, make_data, release},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    connection::Connection,
    enrol,
    process::{cpu, memory},
    publish,
};

mod host;

use host::{Host, Tally, World};

/// How long hosts may go on after the end, to bring what the registry could not take before.
const GRACE: Duration = Duration::from_secs(120);

pub(crate) struct Simulation {
    registry: PathBuf,
    folder: PathBuf,
    hosts: u64,
    seconds: u64,
    poll: u64,
    report: u64,
    connections: usize,
    long_polls: u64,
}

/// What the registry took of the machine, over all its processes.
#[derive(Default)]
struct Spent {
    cpu: Duration,
    mib: u64,
}

impl Simulation {
    pub(crate) fn new(
        registry: PathBuf,
        folder: PathBuf,
        numbers: &[String],
    ) -> anyhow::Result<Self> {
        let [hosts, seconds, poll, report, connections, long_polls] = numbers else {
            anyhow::bail!(
                "usage: fleet simulate REGISTRY FOLDER HOSTS SECONDS POLL REPORT CONNECTIONS \
                 LONG_POLLS"
            );
        };
        let number = |text: &String| text.parse::<u64>().with_context(|| format!("`{text}`"));
        Ok(Self {
            registry,
            folder,
            hosts: number(hosts)?,
            seconds: number(seconds)?,
            poll: number(poll)?,
            report: number(report)?,
            connections: usize::try_from(number(connections)?)?,
            long_polls: number(long_polls)?,
        })
    }

    /// Runs it; returns what was seen, and whether nothing was lost.
    pub(crate) async fn run(&self) -> anyhow::Result<(Value, anyhow::Result<()>)> {
        let data = self.folder.join("data");
        make_data(&data)?;
        let server = self.start(&data, "127.0.0.1:0").await?;
        let address = server.url();
        let address = address.strip_prefix("http://").context("a plain address")?.to_owned();
        publish(&address, 1, release(1)?).await?;
        let members = enrol(&self.registry, &data, &server.url(), (self.hosts, 64)).await?;
        let root = std::fs::read(data.join("r/main/metadata/1.root.json"))?;
        let started = Instant::now();
        let ends = started + Duration::from_secs(self.seconds);
        let pace = [self.poll, self.report].map(Duration::from_secs);
        let world = Arc::new(World { address: address.clone(), root, pace, ends, newest: 2 });
        let hosts: Vec<Host> = (0u64..)
            .zip(members)
            .map(|(number, member)| Host::new(member, number, started, (self.hosts, pace)))
            .collect();
        let enrolling = cpu(server.id())?;
        let workers: Vec<_> = self
            .share(hosts)
            .into_iter()
            .map(|(hosts, waiting)| tokio::spawn(host::work(hosts, Arc::clone(&world), waiting)))
            .collect();

        sleep_until(started + Duration::from_secs(self.seconds / 3)).await;
        publish(&address, 2, release(2)?).await?;
        let published = Instant::now();
        sleep_until(started + Duration::from_secs(self.seconds * 2 / 3)).await;
        let mut spent = Spent::default();
        end(server, &mut spent).await?;
        let server = self.start(&data, &address).await?;

        let mut tally = Tally::default();
        let mut hosts = Vec::new();
        for worker in workers {
            let (mine, seen) = worker.await??;
            hosts.extend(mine);
            tally.add(seen);
        }
        let ended = started.elapsed();
        let lists = ask_lists(&address).await?;
        end(server, &mut spent).await?;
        spent.cpu = spent.cpu.saturating_sub(enrolling);
        let lost = lost(&data, &hosts)?;
        let behind = hosts.iter().filter(|host| host.reported < world.newest).count();
        let told_all = hosts.iter().filter_map(|host| host.told_newest).max();
        let told_all = told_all.map(|at| (at - published).as_secs_f64());
        let told = json!({
            "hosts": hosts.len(), "lists_p95_ms": lists, "all_told_after": told_all,
            "reports_lost": lost, "hosts_behind": behind, "peak_mib": spent.mib,
            "cores": (spent.cpu.as_secs_f64() / ended.as_secs_f64() * 1000.0).round() / 1000.0,
            "seen": tally.told(hosts.len(), ended),
        });
        let well = if lost == 0 && behind == 0 && !hosts.is_empty() {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{lost} reports are lost, {behind} hosts were left behind"))
        };
        Ok((told, well))
    }

    /// Starts the registry, on a thread where that may block.
    async fn start(&self, data: &Path, address: &str) -> anyhow::Result<Service> {
        let mut serve = Command::new(&self.registry);
        serve.args(["serve", "--listen", address, "--data"]).arg(data);
        Ok(tokio::task::spawn_blocking(move || Service::start(&mut serve, "http://")).await?)
    }

    /// Hands the hosts to connections: one each for those whose polls wait, and few for the others.
    fn share(&self, hosts: Vec<Host>) -> Vec<(Vec<Host>, bool)> {
        let count = self.connections.max(1) as u64;
        let mut kept: BTreeMap<u64, Vec<Host>> = BTreeMap::new();
        let mut shared = Vec::new();
        for host in hosts {
            if host.number < self.long_polls {
                shared.push((vec![host], true));
            } else {
                kept.entry(host.number % count).or_default().push(host);
            }
        }
        shared.extend(kept.into_values().map(|hosts| (hosts, false)));
        shared
    }
}

/// Ends the registry as systemd does, and adds what it took to what others before it did.
async fn end(mut server: Service, spent: &mut Spent) -> anyhow::Result<()> {
    spent.cpu += cpu(server.id())?;
    spent.mib = spent.mib.max(memory(server.id())?);
    let code = tokio::task::spawn_blocking(move || server.terminate()).await?;
    ensure!(code == Some(0), "the registry did not end well: {code:?}");
    Ok(())
}

/// Returns the milliseconds within which 95 of 100 lists and counts of hosts are answered.
async fn ask_lists(address: &str) -> anyhow::Result<f64> {
    let mut connection = Connection::open(address).await?;
    let mut taken = Vec::new();
    for number in 0..100 {
        let what = if number % 2 == 0 { "hosts" } else { "counts" };
        let request = format!(
            "GET /api/v1/realms/{REALM}/{what}?group={GROUP} HTTP/1.1\r\nHost: {address}\r\n\r\n"
        );
        let started = Instant::now();
        connection.send(request.as_bytes()).await?;
        taken.push(started.elapsed());
    }
    Ok(quantile(&mut taken, 95))
}

/// Counts hosts of which the registry does not hold the last report that it acknowledged.
fn lost(data: &Path, hosts: &[Host]) -> anyhow::Result<usize> {
    let db = rusqlite::Connection::open(data.join("db.sqlite"))?;
    let mut select = db.prepare("SELECT name, payload FROM hosts JOIN reports USING (id)")?;
    let rows = select
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<Vec<u8>>>(1)?)))?;
    let mut held = BTreeMap::new();
    for row in rows {
        let (name, payload) = row?;
        if let Some(payload) = payload {
            held.insert(name, Report::parse(&payload)?);
        }
    }
    let is_held = |host: &&Host| {
        held.get(host.member.name.as_str()).is_some_and(|report| {
            let running = report.profiles.first().and_then(|it| it.running.as_ref());
            let version = running.and_then(|it| it.version).map(|version| version.get());
            report.counter == host.acknowledged && version == Some(host.reported)
        })
    };
    // Who was too slow to report at all is behind, and has lost nothing.
    Ok(hosts.iter().filter(|host| host.acknowledged > 0 && !is_held(host)).count())
}

impl Tally {
    /// Returns what so many hosts saw in that time.
    fn told(self, hosts: usize, time: Duration) -> Value {
        let Self { requests, bytes, poll_bytes, polls, reports, retried } = self;
        let seconds = time.as_secs_f64();
        json!({
            "seconds": seconds.round(), "requests": requests, "retried": retried,
            "requests_per_second": (requests as f64 / seconds).round(),
            "bytes_per_host_and_hour": (bytes as f64 / hosts as f64 / seconds * 3600.0).round(),
            "poll_bytes": poll_bytes, "polls": quantiles(polls), "reports": quantiles(reports),
        })
    }
}

fn quantiles(mut taken: Vec<Duration>) -> Value {
    let [p50, p99] = [50, 99].map(|percent| quantile(&mut taken, percent));
    json!({"count": taken.len(), "p50_ms": p50, "p99_ms": p99})
}

/// Returns the milliseconds within which so many of a hundred were done.
fn quantile(taken: &mut [Duration], percent: usize) -> f64 {
    taken.sort();
    let at = (taken.len() * percent / 100).min(taken.len().saturating_sub(1));
    let found = taken.get(at).copied().unwrap_or_default();
    (found.as_secs_f64() * 100_000.0).round() / 100.0
}
