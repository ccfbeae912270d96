//! What happens under the host's lock: one profile, from its journal to its next resting state.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use shared::human;
use shared::id::{GroupName, ProfileName};
use shared::problem::chain;
use shared::window::Windows;
use store::disk;
use store::profile::{Generation, Profile as Links, ProfileError};
use tokio::runtime::Runtime;

use super::{ConvergeError, Inner, now};
use crate::activate::{self, Failure, Job, TransientError, Undone, Work};
use crate::config::Runner;
use crate::host_lock::HostLock;
use crate::pins::Pins;
use crate::service;
use crate::state::{
    self, Action, Activation, Attempt, Code, Event, Link, Pin, Profile, Reason, Running, State,
    Target, Ticket, Wanted,
};
use crate::{crash, history};

/// The host's lock, and one profile as the journal has it.
pub(super) struct Session {
    pub(super) inner: Arc<Inner>,
    pub(super) profile: Profile,
    pub(super) links: Links,
    group: Option<GroupName>,
    saved: Option<Profile>,
    _lock: HostLock,
}

impl Session {
    /// Waits for the lock and reads the journal.
    pub(super) fn open(
        inner: Arc<Inner>,
        name: ProfileName,
        group: Option<GroupName>,
    ) -> Result<Self, ConvergeError> {
        let lock = HostLock::take(&inner.place.state_dir)?;
        activate::end_leftover(&inner.place.state_dir);
        let links = Links::open(&inner.link(&name))?;
        let (mut profile, saved) = match inner.journal.read(&name) {
            Ok(Some(profile)) => (profile.clone(), Some(profile)),
            Ok(None) => (Profile::new(group.clone(), name, now()), None),
            Err(error) if error.is_lost() => {
                let text = chain(&error);
                tracing::error!(profile = %name, "the journal is lost: {text}");
                if let Err(error) = inner.journal.copy_aside(&name) {
                    tracing::error!(profile = %name, "cannot keep what is left: {error}");
                }
                (Profile::lost(name, text, now()), None)
            }
            Err(error) => return Err(error.into()),
        };
        profile.pin = Pins::read(&inner.place.state_dir)?.get(&profile.name).cloned();
        Ok(Self { inner, profile, links, group, saved, _lock: lock })
    }

    /// Waits until no program is at work that an earlier agent ran for another profile.
    ///
    /// Its attempt is gone on with by whoever opens that profile; until then the lock alone does not
    /// keep two switches apart. Only what systemd runs outlives its agent: the rest was ended.
    pub(super) fn wait_for_others(&self) -> Result<(), ConvergeError> {
        let Inner { place, journal, leave, .. } = &*self.inner;
        if place.runner != Runner::Systemd {
            return Ok(());
        }
        let may_be_at_work = |name: &ProfileName| match journal.read(name) {
            Ok(profile) => profile.is_some_and(|it| it.attempt().is_some()),
            Err(_) => true,
        };
        let mut others = journal.names()?;
        others.retain(|other| *other != self.profile.name && may_be_at_work(other));
        if others.is_empty() {
            return Ok(());
        }
        match runtime()?.block_on(activate::wait_out(&others, leave)) {
            Ok(()) => Ok(()),
            Err(TransientError::Left) => Err(ConvergeError::Stopped),
            Err(error) => Err(ConvergeError::Others(error)),
        }
    }

    /// Ends what a dead process may have left: we have the lock, so nobody is at it.
    pub(super) fn recover(&mut self) -> Result<(), ConvergeError> {
        self.profile.open = self.inner.openings(&self.profile);
        let facts = self.facts()?;
        let (profile, actions) = state::recover(self.profile.clone(), &facts, now());
        self.act(profile, actions)?;
        if let Some(group) = self.group.clone() {
            let floor = self.inner.floors.get(&group, &self.profile.name)?;
            self.profile.join(group, floor);
        }
        Ok(())
    }

    /// Tells the machine of an event, and does what it says.
    pub(super) fn feed(&mut self, event: Event) -> Result<(), ConvergeError> {
        self.profile.open = self.inner.openings(&self.profile);
        let (profile, actions) = state::step(self.profile.clone(), event, now());
        self.act(profile, actions)
    }

