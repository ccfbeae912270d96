//! One host of many: what it knows, and what it does when it is time.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use jiff::Timestamp;
use shared::trust::{Clock, Folder, Need, Refresh, Rules, Stored, StoredTarget};
use tests::fleet::{Member, REALM, TARGET};
use tokio::time::{Instant, sleep_until};

use super::GRACE;
use crate::{
    connection::{Answer, Connection},
    request,
};

/// Longest wait of a poll at the registry, in seconds.
const LONGEST_WAIT: u64 = 55;

/// How long a host waits before it tries again what failed, and over how long hosts that were
/// woken together spread.
const AGAIN: Duration = Duration::from_secs(1);

/// What all hosts share.
pub(super) struct World {
    pub(super) address: String,
    /// The root that they trust from the start.
    pub(super) root: Vec<u8>,
    /// How often they poll and report.
    pub(super) pace: [Duration; 2],
    pub(super) ends: Instant,
    /// The version that all must have told of in the end.
    pub(super) newest: u32,
}

/// A host without a store: what it runs is what it verified last.
pub(super) struct Host {
    pub(super) member: Member,
    pub(super) number: u64,
    /// The counter of the last report that the registry acknowledged.
    pub(super) acknowledged: u64,
    /// The version of which that report told.
    pub(super) reported: u32,
    /// When the newest version was acknowledged.
    pub(super) told_newest: Option<Instant>,
    running: u32,
    tag: Option<String>,
    stored: Stored,
    target: StoredTarget,
    /// A report that nobody acknowledged yet, and its version: it is sent again as it is.
    pending: Option<(Vec<u8>, u32)>,
    poll_at: Instant,
    report_at: Instant,
}

/// What was seen on the way.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) requests: usize,
    pub(super) bytes: usize,
    /// Of one poll with nothing new, both ways.
    pub(super) poll_bytes: usize,
    /// How long polls took that did not wait.
    pub(super) polls: Vec<Duration>,
    pub(super) reports: Vec<Duration>,
    pub(super) retried: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.poll_bytes = self.poll_bytes.max(other.poll_bytes);
        self.polls.extend(other.polls);
        self.reports.extend(other.reports);
        self.retried += other.retried;
    }
}

impl Host {
    /// Spreads the hosts evenly, and not in the order of their names.
    pub(super) fn new(
        member: Member,
        number: u64,
        started: Instant,
        (hosts, [poll, report]): (u64, [Duration; 2]),
    ) -> Self {
        let place = (number * 7919 % hosts) as f64 / hosts as f64;
        Self {
            member,
            number,
            acknowledged: 0,
            reported: 0,
            told_newest: None,
            running: 0,
            tag: None,
            stored: Stored::default(),
            target: StoredTarget::default(),
            pending: None,
            poll_at: started + poll.mul_f64(place),
            // After the first poll there is something to tell of.
            report_at: started + poll + report.mul_f64(place),
        }
    }

    fn due(&self) -> Instant {
        self.poll_at.min(self.report_at)
    }

    /// Tells whether it has anything left to do once the time is up.
    fn is_done(&self, world: &World) -> bool {
        self.reported >= world.newest && self.pending.is_none()
    }

    fn again(&mut self) {
        let at = Instant::now() + AGAIN + Duration::from_millis(self.number * 7919 % 1000);
        self.poll_at = self.poll_at.max(at);
        self.report_at = self.report_at.max(at);
    }
}

/// Does what these hosts have to do over one connection, until the time is up and they are done.
///
/// # Errors
/// When something does not verify, or the registry refuses a report: it never may here.
pub(super) async fn work(
    mut hosts: Vec<Host>,
    world: Arc<World>,
    waiting: bool,
) -> anyhow::Result<(Vec<Host>, Tally)> {
    let mut line = Line { world: &world, connection: None, tally: Tally::default() };
    loop {
        let over = Instant::now() >= world.ends;
        let left = hosts.iter_mut().filter(|host| !over || !host.is_done(&world));
        let Some(host) = left.min_by_key(|host| host.due()) else { break };
        if Instant::now() >= world.ends + GRACE {
            break;
        }
        let due = if over { host.due() } else { host.due().min(world.ends) };
        sleep_until(due).await;
        if host.due() > Instant::now() {
            continue;
        }
        let done = if host.poll_at <= host.report_at {
            line.poll(host, waiting && !over).await
        } else {
            line.report(host).await
        };
        match done {
            Ok(()) => {}
            Err(Failed::Gone) => {
                line.connection = None;
                line.tally.retried += 1;
                host.again();
            }
            Err(Failed::Wrong(error)) => return Err(error),
        }
    }
    let tally = line.tally;
    Ok((hosts, tally))
}

/// Why something was not done.
enum Failed {
    /// The registry is away or busy: it is tried again.
    Gone,
    /// This must not happen.
    Wrong(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Wrong(error.into())
    }
}

struct Line<'a> {
    world: &'a World,
    connection: Option<Connection>,
    tally: Tally,
}

