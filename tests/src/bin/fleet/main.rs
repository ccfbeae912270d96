//! Drives a registry with the reports of many hosts: what `tests/bench/fleet` runs.
//!
//! `fleet ingest REGISTRY FOLDER HOSTS SECONDS CONNECTIONS` makes a realm in FOLDER, starts the
//! program REGISTRY on it, enrols the hosts, and sends as many distinct signed reports as
//! it takes, durably, for so many seconds; then half of that rate, at fixed times, for the latencies.
//! Everything is signed before the clock starts. Prints one line of JSON; fails if what the
//! database holds afterwards is not what was sent.
//!
//! `fleet simulate …` is in [`simulate`], `fleet serve …` and `fleet wait …` in [`serve`], `fleet
//! group …` in [`group`].

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tests::Service;
use tests::fleet::{GROUP, Member, REALM, Release, make_data};

use connection::Connection;
use process::{cpu, memory};

mod connection;
mod group;
mod process;
mod serve;
mod simulate;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // One thread: a second one would only take time from the registry, on whose machine this is.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let print = |told: serde_json::Value| {
        std::io::stdout().write_all(format!("{told}\n").as_bytes()).context("standard output")
    };
    if let [what, registry, folder, numbers @ ..] = words.as_slice() {
        let (registry, folder) = (registry.as_ref(), folder.as_ref());
        match what.as_str() {
            "simulate" => {
                let (registry, folder) = (PathBuf::from(registry), PathBuf::from(folder));
                let simulation = simulate::Simulation::new(registry, folder, numbers)?;
                let (told, well) = runtime.block_on(simulation.run())?;
                print(told)?;
                return well;
            }
            "serve" => return runtime.block_on(serve::serve(registry, folder, print)),
            "group" => return print(runtime.block_on(group::run(registry, folder, numbers))?),
            "wait" => return print(runtime.block_on(serve::wait(registry, folder, numbers))?),
            _ => {}
        }
    }
    let [what, registry, folder, hosts, seconds, connections] = words.as_slice() else {
        bail!("usage: fleet ingest REGISTRY FOLDER HOSTS SECONDS CONNECTIONS");
    };
    ensure!(what == "ingest", "there is no `{what}`");
    let load = Load {
        registry: registry.into(),
        folder: folder.into(),
        hosts: hosts.parse().context("HOSTS")?,
        seconds: seconds.parse().context("SECONDS")?,
        connections: connections.parse().context("CONNECTIONS")?,
    };
    print(runtime.block_on(load.ingest())?)
}

struct Load {
    registry: PathBuf,
    folder: PathBuf,
    hosts: u64,
    seconds: u64,
    connections: usize,
}

/// Reports in the order in which they are sent, each a whole HTTP request.
type Requests = Arc<Vec<Vec<u8>>>;

