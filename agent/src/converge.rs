//! Drives profiles towards what is asked for: the thin side that acts, beside the pure
//! [`state`](crate::state) that decides.
//!
//! A switch, and every change of the journal, happens under the host's one lock: one at a time,
//! whoever starts it. Fetching happens without it, so fetches overlap. Every value is in the
//! journal before anything is done because of it; a process that dies anywhere leaves the next
//! one a journal to compare with the host. Start at [`Converger::converge`].

mod boot;
mod error;
mod examine;
mod fetch;
mod session;
mod system;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use shared::id::{GroupName, ProfileName, RealmName};
use shared::problem::chain;
use shared::window::{Opening, Windows};
use store::local::{LocalStore, LocalStoreError};
use store::substitute::{Limits, Observer};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::session::Session;
use crate::caches::Caches;
use crate::config::{Gc, Reboots, Runner};
use crate::dead_man::DeadMan;
use crate::files;
use crate::floors::Floors;
use crate::health::Tools;
use crate::journal::Journal;
use crate::pins::Pins;
use crate::state::{Desired, Event, Pin, Profile, State, Wanted};
use crate::windows::{self, Openings};

pub(crate) use self::error::ConvergeError;
pub(crate) use self::examine::Found;
pub(crate) use self::fetch::Closures;

/// How often a profile is compared with the host even if nothing new was asked for: how long the
/// daemon takes to notice what its operator did by a command.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Where a host keeps what the agent changes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The agent's state folder: journal, pins, lock.
    pub(crate) state_dir: PathBuf,
    /// The trust domain whose manifests it follows.
    pub(crate) realm: RealmName,
    /// The store root; profiles are below it as well.
    pub(crate) root: PathBuf,
    /// Who runs programs.
    pub(crate) runner: Runner,
    /// What health checks ask with.
    pub(crate) tools: Tools,
    /// Who undoes a switch that this process does not live to confirm, where systemd wakes him.
    pub(crate) dead_man: Option<DeadMan>,
    /// Whether this host reboots by itself.
    pub(crate) reboots: Reboots,
}

/// When to stop half-way. A switch comes to its end whatever is cancelled, unless it can be left.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// The order was overtaken: ends its fetch.
    pub(crate) order: CancellationToken,
    /// The process shall end: ends fetches and health checks.
    pub(crate) process: CancellationToken,
}

impl Stop {
    /// Stops everything when this is cancelled.
    pub(crate) fn on(process: &CancellationToken) -> Self {
        Self { order: process.child_token(), process: process.clone() }
    }
}

/// What one profile is to become, and where its closure may come from.
#[derive(Clone)]
pub(crate) struct Order {
    /// The group that the host follows.
    pub(crate) group: GroupName,
    /// The profile.
    pub(crate) profile: ProfileName,
    /// What the documents ask for.
    pub(crate) desired: Desired,
    /// The windows that hold from now on; as before if there are none.
    pub(crate) windows: Option<Vec<Windows>>,
    /// The caches and keys that the policy and this host allow.
    pub(crate) caches: Caches,
    /// How much of the machine a fetch may use.
    pub(crate) limits: Limits,
    /// Whether it may make room for itself, and which generations go for that.
    pub(crate) gc: Gc,
    /// Hears how a fetch goes on.
    pub(crate) observer: Observer,
}

/// Drives the profiles of one host.
#[derive(Debug, Clone)]
pub(crate) struct Converger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    place: Place,
    journal: Journal,
    floors: Floors,
    /// When to leave what systemd runs for us to the next process.
    leave: CancellationToken,
}

impl Converger {
    /// Prepares for a host; touches nothing yet. A switch comes to its end before this process does.
    pub(crate) fn new(place: Place) -> Self {
        Self::leaving(place, CancellationToken::new())
    }

    /// Prepares for a host; once this is cancelled, programs that systemd runs for a switch are left
    /// to whoever goes on with it, and the call ends with [`ConvergeError::Stopped`].
    pub(crate) fn leaving(place: Place, leave: CancellationToken) -> Self {
        let journal = Journal::new(&place.state_dir);
        let floors = Floors::new(&place.state_dir, &place.realm);
        Self { inner: Arc::new(Inner { place, journal, floors, leave }) }
    }