    /// Goes on after a fetch, unless something else came up meanwhile.
    pub(super) fn resume(&mut self, event: Event) -> Result<(), ConvergeError> {
        match &self.profile.state {
            State::Fetching { .. } => self.feed(event),
            State::Starting
            | State::Steady { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => self.recover(),
        }
    }

    /// Goes by these windows from now on, if they are known.
    pub(super) fn set_windows(&mut self, windows: Option<Vec<Windows>>) {
        if let Some(windows) = windows {
            self.profile.windows = windows;
        }
    }

    /// Pins the profile, or lifts its pin.
    pub(super) fn set_pin(&mut self, pin: Option<Pin>) -> Result<(), ConvergeError> {
        Pins::set(&self.inner.place.state_dir, &self.profile.name, pin.clone())?;
        self.profile.pin = pin;
        Ok(())
    }

    /// Returns a generation by its number, or the one before the current one.
    pub(super) fn find_generation(&self, number: Option<u64>) -> Result<Running, ConvergeError> {
        let generations = self.links.generations()?;
        let found = match number {
            Some(number) => generations.into_iter().find(|it| it.number == number),
            None => {
                let current = self.links.current()?.map(|it| it.number);
                generations.into_iter().rev().find(|it| Some(it.number) < current)
            }
        };
        let profile = self.profile.name.clone();
        match (found, number) {
            (Some(generation), _) => Ok(self.profile.identify(&link_of(generation))),
            (None, Some(generation)) => Err(ConvergeError::NoGeneration { profile, generation }),
            (None, None) => Err(ConvergeError::NoOlderGeneration(profile)),
        }
    }

    /// Tidies up, and returns the profile.
    pub(super) fn close(mut self) -> Result<Profile, ConvergeError> {
        self.save()?;
        if let (None, Some(record), Some(dead_man)) =
            (self.profile.attempt(), &self.profile.record, &self.inner.place.dead_man)
            && !record.id.is_empty()
        {
            dead_man.disarm(&record.id);
        }
        match &self.profile.state {
            // The generation roots the closure by now, or it is not wanted; unless it is held.
            State::Steady { .. } | State::Failed { .. } => self.remove_root(),
            State::Starting
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::Switching { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. } => {}
        }
        Ok(self.profile)
    }

    /// Writes the profile down, then does what is to be done, until nothing is left but a fetch.
    fn act(&mut self, profile: Profile, actions: Vec<Action>) -> Result<(), ConvergeError> {
        self.profile = profile;
        self.save()?;
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            let event = match action {
                // Done without the lock, by whoever opened this session.
                Action::Fetch(_) => continue,
                Action::TakeLock => self.prepare()?,
                Action::Switch(attempt) => match self.watch(&attempt)? {
                    Some(not_ready) => not_ready,
                    None => self.switch(&attempt)?,
                },
                // Done without the lock as well, unless there is nothing to do.
                Action::CheckHealth(_) => match self.profile.examination() {
                    Some(it) if it.checkup.health.is_empty() => Event::Healthy(it.id),
                    Some(_) | None => continue,
                },
                Action::Keep(attempt) => self.keep(&attempt)?,
                Action::Reboot(attempt) => {
                    self.reboot(&attempt)?;
                    continue;
                }
                Action::RollBack(attempt) => self.roll_back(&attempt)?,
            };
            let (profile, more) = state::step(self.profile.clone(), event, now());
            self.profile = profile;
            self.save()?;
            queue.extend(more);
        }
        Ok(())
    }

    /// Writes the journal, if anything changed.
    fn save(&mut self) -> Result<(), ConvergeError> {
        if self.saved.as_ref() == Some(&self.profile) {
            return Ok(());
        }
        if let (Some(group), Some(floor)) = (&self.profile.group, self.profile.floor) {
            // Before the journal: nothing is accepted that could be forgotten.
            self.inner.floors.raise(group, &self.profile.name, floor)?;
        }
        self.remember_attempt();
        self.inner.journal.write(&self.profile)?;
        let known = self.saved.as_ref().map(|saved| (&saved.state, saved.since));
        if known != Some((&self.profile.state, self.profile.since)) {
            let explained = self.profile.explain(now());
            let reason = explained.reason.map(|reason| reason.text).unwrap_or_default();
            service::profile_is(&self.profile, explained.word, &reason);
        }
        self.saved = Some(self.profile.clone());
        Ok(())
    }