impl Load {
    async fn ingest(&self) -> anyhow::Result<serde_json::Value> {
        let data = self.folder.join("data");
        make_data(&data)?;
        let mut serve = Command::new(&self.registry);
        serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        let mut server = Service::start(&mut serve, "http://");
        let url = server.url();
        let members = enrol(&self.registry, &data, &url, (self.hosts, self.connections)).await?;
        let address = url.strip_prefix("http://").context("a plain address")?.to_owned();

        // As much as could be taken twice over, so that nothing runs out before the clock does.
        let warm = self.sign(&members, 1, 1, &address)?;
        let (first, _) = self.closed(&warm, &address, Duration::from_secs(3600)).await?;
        let guess = f64::from(u32::try_from(warm.len())?) / first.as_secs_f64();
        let rounds = rounds(guess * 1.5 * seconds(self.seconds)?, self.hosts)?;
        let requests = self.sign(&members, 2, rounds, &address)?;
        let before = cpu(server.id())?;
        let limit = Duration::from_secs(self.seconds);
        let (elapsed, sent) = self.closed(&requests, &address, limit).await?;
        let spent = cpu(server.id())? - before;
        let rate = f64::from(u32::try_from(sent)?) / elapsed.as_secs_f64();

        let half = rate / 2.0;
        let from = 2 + rounds;
        let rounds = self::rounds(half * seconds(self.seconds)?, self.hosts)?;
        let paced = self.sign(&members, from, rounds, &address)?;
        let mut latencies = self.open(&paced, &address, half).await?;
        latencies.sort();
        let paced_sent = latencies.len();
        let memory = memory(server.id())?;
        ensure!(server.terminate() == Some(0), "the registry did not end well");

        let sent_at = |total: usize, from: u64| counters(total, from, self.hosts);
        let mut expected = sent_at(warm.len(), 1);
        expected.extend(sent_at(sent, 2));
        expected.extend(sent_at(paced_sent, from));
        check(&data, &expected)?;
        let quantile = |q: f64| -> f64 {
            let at = f64::from(u32::try_from(latencies.len()).unwrap_or(0)) * q;
            // The index of a quantile is within the list.
            #[expect(clippy::cast_possible_truncation, reason = "an index")]
            let at = (at as usize).min(latencies.len().saturating_sub(1));
            latencies.get(at).map_or(0.0, |it| it.as_secs_f64() * 1000.0)
        };
        Ok(serde_json::json!({
            "reports_per_second": rate.round(),
            "reports": sent,
            "cpu_us_each": (spent.as_secs_f64() * 1e6 / f64::from(u32::try_from(sent)?)).round(),
            "paced_per_second": half.round(),
            "paced": paced_sent,
            "p50_ms": quantile(0.5), "p99_ms": quantile(0.99), "max_ms": quantile(1.0),
            "peak_mib": memory,
        }))
    }

    /// Signs so many rounds of reports, one of each host after the other, on all cores.
    fn sign(
        &self,
        members: &[Member],
        from: u64,
        rounds: u64,
        address: &str,
    ) -> anyhow::Result<Requests> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let all: Vec<(u64, &Member)> = (from..from + rounds)
            .flat_map(|counter| members.iter().map(move |member| (counter, member)))
            .collect();
        let part = all.len().div_ceil(cores).max(1);
        let signed = std::thread::scope(|scope| {
            let threads: Vec<_> = all
                .chunks(part)
                .map(|part| {
                    scope.spawn(move || {
                        let sign = |(counter, member): &(u64, &Member)| {
                            Ok(request(&member.report(*counter, 1)?, address))
                        };
                        part.iter().map(sign).collect::<anyhow::Result<Vec<_>>>()
                    })
                })
                .collect();
            let mut signed = Vec::new();
            for thread in threads {
                let part = thread.join().map_err(|_| anyhow::anyhow!("a signer died"))?;
                signed.extend(part?);
            }
            anyhow::Ok(signed)
        })?;
        Ok(Arc::new(signed))
    }

    /// Sends as fast as it is answered, over all connections, until the time is up; returns how
    /// long it took and how many were accepted.
    async fn closed(
        &self,
        requests: &Requests,
        address: &str,
        limit: Duration,
    ) -> anyhow::Result<(Duration, usize)> {
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let workers = (0..self.connections).map(|_| {
            let (next, requests) = (Arc::clone(&next), Arc::clone(requests));
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut accepted = 0;
                while started.elapsed() < limit {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(request) = requests.get(number) else { break };
                    connection.send(request).await?;
                    accepted += 1;
                }
                anyhow::Ok(accepted)
            })
        });
        let mut accepted = 0;
        for worker in workers.collect::<Vec<_>>() {
            accepted += worker.await??;
        }
        Ok((started.elapsed(), accepted))
    }

    /// Sends each report at its time, whatever became of those before; returns how long after its
    /// time each was answered.
    async fn open(
        &self,
        requests: &Requests,
        address: &str,
        rate: f64,
    ) -> anyhow::Result<Vec<Duration>> {
        let next = Arc::new(AtomicUsize::new(0));
        let started = tokio::time::Instant::now();
        let workers = (0..self.connections).map(|_| {
            let (next, requests) = (Arc::clone(&next), Arc::clone(requests));
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let mut latencies = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(request) = requests.get(number) else { break };
                    let due = f64::from(u32::try_from(number)?) / rate;
                    let due = started + Duration::from_secs_f64(due);
                    tokio::time::sleep_until(due).await;
                    connection.send(request).await?;
                    latencies.push(due.elapsed());
                }
                anyhow::Ok(latencies)
            })
        });
        let mut latencies = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            latencies.extend(worker.await??);
        }
        Ok(latencies)
    }
}

