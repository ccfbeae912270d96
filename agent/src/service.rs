//! What the daemon shows of itself: to systemd, to whoever is on this host, and to monitoring.
//!
//! Nothing here decides anything, and nothing that decides waits for it.

mod message_id;
mod metrics;
mod notify;
mod scrape;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use shared::problem::{Kind, Problem, chain};
use shared::state_word::StateWord;
use shared::version::SoftwareVersion;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;
use self::notify::{Pulse, Watchdog};
use crate::client::{PollRecord, Trouble};
use crate::config::Settings;
use crate::converge::Converger;
use crate::rounds::Round;
use crate::state::Profile;
use crate::status::{DaemonStatus, Status};

pub(crate) use self::socket::ask;

/// A daemon, as others see it.
#[derive(Debug)]
pub(crate) struct Service {
    shown: Arc<Shown>,
    pulse: Pulse,
    failing: bool,
    tasks: Vec<JoinHandle<()>>,
}

/// What is told when somebody asks.
#[derive(Debug)]
struct Shown {
    settings: Settings,
    converger: Converger,
    metrics: Metrics,
    since: Timestamp,
    next_poll: std::sync::Mutex<Option<Timestamp>>,
    /// What is known of the polls, also if it cannot be written down.
    record: std::sync::Mutex<PollRecord>,
}

impl Service {
    /// Opens what others ask at, and tells systemd that the daemon is there. What cannot be opened is
    /// told, and missed by nobody else.
    ///
    /// Before anything is recovered: what is waited for then may be a program that restarts us, and
    /// waits until we are there.
    pub(crate) async fn start(
        settings: &Settings,
        converger: &Converger,
        cancel: &CancellationToken,
    ) -> Result<Self, Problem> {
        let shown = Arc::new(Shown {
            settings: settings.clone(),
            converger: converger.clone(),
            metrics: Metrics::new(),
            since: Timestamp::now(),
            next_poll: std::sync::Mutex::default(),
            record: std::sync::Mutex::default(),
        });
        let mut tasks = Vec::new();
        match socket::listen(&settings.daemon.socket) {
            Ok(listener) => {
                let work = socket::serve(listener, Arc::clone(&shown), cancel.clone());
                tasks.push(tokio::spawn(work));
            }
            Err(error) => {
                let path = settings.daemon.socket.display();
                tracing::warn!(
                    "`agent status` will ask the disk: cannot listen on `{path}`: {error}"
                );
            }
        }
        if let Some(address) = settings.daemon.metrics {
            // Asked for by name, so that a port which is taken is no trifle.
            let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
                Problem::from_error(Kind::Runtime, "metrics", &error)
                    .because(format!("`daemon.metrics` is {address}"))
                    .fix("choose another port")
            })?;
            // The port may have been left to the system.
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!("metrics are served at http://{address}/metrics");
            let work = scrape::serve(listener, Arc::clone(&shown), cancel.clone());
            tasks.push(tokio::spawn(work));
        }
        let (pulse, watchdog) = Watchdog::new();
        if let Some(watchdog) = watchdog {
            tasks.push(tokio::spawn(watchdog.feed()));
        }
        notify::ready();
        let service = Self { shown, pulse, failing: false, tasks };
        service.tell();
        Ok(service)
    }

    /// The daemon has recovered, and begins to go round.
    pub(crate) fn recovered(&self, recovered: &[Profile]) {
        let host = &self.shown.settings.host.name;
        for profile in recovered {
            self.shown.metrics.recovered(profile);
        }
        tracing::info!(
            host.name = %host, profiles = recovered.len(), MESSAGE_ID = message_id::STARTED,
            "the agent runs; the journal agrees with the host"
        );
        self.tell();
    }

    /// A round begins: it must end, or the watchdog bites.
    pub(crate) fn round_begins(&self) {
        self.pulse.busy();
    }

    /// A round has ended; `pause` is how long the next one waits.
    pub(crate) fn round_ended(
        &mut self,
        round: Option<&Round>,
        record: &PollRecord,
        failures: u32,
        pause: Duration,
    ) {
        self.pulse.idle();
        self.shown.record().clone_from(record);
        let next = Timestamp::now().checked_add(pause).ok();
        *self.shown.next_poll() = next;
        let Some(round) = round else { return };
        self.shown.metrics.polled(round.trouble.as_ref().map(Trouble::code), round.news);

        match &round.trouble {
            Some(trouble) if !self.failing => tracing::warn!(
                code = %trouble.code(), MESSAGE_ID = message_id::SOURCES_LOST,
                "no source is good: {}", chain(trouble)
            ),
            Some(trouble) => tracing::debug!(
                code = %trouble.code(), failures, "no source is good: {}", chain(trouble)
            ),
            None if self.failing => {
                tracing::info!(MESSAGE_ID = message_id::SOURCES_BACK, "a source is good again");
            }
            None => {}
        }
        self.failing = round.trouble.is_some();
        self.tell();
    }

    /// Returns what hears of profiles, reports and fetches.
    pub(crate) fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.shown))
    }

    /// The daemon is about to stop, or to begin again with other settings.
    pub(crate) fn stopping(&self, is_last: bool) {
        self.pulse.idle();
        if is_last {
            notify::stopping();
        } else {
            notify::reloading();
        }
    }

    /// The daemon has come to its end.
    pub(crate) async fn stopped(self, is_last: bool) {
        let Self { tasks, pulse, .. } = self;
        drop(pulse);
        for task in tasks {
            // Each ends with the daemon's cancellation; a panic was logged.
            drop(task.await);
        }
        if is_last {
            tracing::info!(MESSAGE_ID = message_id::STOPPED, "the agent stops; what runs goes on");
        }
    }

    fn tell(&self) {
        self.shown.tell();
    }
}

