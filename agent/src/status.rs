//! How this host is, told from its own disk: what runs, what is wanted, why not yet, what next.
//!
//! Nothing here asks anybody, so that it tells the same with every other machine down.

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::id::{GroupName, HostName, ProfileName, RealmName};
use shared::report;
use shared::state_word::StateWord;
use shared::time::Time;
use shared::version::{SoftwareVersion, VersionNumber};

use crate::client::PollRecord;
use crate::config::Settings;
use crate::report::{running, wanted};
use crate::state::{Code, Explained, Profile, Reason};
use crate::systems::Systems;

/// The name of the form in which a status is told.
const SCHEMA: &str = "status.v1";

/// After how many polls without a good source a host counts as stale.
const STALE_POLLS: u32 = 3;

/// What a poll may take beyond its pause before it counts as missed.
const POLL_SLACK: SignedDuration = SignedDuration::from_secs(30);

/// How this host is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    schema: Cow<'static, str>,
    /// The host's name.
    pub(crate) host: HostName,
    /// The trust domain.
    pub(crate) realm: RealmName,
    /// The groups that it follows.
    pub(crate) groups: Vec<GroupName>,
    /// The worst of the states below.
    pub(crate) state: Option<StateWord>,
    /// Each profile.
    pub(crate) profiles: Vec<ProfileStatus>,
    /// The registry and its mirrors.
    pub(crate) registry: RegistryStatus,
    /// What is verified.
    pub(crate) trust: Option<TrustStatus>,
    /// Bytes that may still be written to the store.
    pub(crate) free: Option<u64>,
    /// The systems of the machine, if it runs NixOS.
    #[serde(default)]
    pub(crate) systems: Option<report::Systems>,
    /// The daemon, if it tells this itself.
    pub(crate) daemon: Option<DaemonStatus>,
}

/// The daemon that tells how the host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonStatus {
    /// Its process.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: SoftwareVersion,
    /// Since when it runs.
    pub(crate) since: Time,
    /// When it will ask the registry next; it may be asking right now.
    pub(crate) next_poll: Option<Time>,
}

/// How one profile is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProfileStatus {
    /// The group that it follows.
    pub(crate) group: Option<GroupName>,
    /// Its name.
    pub(crate) profile: ProfileName,
    /// One of the twelve words.
    pub(crate) state: StateWord,
    /// Since when.
    pub(crate) since: Time,
    /// Until when, if that is known beforehand.
    pub(crate) until: Option<Time>,
    /// Why.
    pub(crate) reason: Option<report::Reason>,
    /// The next command.
    pub(crate) next: Option<String>,
    /// What the newest accepted manifest wants.
    pub(crate) wanted: Option<report::Wanted>,
    /// What runs.
    pub(crate) running: Option<report::Running>,
    /// Since when it is healthy.
    pub(crate) healthy_since: Option<Time>,
}

/// How the registry was when it was last asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RegistryStatus {
    /// The sources, in the order in which they are asked.
    pub(crate) urls: Vec<String>,
    /// When they were last asked.
    pub(crate) asked_at: Option<Time>,
    /// When one was last good.
    pub(crate) good_at: Option<Time>,
    /// How often in a row none was.
    pub(crate) failures: u32,
    /// Why none was.
    pub(crate) trouble: Option<report::Reason>,
    /// The groups of which nothing can be used, and why.
    pub(crate) groups: Vec<(GroupName, report::Reason)>,
}

/// What is verified.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TrustStatus {
    /// Version of root.
    pub(crate) root: u64,
    /// Version of timestamp.
    pub(crate) timestamp: u64,
    /// When the freshest statement was signed.
    pub(crate) signed_at: Option<Time>,
    /// When what is verified expires.
    pub(crate) expires_at: Option<Time>,
}

impl Status {
    /// Tells how the host is at this time.
    pub(crate) fn new(
        settings: &Settings,
        profiles: &[Profile],
        record: &PollRecord,
        now: Timestamp,
    ) -> Self {
        let stale = staleness(settings, record, now);
        let profiles: Vec<ProfileStatus> =
            profiles.iter().map(|profile| profile_status(profile, stale.as_ref(), now)).collect();
        Self {
            schema: Cow::Borrowed(SCHEMA),
            host: settings.host.name.clone(),
            realm: settings.realm.clone(),
            groups: settings.groups.clone(),
            state: StateWord::of_all(profiles.iter().map(|profile| profile.state))
                .or(stale.as_ref().map(|reason| reason.code.word())),
            profiles,
            registry: RegistryStatus {
                urls: settings.registry.urls.iter().map(ToString::to_string).collect(),
                asked_at: record.asked_at.map(Time::from),
                good_at: record.good_at.map(Time::from),
                failures: record.failures,
                trouble: record.trouble.as_ref().map(tell),
                groups: record
                    .groups
                    .iter()
                    .map(|(group, why)| (group.clone(), tell(why)))
                    .collect(),
            },
            trust: record.facts.map(|facts| TrustStatus {
                root: facts.root,
                timestamp: facts.timestamp,
                signed_at: facts.signed_at.map(Time::from),
                expires_at: facts.expires_at.map(Time::from),
            }),
            free: crate::host::free_space(&settings.store.root),
            systems: Systems::read(&settings.store.root).told(&settings.store.root),
            daemon: None,
        }
    }

