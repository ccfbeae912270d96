//! One group of many hosts with a root of their own each: `fleet group REGISTRY FOLDER HOSTS PATHS`.
//!
//! Publishes closures of PATHS paths for all hosts, some thousand hosts with each version because a
//! publication has an end; then gives one host another root. After each of the last two versions every
//! host follows the files from the timestamp to its own shard and closure index, and no further.
//! Prints one line of JSON; fails if a host does not find its own root.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use shared::{
    closure::ClosureIndex,
    id::{Digest, HostName},
    manifest::{Entry, Manifest},
    nix::Sha256,
    shard,
    version::SoftwareVersion,
};
use tests::{
    Service,
    fleet::{REALM, TARGET, closure, entry, make_data, manifest, role},
};

use crate::{
    connection::Connection,
    process::{cpu, memory},
    publish_files,
};

/// Bytes of closure indexes in one publication, at most about.
const PORTION: usize = 48 << 20;

/// The group, as it was published last.
struct Group {
    names: Vec<HostName>,
    closures: Vec<ClosureIndex>,
    version: u32,
    manifest: Vec<u8>,
    /// Bytes of the last publication, and how long it took.
    sent: usize,
    took: Duration,
}

/// Publishes for a group, and fetches as its hosts do.
pub(crate) async fn run(
    registry: &Path,
    folder: &Path,
    numbers: &[String],
) -> anyhow::Result<Value> {
    let [hosts, paths] = numbers else {
        anyhow::bail!("usage: fleet group REGISTRY FOLDER HOSTS PATHS");
    };
    let (hosts, paths): (usize, u32) = (hosts.parse()?, paths.parse()?);
    let data = folder.join("data");
    make_data(&data)?;
    let mut serve = Command::new(registry);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
    let mut server = Service::start(&mut serve, "http://");
    let url = server.url();
    let address = url.strip_prefix("http://").context("a plain address")?;
    let names = (0..hosts).map(|number| Ok(HostName::parse(&format!("host-{number:05}"))?));
    let names = names.collect::<anyhow::Result<_>>()?;
    let (closures, manifest) = (Vec::new(), Vec::new());
    let mut group = Group { names, closures, version: 0, manifest, sent: 0, took: Duration::ZERO };
    let (mut sent, mut slowest) = (0, Duration::ZERO);
    while group.closures.len() < hosts {
        let mut new = Vec::new();
        let mut bytes = 0;
        while group.closures.len() < hosts && bytes < PORTION {
            let closure = closure(&format!("system-{}-1", group.closures.len()), paths)?;
            new.push(closure.to_bytes());
            bytes += new.last().map_or(0, Vec::len);
            group.closures.push(closure);
        }
        group.publish(address, new).await?;
        sent += group.sent;
        slowest = slowest.max(group.took);
    }
    let portions = group.version;
    let before = cpu(server.id())?;
    let first = group.fetch(address).await?;
    let spent = cpu(server.id())?.saturating_sub(before);
    let changed = closure("system-0-2", paths)?;
    let file = changed.to_bytes();
    *group.closures.first_mut().context("a host")? = changed;
    group.publish(address, vec![file]).await?;
    group.fetch(address).await?;
    let peak = memory(server.id())?;
    ensure!(server.terminate() == Some(0), "the registry did not end well");
    Ok(json!({
        "hosts": hosts, "paths": paths, "publications": portions, "bytes": sent,
        "slowest_s": slowest.as_secs_f64(), "bytes_of_a_host": first / hosts,
        "cpu_us_of_a_host": spent.as_micros() / u128::try_from(hosts)?,
        "change_of_one_bytes": group.sent, "change_of_one_s": group.took.as_secs_f64(),
        "peak_mib": peak,
    }))
}

impl Group {
    /// Publishes what all hosts so far are to run, with the closure indexes that are new.
    async fn publish(&mut self, address: &str, new: Vec<Vec<u8>>) -> anyhow::Result<()> {
        self.version += 1;
        let entries = self.names.iter().zip(&self.closures);
        let entries = entries.map(|(name, closure)| entry(vec![name.clone()], closure));
        let entries: Vec<Entry> = entries.collect::<anyhow::Result<_>>()?;
        let (manifest, shards) = shard::fit(manifest(self.version, entries)?)?;
        self.manifest = manifest.to_bytes()?;
        let role = role(self.version, &self.manifest)?;
        let mut files = vec![self.manifest.clone()];
        files.extend(shards);
        files.extend(new);
        self.sent = role.len() + files.iter().map(Vec::len).sum::<usize>();
        let began = Instant::now();
        publish_files(address, self.version, role, files).await?;
        self.took = began.elapsed();
        Ok(())
    }

    /// Follows the files as each of the hosts; returns the bytes of HTTP of all, both ways.
    async fn fetch(&self, address: &str) -> anyhow::Result<usize> {
        let mut connection = Connection::open(address).await?;
        let digest = Sha256::of(&self.manifest).to_hex();
        let (group, profile) = TARGET.split_once('/').context("two segments")?;
        let shared = [
            "metadata/timestamp.json".to_owned(),
            format!("metadata/{}.snapshot.json", self.version + 1),
            format!("metadata/{}.web.json", self.version),
        ];
        let target = format!("targets/{group}/{digest}.{profile}");
        let mut bytes = 0;
        for (name, closure) in self.names.iter().zip(&self.closures) {
            for file in &shared {
                bytes += get(&mut connection, address, file).await?.0;
            }
            let (taken, body) = get(&mut connection, address, &target).await?;
            let manifest = Manifest::parse(&body, SoftwareVersion::current())?;
            let shards = manifest.shards.context("a manifest without shards")?;
            let digest = shards.digest_of(name).context("a shard of the host")?;
            let (shard_taken, body) =
                get(&mut connection, address, &format!("shards/{digest}")).await?;
            let shard = shards.read(shards.index_of(name), &body)?;
            let mine = shard.entries.iter().find(|it| it.selector.hosts.contains(name));
            let mine = mine.with_context(|| format!("nothing for {name}"))?.closure;
            ensure!(mine == closure.digest(), "{name} finds another root than its own");
            let (index_taken, body) =
                get(&mut connection, address, &format!("closures/{mine}")).await?;
            ensure!(Digest::of(&body) == mine, "the closure index of {name} is another");
            bytes += taken + shard_taken + index_taken;
        }
        Ok(bytes)
    }
}

/// Fetches a file; returns the bytes both ways, and the file.
async fn get(
    connection: &mut Connection,
    address: &str,
    file: &str,
) -> anyhow::Result<(usize, Vec<u8>)> {
    let request = format!("GET /r/{REALM}/{file} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let answer = connection.exchange(request.as_bytes()).await?;
    ensure!(answer.status == 200, "{file}: {}", answer.status);
    Ok((request.len() + answer.bytes, answer.body))
}