    /// Writes down what became of an attempt, for people; nothing depends on it.
    fn remember_attempt(&self) {
        let ended = self.saved.as_ref().and_then(|it| history::ended(it, &self.profile, now()));
        let Some(entry) = ended else { return };
        if let Err(error) = history::append(&self.inner.place.state_dir, &self.profile.name, &entry)
        {
            tracing::warn!(profile = %self.profile.name, "cannot keep history: {}", chain(&error));
        }
    }

    /// Checks that the host has all that the switch will need.
    fn prepare(&mut self) -> Result<Event, ConvergeError> {
        let ready = Ticket { id: format!("{:016x}", rand::random::<u64>()), facts: self.facts()? };
        let State::Staged { target: Target::Wanted { wanted } } = &self.profile.state else {
            self.inner.journal.reserve()?;
            return Ok(Event::LockTaken(ready));
        };
        let not_ready = |code, text| Event::NotReady(wanted.path.clone(), Reason::new(code, text));
        if activate::real_path(&self.inner.place.root, &wanted.path).symlink_metadata().is_err() {
            // Collected against our root, or lost otherwise: to be fetched again.
            let text = format!("`{}` has gone from the store", wanted.path);
            return Ok(not_ready(Code::FetchFailed, text));
        }
        if let Err(error) = self.inner.journal.reserve() {
            return Ok(not_ready(Code::DiskFull, chain(&error)));
        }
        let (user, privileged) = (&wanted.checkup.user, wanted.checkup.privileged);
        let runs_programs = match &wanted.activation {
            Activation::Exec { .. } | Activation::Systemd { .. } => true,
            Activation::None | Activation::Nixos { .. } => wanted.checkup.needs_user(),
        };
        let host = self.inner.host(&self.profile.name)?;
        if runs_programs && let Err(error) = activate::choose(&host, user.as_ref(), privileged) {
            return Ok(not_ready(Code::UserRefused, error.to_string()));
        }
        if let Activation::Nixos { .. } = wanted.activation
            && let Some(reason) = self.refuse_system(wanted)
        {
            return Ok(Event::NotReady(wanted.path.clone(), reason));
        }
        if let Some(work) = work_of_target(&Target::Wanted { wanted: wanted.clone() })
            && let Activation::Systemd { .. } = work.activation
            && let Err(reason) = activate::check_units(&self.place(&host), work)
        {
            return Ok(Event::NotReady(wanted.path.clone(), reason));
        }
        Ok(Event::LockTaken(ready))
    }

    /// Arms the dead man; says so if nothing has happened yet and he cannot watch.
    fn watch(&self, attempt: &Attempt) -> Result<Option<Event>, ConvergeError> {
        let Some(dead_man) = &self.inner.place.dead_man else { return Ok(None) };
        if matches!(attempt.target, Target::Nothing) {
            return Ok(None);
        }
        let Err(error) = dead_man.arm(&attempt.id, attempt.target.limit()) else {
            return Ok(None);
        };
        let reason = Reason::new(Code::NoDeadMan, chain(&error));
        if let Target::Wanted { wanted } = &attempt.target
            && self.link()?.is_none_or(|link| link.path != wanted.path)
        {
            return Ok(Some(Event::NotReady(wanted.path.clone(), reason)));
        }
        // The operator's word, or a switch that has begun: better done than left half done.
        tracing::warn!(profile = %self.profile.name, "nothing would undo this switch: {}", reason.text);
        Ok(None)
    }

    /// Undoes an attempt that nobody confirmed in time.
    pub(super) fn expire(&mut self, id: String) -> Result<(), ConvergeError> {
        let facts = self.facts()?;
        self.feed(Event::Expired(id, facts))
    }