    /// Ends what a crash or a reboot interrupted, for every profile of the journal.
    pub(crate) async fn recover(&self) -> Result<Vec<Profile>, ConvergeError> {
        let inner = Arc::clone(&self.inner);
        let sweep = tokio::task::spawn_blocking(move || {
            files::sweep(&inner.place.state_dir);
            inner.sweep_store();
        });
        sweep.await.map_err(ConvergeError::Worker)?;
        let mut profiles = Vec::new();
        for name in self.inner.journal.names()? {
            profiles.push(self.locked(name, None, |session| session.recover()).await?);
        }
        Ok(profiles)
    }

    /// Takes one profile as far towards the order as it gets by now.
    ///
    /// What is stopped ends soon, with [`ConvergeError::Stopped`]; the next call goes on from
    /// there. A switch comes to its end, also if this is dropped; a newer order ends no checks.
    pub(crate) async fn converge(
        &self,
        order: &Order,
        closures: &impl Closures,
        stop: &Stop,
    ) -> Result<Profile, ConvergeError> {
        let (name, group) = (order.profile.clone(), Some(order.group.clone()));
        let (desired, windows) = (order.desired.clone(), order.windows.clone());
        let accept = move |session: &mut Session| {
            session.set_windows(windows);
            session.recover()?;
            session.feed(Event::Desired(desired))
        };
        let mut profile = self.locked(name.clone(), group.clone(), accept).await?;
        loop {
            profile = self.attend(profile, &stop.process).await?;
            let Some(wanted) = fetch_due(&profile) else { return Ok(profile) };
            let event = self.fetch_in_window(&profile, &wanted, order, closures, stop).await?;
            let go_on = move |session: &mut Session| match event {
                Some(event) => session.resume(event),
                None => session.recover(),
            };
            profile = self.locked(name.clone(), group.clone(), go_on).await?;
        }
    }

    /// Runs the health checks that a profile waits for, until it waits for none.
    async fn attend(
        &self,
        mut profile: Profile,
        stop: &CancellationToken,
    ) -> Result<Profile, ConvergeError> {
        while let Some(examination) = profile.examination() {
            let event = self.examine(&profile, &examination, stop).await?;
            let go_on = move |session: &mut Session| {
                session.recover()?;
                event.map_or(Ok(()), |event| session.feed(event))
            };
            profile = self.locked(profile.name.clone(), None, go_on).await?;
        }
        Ok(profile)
    }

    /// Follows the newest order until cancelled, and looks again now and then by itself.
    ///
    /// A new order ends a fetch for an older one, so only what differs should be sent. What was
    /// confirmed is checked on and on meanwhile.
    pub(crate) async fn follow(
        &self,
        name: &ProfileName,
        orders: watch::Receiver<Option<Order>>,
        closures: &impl Closures,
        cancel: &CancellationToken,
        told: impl Fn(Result<Profile, ConvergeError>),
    ) {
        let look = Notify::new();
        let ended = cancel.child_token();
        let drive = async {
            self.follow_orders(orders, closures, cancel, |outcome| {
                look.notify_one();
                told(outcome);
            })
            .await;
            ended.cancel();
        };
        tokio::join!(drive, self.watch(name, &look, &ended, &told));
    }