    /// Reads what a daemon told, if it is of a form that this program knows.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let status: Self = serde_json::from_slice(bytes).ok()?;
        (status.schema == SCHEMA).then_some(status)
    }

    /// Tells it in one line: each profile, its state and its versions.
    pub(crate) fn line(&self) -> String {
        let line = |profile: &ProfileStatus| {
            format!("{} {} {}", profile.profile, profile.state, profile.versions())
        };
        if self.profiles.is_empty() {
            return self.state.map_or("no profile yet".to_owned(), |state| state.to_string());
        }
        self.profiles.iter().map(line).collect::<Vec<_>>().join("; ")
    }
}

impl ProfileStatus {
    /// Returns what runs, and behind an arrow what is wanted if that is another.
    pub(crate) fn versions(&self) -> String {
        let running = self.running.as_ref().and_then(|running| running.version);
        let wanted = self.wanted.as_ref().map(|wanted| wanted.version);
        let number = |version: Option<VersionNumber>| {
            version.map_or("-".to_owned(), |version| format!("#{version}"))
        };
        if running == wanted || wanted.is_none() {
            return number(running);
        }
        format!("{} → {}", number(running), number(wanted))
    }
}

/// Says why nothing fresh is known, if that is so: no source was good, what they had could not be
/// kept, or nobody asked for long.
pub(crate) fn staleness(
    settings: &Settings,
    record: &PollRecord,
    now: Timestamp,
) -> Option<Reason> {
    if let Some(trouble) = &record.trouble
        && matches!(trouble.code, Code::NoFreshSource | Code::StateFailed | Code::DiskFull)
    {
        return Some(trouble.clone());
    }
    let Some(asked) = record.asked_at else {
        return Some(Reason::new(Code::NoFreshSource, "no registry was ever asked"));
    };
    let pause = settings.registry.poll + settings.registry.wait;
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    let patience = pause.saturating_mul(STALE_POLLS.cast_signed()).saturating_add(POLL_SLACK);
    let passed = now.duration_since(asked);
    (passed > patience).then(|| {
        let text = format!("no registry was asked for {}", shared::human::span(passed));
        Reason::new(Code::NoFreshSource, text)
    })
}

fn profile_status(profile: &Profile, stale: Option<&Reason>, now: Timestamp) -> ProfileStatus {
    let mut explained = profile.explain(now);
    if let Some(reason) = stale
        && reason.code.word() < explained.word
    {
        explained = Explained {
            word: reason.code.word(),
            until: None,
            reason: Some(reason.clone()),
            next: Some("agent once".to_owned()),
            ..explained
        };
    }
    ProfileStatus {
        group: profile.group.clone(),
        profile: profile.name.clone(),
        state: explained.word,
        since: explained.since.into(),
        until: explained.until.map(Time::from),
        reason: explained.reason.as_ref().map(tell),
        next: explained.next,
        wanted: profile.wanted.as_ref().map(wanted),
        running: profile.running.as_ref().map(running),
        healthy_since: profile.healthy_since.map(Time::from),
    }
}

fn tell(reason: &Reason) -> report::Reason {
    report::Reason { code: reason.code.to_string(), text: reason.text.clone() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const CONFIG: &str = "[host]\nname = \"web-1\"\n[registry]\npoll = 60\n[trust]\nroot_sha256 = \
        \"0000000000000000000000000000000000000000000000000000000000000000\"\n";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settings() -> Settings {
        config::parse(Path::new("/agent.toml"), CONFIG).unwrap().settings
    }

    fn record(asked: i64, trouble: Option<Code>) -> PollRecord {
        let trouble = trouble.map(|code| Reason::new(code, "cannot reach `http://x`"));
        PollRecord { asked_at: Some(at(asked)), trouble, ..PollRecord::default() }
    }

    #[test]
    fn a_host_is_stale_when_no_source_is_fresh_or_nobody_asked_for_three_polls() {
        let check = |record: &PollRecord, now: i64, expected: Option<&str>| {
            let told = staleness(&settings(), record, at(now)).map(|reason| reason.text);
            assert_eq!(told.as_deref(), expected);
        };
        check(&PollRecord::default(), 0, Some("no registry was ever asked"));
        check(&record(1000, None), 1000 + 210, None);
        check(&record(1000, None), 1000 + 211, Some("no registry was asked for 3m 31s"));
        check(&record(1000, Some(Code::NoFreshSource)), 1001, Some("cannot reach `http://x`"));
        check(&record(1000, Some(Code::DiskFull)), 1001, Some("cannot reach `http://x`"));
        // What is untrusted freezes each profile, which says so.
        check(&record(1000, Some(Code::Untrusted)), 1001, None);
    }

    #[test]
    fn staleness_hides_nothing_that_is_worse() {
        let name = ProfileName::parse("web").unwrap();
        let mut profile = Profile::new(Some("eu".parse().unwrap()), name, at(0));
        let stale = Reason::new(Code::NoFreshSource, "nobody is there");
        let state = |profile: &Profile| profile_status(profile, Some(&stale), at(0)).state;
        assert_eq!(state(&profile), StateWord::Stale);
        let failed = Reason::new(Code::RollbackFailed, "both failed");
        profile.state = crate::state::State::Failed { reason: failed, above: None };
        assert_eq!(state(&profile), StateWord::Failed);
    }
}