/// Lets the hosts in, over the same API as real ones.
async fn enrol(
    registry: &Path,
    data: &Path,
    url: &str,
    (hosts, connections): (u64, usize),
) -> anyhow::Result<Vec<Member>> {
    let uses = hosts.to_string();
    let mut token = Command::new(registry);
    token.args(["-q", "host", "enroll-token", "--group", GROUP, "--uses", &uses, "--data"]);
    let token = token.arg(data).output()?;
    ensure!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    let token = String::from_utf8(token.stdout)?.trim().to_owned();
    let http = reqwest::Client::builder().tls_certs_only([]).build()?;
    let mut members = Vec::new();
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..connections).map(|_| {
        let (http, url, token) = (http.clone(), url.to_owned(), token.clone());
        let next = Arc::clone(&next);
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                if number >= hosts {
                    return anyhow::Ok(mine);
                }
                mine.push((number, Member::enrol(&http, &url, &token, number).await?));
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        members.extend(worker.await??);
    }
    members.sort_by_key(|(number, _)| *number);
    Ok(members.into_iter().map(|(_, member)| member).collect())
}

/// Publishes this version as a team does.
async fn publish(address: &str, version: u32, release: Release) -> anyhow::Result<()> {
    publish_files(address, version, release.role, vec![release.manifest, release.closure]).await
}

/// Publishes this version of the role, with the files that are new.
async fn publish_files(
    address: &str,
    version: u32,
    role: Vec<u8>,
    files: Vec<Vec<u8>>,
) -> anyhow::Result<()> {
    let parts = [("role", role)].into_iter().chain(files.into_iter().map(|file| ("blob", file)));
    let form = parts.fold(reqwest::multipart::Form::new(), |form, (name, bytes)| {
        form.part(name, reqwest::multipart::Part::bytes(bytes))
    });
    let http = reqwest::Client::builder().tls_certs_only([]).build()?;
    let request = http.put(format!("http://{address}/api/v1/realms/{REALM}/roles/web"));
    let request = match version {
        1 => request.header("If-None-Match", "*"),
        version => request.header("If-Match", format!("\"{}\"", version - 1)),
    };
    let response = request.multipart(form).send().await?;
    let (status, body) = (response.status(), response.bytes().await?);
    ensure!(status == 201, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

fn request(body: &[u8], address: &str) -> Vec<u8> {
    let mut request = format!(
        "POST /api/v1/realms/{REALM}/reports HTTP/1.1\r\nHost: {address}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

fn seconds(seconds: u64) -> anyhow::Result<f64> {
    Ok(f64::from(u32::try_from(seconds)?))
}

/// Returns how often each host must report for so many reports.
fn rounds(reports: f64, hosts: u64) -> anyhow::Result<u64> {
    ensure!((1.0..1e7).contains(&reports), "{reports} reports are none to send");
    // Whole, positive and small, as was just ensured.
    #[expect(clippy::cast_possible_truncation, reason = "it fits")]
    let reports = reports as u64;
    Ok(reports.div_ceil(hosts))
}

/// Returns the highest counter of each host when the first `total` reports from `from` on are sent.
fn counters(total: usize, from: u64, hosts: u64) -> BTreeMap<u64, u64> {
    let total = total as u64;
    let sent = |host| total / hosts + u64::from(host < total % hosts);
    (0..hosts).filter(|host| sent(*host) > 0).map(|host| (host, from + sent(host) - 1)).collect()
}

/// Checks that the database holds the last report of every host, and of no other.
fn check(data: &Path, expected: &BTreeMap<u64, u64>) -> anyhow::Result<()> {
    let db = rusqlite::Connection::open(data.join("db.sqlite"))?;
    let mut select = db.prepare("SELECT name, counter FROM hosts JOIN reports USING (id)")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))?;
    let mut held = BTreeMap::new();
    for row in rows {
        let (name, counter) = row?;
        let number = name.strip_prefix("host-").context("a host of ours")?.parse::<u64>()?;
        held.insert(number, counter);
    }
    ensure!(held == *expected, "the database does not hold what was sent");
    Ok(())
}