/// The configuration was to be read again, and that of before holds.
pub(crate) fn kept_configuration() {
    notify::reloading();
    notify::ready();
}

/// Writes to the log that a profile is in a state now, so that a journal's reader finds it.
pub(crate) fn profile_is(profile: &Profile, word: StateWord, reason: &str) {
    let group = profile.group.as_ref().map(ToString::to_string).unwrap_or_default();
    let wanted = profile.wanted.as_ref().map(|wanted| wanted.version.version.get());
    macro_rules! tell {
        ($level:ident) => {
            tracing::$level!(
                SHOAL_PROFILE = profile.name.as_str(),
                SHOAL_GROUP = group,
                SHOAL_STATE = word.word(),
                SHOAL_VERSION = wanted,
                MESSAGE_ID = message_id::of_state(word),
                "{} is {word}{}{reason}",
                profile.name,
                if reason.is_empty() { "" } else { ": " }
            )
        };
    }
    match word {
        StateWord::Untrusted | StateWord::Failed => tell!(error),
        StateWord::RolledBack | StateWord::Stale => tell!(warn),
        StateWord::Pinned
        | StateWord::Held
        | StateWord::RebootPending
        | StateWord::Confirming
        | StateWord::Switching
        | StateWord::Fetching
        | StateWord::Waiting
        | StateWord::Converged => tell!(info),
    }
}

/// Hears what happens in the daemon's other tasks.
#[derive(Debug, Clone)]
pub(crate) struct Watcher(Arc<Shown>);

impl Watcher {
    /// A profile may have changed.
    pub(crate) fn profile(&self, profile: &Profile) {
        self.0.metrics.profile(profile);
        self.0.tell();
    }

    /// A report was sent, or was not.
    pub(crate) fn reported(&self, taken: bool) {
        self.0.metrics.reported(taken, Timestamp::now());
    }

    /// Returns an observer that counts what comes from the caches, and tells `next`.
    pub(crate) fn count(&self, next: store::substitute::Observer) -> store::substitute::Observer {
        let shown = Arc::clone(&self.0);
        Arc::new(move |event| {
            shown.metrics.fetched(&event);
            next(event);
        })
    }
}

impl Shown {
    /// Tells how the host is, from the disk and the daemon's own knowledge.
    fn status(&self) -> Result<Status, String> {
        let profiles = self.converger.profiles().map_err(|error| chain(&error))?;
        let record = PollRecord::load(&self.settings.state_dir).map_err(|error| chain(&error))?;
        let record = record.or_newer(&self.record());
        let mut status = Status::new(&self.settings, &profiles, &record, Timestamp::now());
        status.daemon = Some(DaemonStatus {
            pid: std::process::id(),
            version: SoftwareVersion::current(),
            since: self.since.into(),
            next_poll: self.next_poll().map(Into::into),
        });
        Ok(status)
    }

    fn record(&self) -> std::sync::MutexGuard<'_, PollRecord> {
        self.record.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next_poll(&self) -> std::sync::MutexGuard<'_, Option<Timestamp>> {
        self.next_poll.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Shows systemd the state in one line.
    fn tell(&self) {
        if let Ok(status) = self.status() {
            notify::status(&status.line());
        }
    }
}
