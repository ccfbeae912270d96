//! What `tests/bench/server` measures beside nginx.
//!
//! `fleet serve REGISTRY FOLDER` makes a realm in FOLDER, publishes one manifest with a closure index
//! of some 30 KB, prints one line of JSON that says who serves what, and serves until its standard
//! input ends.
//!
//! `fleet wait REGISTRY FOLDER CONNECTIONS` opens so many connections, each with a poll that waits, and
//! publishes; prints what one of them took of the registry's memory, and how long it took until all
//! were woken, and until all had fetched what is new, spread over a second as agents do it. Fails
//! if one of them is not told.

use std::{io::Read as _, path::Path, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shared::nix::Sha256;
use tests::{
    Service,
    fleet::{REALM, Release, TARGET, make_data, release_of},
};
use tokio::{sync::Barrier, time::Instant};

use crate::{connection::Connection, process::proportional_memory, publish};

/// Paths of the closure index: some 30 KB.
const PATHS: u32 = 180;

/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a registry that serves one publication.
async fn start(registry: &Path, folder: &Path) -> anyhow::Result<(Service, String, Release)> {
    let data = folder.join("data");
    make_data(&data)?;
    let mut serve = Command::new(registry);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let server = Service::start(&mut serve, "http://");
    let url = server.url();
    let address = url.strip_prefix("http://").context("a plain address")?.to_owned();
    let release = release_of(1, PATHS)?;
    publish(&address, 1, release.clone()).await?;
    Ok((server, address, release))
}

fn path_of_manifest(release: &Release) -> anyhow::Result<String> {
    let (group, profile) = TARGET.split_once('/').context("two segments")?;
    Ok(format!("/r/{REALM}/targets/{group}/{}.{profile}", Sha256::of(&release.manifest).to_hex()))
}

fn path_of_closure(release: &Release) -> String {
    format!("/r/{REALM}/closures/{}", Sha256::of(&release.closure).to_hex())
}

/// Serves until nobody holds its standard input any more.
pub(crate) async fn serve(
    registry: &Path,
    folder: &Path,
    print: impl Fn(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut server, address, release) = start(registry, folder).await?;
    print(json!({
        "pid": server.id(), "address": address, "timestamp": format!("/r/{REALM}/metadata/timestamp.json"),
        "manifest": path_of_manifest(&release)?, "closure": path_of_closure(&release),
    }))?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    ensure!(server.terminate() == Some(0), "the registry did not end well");
    Ok(())
}

/// Lets many wait for a publication.
pub(crate) async fn wait(
    registry: &Path,
    folder: &Path,
    numbers: &[String],
) -> anyhow::Result<Value> {
    let [connections] = numbers else {
        anyhow::bail!("usage: fleet wait REGISTRY FOLDER CONNECTIONS");
    };
    let count: usize = connections.parse().context("CONNECTIONS")?;
    let (mut server, address, _) = start(registry, folder).await?;
    let before = proportional_memory(server.id())?;
    let new = release_of(2, PATHS)?;
    let files = Arc::new([
        format!("/r/{REALM}/metadata/3.snapshot.json"),
        format!("/r/{REALM}/metadata/2.web.json"),
        path_of_manifest(&new)?,
        path_of_closure(&new),
    ]);
    let asked = Arc::new(Barrier::new(count + 1));
    let waiting: Vec<_> = (0..count as u64)
        .map(|number| {
            let (address, files) = (address.clone(), Arc::clone(&files));
            tokio::spawn(await_news(number, address, files, Arc::clone(&asked)))
        })
        .collect();
    tokio::time::timeout(PATIENCE, asked.wait()).await.context("not all were answered")?;
    await_waiting(&address, count).await?;
    let during = proportional_memory(server.id())?;
    let published = Instant::now();
    publish(&address, 2, new).await?;
    let mut woken = Vec::new();
    let mut fetched = Vec::new();
    for one in waiting {
        let one = tokio::time::timeout(PATIENCE, one).await.context("one was not woken")?;
        let (told, done) = one??;
        woken.push(told - published);
        fetched.push(done - published);
    }
    ensure!(server.terminate() == Some(0), "the registry did not end well");
    let longest = |taken: Vec<Duration>| taken.into_iter().max().map(|it| it.as_secs_f64());
    let each = (during.saturating_sub(before) * 1024).checked_div(count as u64);
    Ok(json!({
        "connections": count, "bytes_each": each.unwrap_or_default(),
        "woken_s": longest(woken), "fetched_s": longest(fetched),
    }))
}

/// Asks as an agent does: once, then with a poll that waits, and for what is new. Returns when it was
/// told, and when it had everything.
async fn await_news(
    number: u64,
    address: String,
    files: Arc<[String; 4]>,
    asked: Arc<Barrier>,
) -> anyhow::Result<(Instant, Instant)> {
    let mut connection = Connection::open(&address).await?;
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n").into_bytes()
    };
    let path = format!("/r/{REALM}/metadata/timestamp.json");
    let first = connection.exchange(&get(&path, "")).await?;
    let tag = first.tag.context("a timestamp without a tag")?;
    asked.wait().await;
    let known = format!("If-None-Match: {tag}\r\n");
    let answer = connection.exchange(&get(&format!("{path}?wait=300"), &known)).await?;
    ensure!(answer.status == 200, "a poll that waited: {}", answer.status);
    let told = Instant::now();
    tokio::time::sleep(Duration::from_millis(number * 7919 % 1000)).await;
    for file in files.iter() {
        connection.send(&get(file, "")).await?;
    }
    Ok((told, Instant::now()))
}

/// Returns once the registry says that so many wait.
async fn await_waiting(address: &str, count: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let line = format!("shoal_registry_long_polls {count}");
    let started = Instant::now();
    loop {
        let answer = connection.exchange(request.as_bytes()).await?;
        if String::from_utf8_lossy(&answer.body).lines().any(|found| found == line) {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "not all wait");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