impl Line<'_> {
    async fn exchange(&mut self, request: &[u8]) -> Result<Answer, Failed> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let opened = Connection::open(&self.world.address).await;
                none.insert(opened.map_err(|_gone| Failed::Gone)?)
            }
        };
        let answer = connection.exchange(request).await.map_err(|_gone| Failed::Gone)?;
        if answer.status >= 500 {
            return Err(Failed::Gone);
        }
        self.tally.requests += 1;
        self.tally.bytes += request.len() + answer.bytes;
        Ok(answer)
    }

    /// Asks whether there is anything new, and takes it over if it verifies.
    async fn poll(&mut self, host: &mut Host, waiting: bool) -> Result<(), Failed> {
        let started = Instant::now();
        // It has reports to send over the same connection.
        let until = host.report_at.min(self.world.ends).saturating_duration_since(started);
        let wait = if waiting { until.as_secs().min(LONGEST_WAIT) } else { 0 };
        let query = if wait == 0 { String::new() } else { format!("?wait={wait}") };
        let known = host.tag.as_ref().map(|tag| format!("If-None-Match: {tag}\r\n"));
        let request = format!(
            "GET /r/{REALM}/metadata/timestamp.json{query} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
            self.world.address,
            known.unwrap_or_default()
        );
        let answer = self.exchange(request.as_bytes()).await?;
        if wait == 0 {
            self.tally.polls.push(started.elapsed());
        }
        match answer.status {
            304 => self.tally.poll_bytes = self.tally.poll_bytes.max(request.len() + answer.bytes),
            200 => {
                if wait > 0 {
                    // All were woken at once.
                    let spread = Duration::from_millis(host.number * 7919 % 1000);
                    sleep_until(Instant::now() + spread).await;
                }
                self.refresh(host, answer.body).await?;
                host.tag = answer.tag;
            }
            status => return Err(anyhow::anyhow!("timestamp.json: {status}").into()),
        }
        host.poll_at = match (waiting, wait) {
            (false, _) => host.poll_at + self.world.pace[0],
            // After the report that is due before a wait would end.
            (true, 0) => started + until + AGAIN,
            (true, _) => Instant::now(),
        };
        Ok(())
    }

    /// Follows the signed files from a new timestamp to the manifest, with the agent's own rules.
    async fn refresh(&mut self, host: &mut Host, timestamp: Vec<u8>) -> Result<(), Failed> {
        let clock = Clock::synchronised(Timestamp::now());
        let rules = Rules::shoal(REALM);
        let mut refresh = Refresh::new(rules, &self.world.root, host.stored.clone(), clock)?;
        while let Some(need) = refresh.need() {
            let bytes = match need.name.as_str() {
                "timestamp.json" => Some(timestamp.clone()),
                _ => self.file(&need).await?,
            };
            refresh.feed(&need.name, bytes)?;
        }
        let trusted = refresh.finish()?;
        let version = trusted.pinned_version("web").context("the team's role is not there")?;
        let mut lookup = trusted.lookup(TARGET, host.target.clone())?;
        while let Some(need) = lookup.need() {
            let bytes = self.file(&need).await?;
            lookup.feed(&need.name, bytes)?;
        }
        host.target = lookup.finish()?.stored;
        host.stored = trusted.stored().clone();
        let version = u32::try_from(version)?;
        if version != host.running {
            host.running = version;
            host.report_at = Instant::now();
        }
        Ok(())
    }

    async fn file(&mut self, need: &Need) -> Result<Option<Vec<u8>>, Failed> {
        let folder = match need.folder {
            Folder::Metadata => "metadata",
            Folder::Targets => "targets",
        };
        let request = format!(
            "GET /r/{REALM}/{folder}/{} HTTP/1.1\r\nHost: {}\r\n\r\n",
            need.name, self.world.address
        );
        let answer = self.exchange(request.as_bytes()).await?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            status => Err(anyhow::anyhow!("{}: {status}", need.name).into()),
        }
    }

    /// Sends a report, or the one before again if nobody acknowledged it.
    async fn report(&mut self, host: &mut Host) -> Result<(), Failed> {
        let (body, version) = match host.pending.take() {
            Some(pending) => pending,
            None => (host.member.report(host.acknowledged + 1, host.running)?, host.running),
        };
        let started = Instant::now();
        let sent = self.exchange(&request(&body, &self.world.address)).await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(failed) => {
                host.pending = Some((body, version));
                return Err(failed);
            }
        };
        if answer.status != 200 {
            let told = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(anyhow::anyhow!("a report: {}: {told}", answer.status).into());
        }
        self.tally.reports.push(started.elapsed());
        host.acknowledged += 1;
        host.reported = version;
        if version == self.world.newest && host.told_newest.is_none() {
            host.told_newest = Some(Instant::now());
        }
        host.report_at = match version == host.running {
            true => Instant::now() + self.world.pace[1],
            false => Instant::now(),
        };
        Ok(())
    }
}
