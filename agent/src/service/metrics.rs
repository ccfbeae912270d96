//! What monitoring asks for: counters since the daemon started, and the host as it is.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use shared::id::ProfileName;
use shared::state_word::StateWord;
use shared::version::SoftwareVersion;
use store::substitute::Event;

use crate::client::News;
use crate::state::{Code, Profile, State};
use crate::status::{ProfileStatus, Status};

/// The beginning of every name.
const PREFIX: &str = "shoal_agent";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<i64, AtomicI64>>;

/// Counts since the daemon started.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    polls: Family<Outcome, Counter>,
    reports: Family<Outcome, Counter>,
    attempts: Family<Attempt, Counter>,
    fetched_bytes: Family<Cache, Counter>,
    fetched_paths: Family<Cache, Counter>,
    faults: Family<Cache, Counter>,
    /// When a report was last taken, and a switch last ended well, by what it was.
    succeeded: Family<Op, Gauge>,
    /// The attempt of each profile that was counted last.
    counted: Mutex<BTreeMap<ProfileName, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Op {
    op: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cache {
    cache: String,
}

impl Metrics {
    /// Begins with every outcome at zero, so that the first one is seen as a rise.
    pub(super) fn new() -> Self {
        let metrics = Self::default();
        for outcome in ["changed", "not_modified", "untrusted", "stale", "error"] {
            drop(metrics.polls.get_or_create(&Outcome { outcome }));
        }
        for outcome in ["taken", "lost"] {
            drop(metrics.reports.get_or_create(&Outcome { outcome }));
        }
        metrics
    }

    /// A poll has ended, with this trouble if no source was good.
    pub(super) fn polled(&self, trouble: Option<Code>, news: News) {
        let outcome = match (trouble, news) {
            (None, News::Some) => "changed",
            (None, News::None) => "not_modified",
            (Some(Code::Untrusted), _) => "untrusted",
            (Some(Code::NoFreshSource), _) => "stale",
            (Some(_), _) => "error",
        };
        self.polls.get_or_create(&Outcome { outcome }).inc();
    }

    /// A report was taken by a registry, or by none.
    pub(super) fn reported(&self, taken: bool, now: Timestamp) {
        let outcome = if taken { "taken" } else { "lost" };
        self.reports.get_or_create(&Outcome { outcome }).inc();
        if taken {
            self.succeeded.get_or_create(&Op { op: "report" }).set(now.as_second());
        }
    }

    /// Something happened on the way of bytes from a cache.
    pub(super) fn fetched(&self, event: &Event<'_>) {
        let of = |cache: &str| Cache { cache: cache.to_owned() };
        match event {
            Event::Downloaded { cache, bytes } => {
                self.fetched_bytes.get_or_create(&of(cache)).inc_by(*bytes);
            }
            Event::Finished { cache, .. } => {
                self.fetched_paths.get_or_create(&of(cache)).inc();
            }
            Event::Faulty(fault) => {
                self.faults.get_or_create(&of(&fault.cache)).inc();
            }
            Event::Discovered { .. }
            | Event::Planned(_)
            | Event::Spared { .. }
            | Event::Started { .. }
            | Event::Unpacked(_)
            | Event::Dropped(_)
            | Event::Registering
            | Event::Reached(_)
            | Event::Ended => {}
        }
    }

    /// Notes what was there before this daemon, so that it is not counted.
    pub(super) fn recovered(&self, profile: &Profile) {
        self.is_new(profile);
    }

    /// Counts the attempt of a profile once it has ended.
    pub(super) fn profile(&self, profile: &Profile) {
        let outcome = match &profile.state {
            State::Failed { .. } => "rollback_failed",
            State::Steady { .. } if rolled_back(profile) => "rolled_back",
            State::Steady { .. } => "converged",
            State::Starting
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. } => return,
        };
        if self.is_new(profile) {
            if outcome == "converged" {
                let at = Timestamp::now().as_second();
                self.succeeded.get_or_create(&Op { op: "switch" }).set(at);
            }
            let profile = profile.name.to_string();
            self.attempts.get_or_create(&Attempt { profile, outcome }).inc();
        }
    }

    /// Says whether a profile's last attempt was not seen before, and remembers it.
    fn is_new(&self, profile: &Profile) -> bool {
        let Some(id) = profile.record.as_ref().map(|record| &record.id) else { return false };
        if id.is_empty() {
            return false;
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.insert(profile.name.clone(), id.clone()).as_ref() != Some(id)
    }

    /// Writes everything as OpenMetrics.
    pub(super) fn text(&self, status: &Status) -> Result<String, String> {
        let mut registry = Registry::with_prefix(PREFIX);
        let build = vec![("version", SoftwareVersion::current().to_string())];
        registry.register("build", "The agent that runs", Info::new(build));
        self.counters(&mut registry);
        if let Some(at) = status.registry.good_at {
            self.succeeded.get_or_create(&Op { op: "poll" }).set(at.as_second());
        }
        let help = "When it last went well";
        let times = self.succeeded.clone();
        registry.register_with_unit("last_success_timestamp", help, Unit::Seconds, times);
        host(&mut registry, status);
        profiles(&mut registry, &status.profiles);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .map_err(|error| error.to_string())?;
        Ok(text)
    }

    fn counters(&self, registry: &mut Registry) {
        registry.register("polls", "Rounds over all sources", self.polls.clone());
        registry.register("reports", "Reports to the registry", self.reports.clone());
        registry.register("attempts", "Switches that have ended", self.attempts.clone());
        let help = "Bytes that came from a binary cache";
        registry.register_with_unit("fetch", help, Unit::Bytes, self.fetched_bytes.clone());
        let help = "Store paths that came from a binary cache";
        registry.register("fetch_paths", help, self.fetched_paths.clone());
        let help = "How often a binary cache failed or lied";
        registry.register("fetch_faults", help, self.faults.clone());
    }
}

fn rolled_back(profile: &Profile) -> bool {
    let word = profile.explain(profile.since).word;
    word == StateWord::RolledBack
        || profile.refused.is_some() && profile.pin.is_some() && word == StateWord::Pinned
}

fn host(registry: &mut Registry, status: &Status) {
    if let Some(trust) = &status.trust {
        let mut time = |name: &str, help: &str, at: Option<shared::time::Time>| {
            let Some(at) = at else { return };
            let gauge: Gauge = Gauge::default();
            gauge.set(at.as_second());
            registry.register_with_unit(name, help, Unit::Seconds, gauge);
        };
        time("signed_timestamp", "When the freshest statement was signed", trust.signed_at);
        time("expiry_timestamp", "When what is verified expires", trust.expires_at);
    }
    if let Some(free) = status.free {
        let gauges = Gauges::default();
        let free = i64::try_from(free).unwrap_or(i64::MAX);
        gauges.get_or_create(&vec![("fs", "store".to_owned())]).set(free);
        registry.register_with_unit("free", "Room on the disk", Unit::Bytes, gauges);
    }
}

fn profiles(registry: &mut Registry, profiles: &[ProfileStatus]) {
    let (states, versions, pinned) = (Gauges::default(), Gauges::default(), Gauges::default());
    for profile in profiles {
        let label = || ("profile", profile.profile.to_string());
        for word in StateWord::ALL {
            let labels = vec![label(), ("state", word.to_string())];
            states.get_or_create(&labels).set(i64::from(word == profile.state));
        }
        let running = profile.running.as_ref().and_then(|running| running.version);
        let wanted = profile.wanted.as_ref().map(|wanted| wanted.version);
        for (kind, version) in [("running", running), ("wanted", wanted)] {
            let labels = vec![label(), ("kind", kind.to_owned())];
            let version = version.map_or(0, |version| i64::from(version.get()));
            versions.get_or_create(&labels).set(version);
        }
        let is_pinned = profile.state == StateWord::Pinned;
        pinned.get_or_create(&vec![label()]).set(i64::from(is_pinned));
    }
    registry.register("state", "1 for the state that a profile is in", states);
    registry.register("version", "Version of the manifest; 0 for none", versions);
    registry.register("pinned", "1 while somebody on the host holds it", pinned);
}