    fn switch(&mut self, attempt: &Attempt) -> Result<Event, ConvergeError> {
        if self.profile.name.is_system() {
            return self.switch_system(attempt);
        }
        let made = match &attempt.target {
            Target::Wanted { wanted } => self.links.set(&wanted.path),
            Target::Generation { running } => self.links.switch_to(running.generation),
            Target::Nothing => return self.stop(attempt),
        };
        let generation = match made {
            Ok(generation) => generation.number,
            Err(error) => return self.not_linked(attempt, &error),
        };
        crash::point("switch.linked");
        let old = attempt.from.as_ref().map(work_of_running);
        let done = self.put_to_work(attempt, "switch", old, work_of_target(&attempt.target))?;
        crash::point("switch.activated");
        Ok(match done {
            Ok(log) => {
                self.keep_log(&log);
                Event::Activated(Some(generation))
            }
            Err(Failure { reason, log }) => Event::ActivationFailed(reason, human::redact(&log)),
        })
    }

    /// Says what it means that the link could not be set, or not for sure.
    pub(super) fn not_linked(
        &self,
        attempt: &Attempt,
        error: &ProfileError,
    ) -> Result<Event, ConvergeError> {
        let text = chain(error);
        if let Target::Wanted { wanted } = &attempt.target
            && self.link()?.is_none_or(|link| link.path != wanted.path)
        {
            // It is this host that failed, not the version: nothing happened, try again later.
            let full = disk::is_full(error);
            let code = if full { Code::DiskFull } else { Code::StoreFailed };
            return Ok(Event::NotReady(wanted.path.clone(), Reason::new(code, text)));
        }
        let reason = Reason::new(Code::ActivationFailed, text);
        Ok(Event::ActivationFailed(reason, String::new()))
    }

    fn stop(&mut self, attempt: &Attempt) -> Result<Event, ConvergeError> {
        let old = attempt.from.as_ref().map(work_of_running);
        // An interrupted stop may have removed the link already, and not yet all generations.
        if let Err(Failure { reason, log }) = self.put_to_work(attempt, "switch", old, None)? {
            return Ok(Event::ActivationFailed(reason, human::redact(&log)));
        }
        crash::point("stop.deactivated");
        self.links.remove()?;
        crash::point("stop.removed");
        Ok(Event::Activated(None))
    }

    fn roll_back(&mut self, attempt: &Attempt) -> Result<Event, ConvergeError> {
        if self.profile.name.is_system() {
            return self.roll_back_system(attempt);
        }
        if let Some(from) = &attempt.from
            && let Err(error) = self.link_again(from)
        {
            let reason = Reason::new(Code::RollbackFailed, chain(&error));
            return Ok(Event::RollbackFailed(reason, String::new()));
        }
        crash::point("rollback.linked");
        let new = attempt.from.as_ref().map(work_of_running);
        if let Err(Failure { reason, log }) =
            self.put_to_work(attempt, "undo", work_of_target(&attempt.target), new)?
        {
            return Ok(Event::RollbackFailed(reason, human::redact(&log)));
        }
        crash::point("rollback.activated");
        self.forget_failed(attempt)?;
        crash::point("rollback.forgotten");
        Ok(Event::RolledBack)
    }

    /// Points the link to what ran before, also if somebody deleted that generation meanwhile.
    pub(super) fn link_again(&self, from: &Running) -> Result<(), ProfileError> {
        match self.links.switch_to(from.generation) {
            Ok(generation) if generation.path == from.path => Ok(()),
            Ok(_) | Err(ProfileError::NoGeneration { .. }) => self.links.set(&from.path).map(drop),
            Err(error) => Err(error),
        }
    }

    /// Deletes the generation that failed: whoever goes back later finds only good ones.
    pub(super) fn forget_failed(&self, attempt: &Attempt) -> Result<(), ConvergeError> {
        let Target::Wanted { wanted } = &attempt.target else { return Ok(()) };
        if attempt.from.is_none() {
            return Ok(self.links.remove()?);
        }
        let current = self.links.current()?.map(|current| current.number);
        let was_good = |number| self.profile.confirmed.iter().any(|it| it.generation == number);
        let failed: Vec<u64> = self
            .links
            .generations()?
            .into_iter()
            .filter(|it| it.path == wanted.path && Some(it.number) > current)
            .map(|it| it.number)
            .filter(|number| !was_good(*number))
            .collect();
        Ok(self.links.delete(&failed)?)
    }