    async fn follow_orders(
        &self,
        mut orders: watch::Receiver<Option<Order>>,
        closures: &impl Closures,
        cancel: &CancellationToken,
        told: impl Fn(Result<Profile, ConvergeError>),
    ) {
        loop {
            let order = orders.borrow_and_update().clone();
            let stop = Stop::on(cancel);
            let work = async {
                let Some(order) = order else { return stop.order.cancelled().await };
                let outcome = self.converge(&order, closures, &stop).await;
                let wakes_at = outcome.as_ref().ok().and_then(|profile| profile.wakes_at(now()));
                if !matches!(outcome, Err(ConvergeError::Stopped)) {
                    told(outcome);
                }
                // That it was stopped is not news.
                let pause = tokio::time::sleep(until(wakes_at));
                let _stopped = stop.order.run_until_cancelled(pause).await;
            };
            tokio::pin!(work);
            let (mut is_done, mut is_last) = (false, false);
            // Cancel safe: an order that is not taken stays, and the work goes on below.
            tokio::select! {
                () = cancel.cancelled() => is_last = true,
                changed = orders.changed() => is_last = changed.is_err(),
                () = &mut work => is_done = true,
            }
            // What is under way tidies up behind itself.
            stop.order.cancel();
            if !is_done {
                work.await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Forgets that a version failed, and all pauses. What has to be fetched, the next
    /// [`converge`](Self::converge) fetches.
    pub(crate) async fn retry(&self, name: ProfileName) -> Result<Profile, ConvergeError> {
        let retry = |session: &mut Session| {
            session.recover()?;
            session.feed(Event::Retry)
        };
        self.locked(name, None, retry).await
    }

    /// Pins a profile, or lifts its pin.
    pub(crate) async fn pin(
        &self,
        name: ProfileName,
        pin: Option<Pin>,
    ) -> Result<Profile, ConvergeError> {
        let set = |session: &mut Session| {
            session.set_pin(pin)?;
            session.recover()?;
            session.feed(Event::Woke)
        };
        self.locked(name, None, set).await
    }

    /// Goes back to a generation, by default the one before, and pins the profile there.
    ///
    /// Whether it worked, the profile tells: it runs the generation, or what it ran before.
    pub(crate) async fn roll_back(
        &self,
        name: ProfileName,
        generation: Option<u64>,
        pin: Pin,
        stop: &CancellationToken,
    ) -> Result<Profile, ConvergeError> {
        let go_back = move |session: &mut Session| {
            session.recover()?;
            let running = session.find_generation(generation)?;
            session.set_pin(Some(pin))?;
            session.feed(Event::RollBack(running))
        };
        let profile = self.locked(name, None, go_back).await?;
        self.attend(profile, stop).await
    }

    /// Confirms the switch that is under way, whatever its checks still wait for.
    pub(crate) async fn confirm(&self, name: ProfileName) -> Result<Profile, ConvergeError> {
        let confirm = |session: &mut Session| {
            session.recover()?;
            session.feed(Event::Confirm)
        };
        self.locked(name, None, confirm).await
    }

    /// Undoes the attempt of this id, if it is under way and nobody has moved the link on; returns
    /// what has become of its profile.
    ///
    /// A journal that this program cannot read is left as it is: it may be of a newer one.
    pub(crate) async fn expire(
        &self,
        id: &str,
        stop: &CancellationToken,
    ) -> Result<Option<Profile>, ConvergeError> {
        let mut unread = None;
        for name in self.inner.journal.names()? {
            let is_it = |profile: &Profile| profile.attempt().is_some_and(|it| it.id == id);
            match self.inner.journal.read(&name) {
                Ok(Some(profile)) if is_it(&profile) => {
                    let id = id.to_owned();
                    let expire = move |session: &mut Session| session.expire(id);
                    let profile = self.locked(name, None, expire).await?;
                    return self.attend(profile, stop).await.map(Some);
                }
                Ok(_) => {}
                Err(error) => unread = Some(error),
            }
        }
        unread.map_or(Ok(None), |error| Err(error.into()))
    }

    /// Arms the dead man again for every attempt that is under way, because a boot forgets him;
    /// returns their profiles.
    pub(crate) fn watch_again(&self) -> Result<Vec<Profile>, ConvergeError> {
        let mut watched = Vec::new();
        for profile in self.profiles()? {
            if let (Some(dead_man), Some(attempt)) = (&self.inner.place.dead_man, profile.attempt())
            {
                dead_man.arm(&attempt.id, attempt.target.limit())?;
                watched.push(profile);
            }
        }
        Ok(watched)
    }

    /// Returns all profiles as the journal has them; takes no lock and changes nothing.
    pub(crate) fn profiles(&self) -> Result<Vec<Profile>, ConvergeError> {
        let pins = Pins::read(&self.inner.place.state_dir)?;
        let mut profiles = Vec::new();
        for name in self.inner.journal.names()? {
            let profile = match self.inner.journal.read(&name) {
                // Told as what the next session makes of it.
                Err(error) if error.is_lost() => {
                    Some(Profile::lost(name.clone(), chain(&error), now()))
                }
                read @ (Ok(_) | Err(_)) => read?,
            };
            profiles.extend(profile.map(|profile| {
                let pin = pins.get(&name).cloned();
                let open = self.inner.openings(&profile);
                Profile { pin, open, ..profile }
            }));
        }
        Ok(profiles)
    }

    /// Returns the agent's state folder.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.inner.place.state_dir
    }

    /// Returns the root of the store.
    pub(crate) fn root(&self) -> &Path {
        &self.inner.place.root
    }

    /// Returns the link of a profile.
    pub(crate) fn link(&self, name: &ProfileName) -> PathBuf {
        self.inner.link(name)
    }

    /// Does something with a profile under the host's lock, and to its end even if dropped.
    async fn locked(
        &self,
        name: ProfileName,
        group: Option<GroupName>,
        work: impl FnOnce(&mut Session) -> Result<(), ConvergeError> + Send + 'static,
    ) -> Result<Profile, ConvergeError> {
        let inner = Arc::clone(&self.inner);
        let session = move || {
            let mut session = Session::open(inner, name, group)?;
            session.wait_for_others()?;
            work(&mut session)?;
            session.close()
        };
        tokio::task::spawn_blocking(session).await.map_err(ConvergeError::Worker)?
    }
}

impl Inner {
    /// Returns what windows and host let a profile do now.
    fn openings(&self, profile: &Profile) -> Openings {
        let open = windows::look(&profile.windows, now());
        match self.place.reboots {
            Reboots::Never => Openings { reboot: Opening::Closed { until: None }, ..open },
            Reboots::OneShot | Reboots::Any => open,
        }
    }

    fn link(&self, name: &ProfileName) -> PathBuf {
        let profiles = self.place.root.join("nix/var/nix/profiles");
        // `system` is the host's own; everything else stays out of its way.
        if name.is_system() {
            profiles.join(name.as_str())
        } else {
            profiles.join("shoal").join(name.as_str())
        }
    }

    /// Removes what dead processes left in the store. A fetch does so too, but none may be due.
    fn sweep_store(&self) {
        let roots = self.place.root.join("nix/var/nix/temproots");
        // Where nobody works and nobody died, there is nothing to open.
        if std::fs::read_dir(roots).is_ok_and(|mut roots| roots.next().is_some())
            && let Err(error) = self.store().and_then(|store| store.remove_leftovers())
        {
            tracing::warn!("what a dead process left stays for now: {}", chain(&error));
        }
    }

    /// Opens the store, for one piece of work: as long as it is open, the temporary roots of this
    /// process keep everything it ever fetched from the garbage collector.
    fn store(&self) -> Result<Arc<LocalStore>, LocalStoreError> {
        Ok(Arc::new(LocalStore::open(&self.place.root)?))
    }
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, profile, desired, .. } = self;
        f.debug_struct("Order")
            .field("group", group)
            .field("profile", profile)
            .field("desired", desired)
            .finish_non_exhaustive()
    }
}

/// Returns what must be fetched before the profile can go on.
fn fetch_due(profile: &Profile) -> Option<Wanted> {
    match &profile.state {
        State::Fetching { wanted, pause: None, .. } => Some(wanted.clone()),
        State::Fetching { pause: Some(_), .. }
        | State::Starting
        | State::Steady { .. }
        | State::Staged { .. }
        | State::Switching { .. }
        | State::RebootPending { .. }
        | State::Confirming { .. }
        | State::RollingBack { .. }
        | State::Failed { .. } => None,
    }
}

/// Returns the time in whole seconds, as all our formats write it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// How long to wait for that time; not longer than [`LOOK_AGAIN`], and never quite the same.
fn until(wakes_at: Option<Timestamp>) -> Duration {
    let seconds = wakes_at.map(|at| at.as_second().saturating_sub(now().as_second()));
    let exact = seconds.map_or(LOOK_AGAIN, |s| Duration::from_secs(s.try_into().unwrap_or(0)));
    let jitter = Duration::from_millis(rand::random_range(0..1500));
    exact.min(LOOK_AGAIN).saturating_add(jitter)
}