    fn put_to_work(
        &self,
        attempt: &Attempt,
        step: &str,
        old: Option<Work<'_>>,
        new: Option<Work<'_>>,
    ) -> Result<Result<String, Failure>, ConvergeError> {
        let host = self.inner.host(&self.profile.name)?;
        let job = self.job(attempt, step);
        let place = activate::Place { job: job.as_ref(), ..self.place(&host) };
        match runtime()?.block_on(activate::put_to_work(&place, old, new)) {
            Ok(log) => Ok(Ok(log)),
            Err(Undone::Failed(failure)) => Ok(Err(failure)),
            // The journal says what is under way, and whoever reads it next finds it.
            Err(Undone::Left) => Err(ConvergeError::Stopped),
        }
    }

    /// Returns what programs are run for, where systemd runs them.
    fn job(&self, attempt: &Attempt, step: &str) -> Option<Job> {
        let leave = self.inner.leave.clone();
        let job = || Job { id: format!("{} {step}", attempt.id), leave };
        (self.inner.place.runner == Runner::Systemd).then(job)
    }

    /// Returns whether the program of a switch goes on without us.
    pub(super) fn is_at_work(&self, attempt: &Attempt) -> Result<bool, ConvergeError> {
        let Some(job) = self.job(attempt, "switch") else { return Ok(false) };
        Ok(runtime()?.block_on(job.is_there(&self.profile.name)))
    }

    /// Starts the units of what is to run on a host that boots; the text says why not.
    pub(super) fn start_at_boot(
        &self,
        work: Work<'_>,
    ) -> Result<Result<(), String>, ConvergeError> {
        let host = self.inner.host(&self.profile.name)?;
        let place = self.place(&host);
        match runtime()?.block_on(activate::start_at_boot(&place, work)) {
            Ok(_log) => Ok(Ok(())),
            Err(Undone::Failed(failure)) => Ok(Err(failure.reason.text)),
            Err(Undone::Left) => Err(ConvergeError::Stopped),
        }
    }

    fn place<'a>(&'a self, host: &'a activate::Host) -> activate::Place<'a> {
        activate::Place {
            root: &self.inner.place.root,
            state_dir: &self.inner.place.state_dir,
            link: self.links.link(),
            group: self.profile.group.as_ref(),
            profile: &self.profile.name,
            host,
            job: None,
        }
    }

    pub(super) fn keep_log(&mut self, log: &str) {
        self.profile.record.get_or_insert_default().log = human::redact(log);
    }

    pub(super) fn link(&self) -> Result<Option<Link>, ConvergeError> {
        Ok(self.links.current()?.map(link_of))
    }

    /// Removes the root that a fetch made. A stale one only keeps too much.
    fn remove_root(&self) {
        let name = self.profile.name.as_str();
        let root = self.inner.place.root.join("nix/var/nix/gcroots/shoal").join(name);
        let Ok(target) = root.read_link() else { return };
        if self.profile.held_back().is_some_and(|path| target == Path::new(&path.to_string())) {
            return;
        }
        let removed = self.inner.store().and_then(|store| {
            let removed = store.remove_root(name);
            crash::point("root.removed");
            removed
        });
        if let Err(error) = removed {
            tracing::warn!(profile = name, "cannot remove a root: {}", chain(&error));
        }
    }
}

/// Returns a runtime of its own: the switch goes on while the process's shuts down.
pub(super) fn runtime() -> Result<Runtime, ConvergeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(ConvergeError::Prepare)
}

pub(super) fn link_of(generation: Generation) -> Link {
    Link { generation: generation.number, path: generation.path }
}

pub(super) const fn work_of_running(running: &Running) -> Work<'_> {
    Work { path: &running.path, activation: &running.activation, version: running.version }
}

pub(super) const fn work_of_target(target: &Target) -> Option<Work<'_>> {
    match target {
        Target::Wanted { wanted: Wanted { path, activation, version, .. } } => {
            Some(Work { path, activation, version: Some(*version) })
        }
        Target::Generation { running } => Some(work_of_running(running)),
        Target::Nothing => None,
    }
}
