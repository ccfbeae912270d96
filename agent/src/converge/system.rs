//! Switches of the machine's operating system: activated for now, booted into once if need be, and
//! what the machine boots by default only once they are confirmed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::human;
use shared::nix::StorePath;
use shared::problem::chain;

use super::ConvergeError;
use super::session::{Session, link_of, runtime};
use crate::activate::nixos::{self, Run, Trouble, Verb};
use crate::activate::{Failure, real_path};
use crate::config::Reboots;
use crate::state::{
    Attempt, Code, Event, Facts, Link, Reason, Running, State, System, Target, Wanted,
};
use crate::systems::loader::Loader;
use crate::{crash, host, state, systems};

/// What must stay free where kernels are copied to: menus, and what loaders write beside them.
const BOOT_SLACK: u64 = 1024 * 1024;

impl Session {
    /// Reads the host as it is.
    pub(super) fn facts(&self) -> Result<Facts, ConvergeError> {
        let systems = if self.profile.name.is_system() { self.systems()? } else { None };
        let at_work = match &self.profile.state {
            State::Switching { attempt } if attempt.target.system().is_some() => {
                runtime()?.block_on(nixos::is_at_work(&attempt.id))
            }
            State::Switching { attempt } => self.is_at_work(attempt)?,
            State::Starting
            | State::Steady { .. }
            | State::Fetching { .. }
            | State::Staged { .. }
            | State::RebootPending { .. }
            | State::Confirming { .. }
            | State::RollingBack { .. }
            | State::Failed { .. } => false,
        };
        Ok(Facts { link: self.link()?, boot_id: host::boot_id(), at_work, systems })
    }

    fn systems(&self) -> Result<Option<state::Systems>, ConvergeError> {
        let root = &self.inner.place.root;
        let found = systems::Systems::read(root);
        let Some(activated) = found.activated else { return Ok(None) };
        let generations = self.links.generations()?;
        let known = generations.into_iter().rev().find(|it| it.path == activated);
        let running = known.map_or(Link { generation: 0, path: activated }, link_of);
        let next = Loader::find(root).and_then(|loader| loader.next());
        Ok(Some(state::Systems { running: Some(running), booted: found.booted, next }))
    }

    /// Says why this host cannot switch to a system as it is.
    pub(super) fn refuse_system(&self, wanted: &Wanted) -> Option<Reason> {
        let root = &self.inner.place.root;
        if root != Path::new("/") {
            let text = "an operating system lies in the machine's own store, below `/nix`";
            return Some(Reason::new(Code::Unsupported, text));
        }
        let found = systems::Systems::read(root);
        let Some(booted) = found.booted.or(found.activated) else {
            let text = "this host runs no NixOS: there is no `/run/current-system`";
            return Some(Reason::new(Code::Unsupported, text));
        };
        let (booted, new) = (real_path(root, &booted), real_path(root, &wanted.path));
        if let Err(text) = nixos::check(&new) {
            return Some(Reason::new(Code::Unsupported, text));
        }
        let loader = Loader::find(root);
        if let (Some(part), None) = (nixos::needs_reboot(&booted, &new), &loader)
            && self.inner.place.reboots != Reboots::Any
        {
            let text = format!(
                "its {part} needs a reboot, and the agent knows no way to let this machine's boot \
                 loader boot a system once; `[reboot] allow = \"any\"` accepts that it becomes the \
                 default at once"
            );
            return Some(Reason::new(Code::NoOneShot, text));
        }
        let folder = loader.as_ref().map_or_else(|| root.join("boot"), |it| it.folder().to_owned());
        no_room(&folder, nixos::boot_size(&booted, &new))
    }

    /// Switches to a system, for now.
    pub(super) fn switch_system(&mut self, attempt: &Attempt) -> Result<Event, ConvergeError> {
        if let Some(from) = &attempt.from
            && !self.links.generations()?.iter().any(|it| it.path == from.path)
            && let Err(error) = self.links.set(&from.path)
        {
            // What ran before stays: by this, nothing collects it.
            return self.not_linked(attempt, &error);
        }
        let (new, made) = match (&attempt.target, attempt.target.system()) {
            (Target::Wanted { .. }, Some(new)) => (new, self.links.set(new.path)),
            (Target::Generation { running }, Some(new)) => {
                (new, self.links.switch_to(running.generation))
            }
            (Target::Nothing, _) | (Target::Wanted { .. } | Target::Generation { .. }, None) => {
                return Ok(refused("an operating system cannot be stopped"));
            }
        };
        let generation = match made {
            Ok(generation) => generation,
            Err(error) => return self.not_linked(attempt, &error),
        };
        crash::point("switch.linked");
        if self.booted_differs_from(new.path) {
            return self.boot_once(attempt, generation.number, new);
        }
        let event = match self.run_system(attempt, new, Verb::Test)? {
            Ok(log) => {
                self.keep_log(&log);
                Event::Activated(Some(generation.number))
            }
            Err(Trouble::NeedsReboot(log)) => {
                self.keep_log(&log);
                return self.boot_once(attempt, generation.number, new);
            }
            Err(trouble) => self.not_switched(attempt, trouble)?,
        };
        crash::point("switch.activated");
        Ok(event)
    }

    /// Lets the machine boot a system once: the default stays what ran before.
    fn boot_once(
        &mut self,
        attempt: &Attempt,
        generation: u64,
        new: System<'_>,
    ) -> Result<Event, ConvergeError> {
        if let Some(dead_man) = &self.inner.place.dead_man
            && let Err(error) = dead_man.arm_for_boots(&attempt.id, attempt.target.limit())
        {
            let reason = Reason::new(Code::NoDeadMan, chain(&error));
            return Ok(Event::ActivationFailed(reason, String::new()));
        }
        let loader = Loader::find(&self.inner.place.root);
        // The default is always the system whose program makes the menu.
        let before = attempt.from.as_ref().and_then(Running::system);
        let default = before.filter(|_| loader.is_some()).unwrap_or(new);
        match self.run_system(attempt, default, Verb::Boot)? {
            Ok(log) => self.keep_log(&log),
            Err(trouble) => return self.not_switched(attempt, trouble),
        }
        crash::point("boot.entries");
        if let Some(loader) = &loader {
            let Some(entry) = loader.entry(new.path) else {
                let text = format!("the boot loader's menu has no entry for `{}`", new.path);
                return Ok(refused(&text));
            };
            let call = loader.set_once(Some(&entry));
            let set =
                nixos::set_once(&attempt.id, &call, &self.inner.place.state_dir, &self.inner.leave);
            match runtime()?.block_on(set) {
                Ok(()) if loader.next().as_ref() == Some(new.path) => {}
                Ok(()) => {
                    let text = format!("`{}` did not set `{entry}`", call.program);
                    return Ok(refused(&text));
                }
                Err(trouble) => return self.not_switched(attempt, trouble),
            }
        }
        crash::point("boot.once");
        Ok(Event::NeedsReboot(generation))
    }

    /// Says what it means that a system was not switched to.
    fn not_switched(
        &mut self,
        attempt: &Attempt,
        trouble: Trouble,
    ) -> Result<Event, ConvergeError> {
        match trouble {
            Trouble::Left => Err(ConvergeError::Stopped),
            Trouble::NeedsReboot(log) => {
                let text = "the system asks for a reboot even to change the boot loader";
                let reason = Reason::new(Code::ActivationFailed, text);
                Ok(Event::ActivationFailed(reason, human::redact(&log)))
            }
            Trouble::Failed(Failure { reason, log }) => {
                Ok(Event::ActivationFailed(reason, human::redact(&log)))
            }
            Trouble::Busy(text) => {
                let Target::Wanted { wanted } = &attempt.target else {
                    return Ok(refused(&text));
                };
                // It is this host that is busy, not the version that is bad.
                if let Some(from) = &attempt.from {
                    self.link_again(from)?;
                }
                self.forget_failed(attempt)?;
                Ok(Event::NotReady(wanted.path.clone(), Reason::new(Code::SwitchBusy, text)))
            }
        }
    }

    /// Makes a system that is healthy what the machine boots by default.
    pub(super) fn keep(&mut self, attempt: &Attempt) -> Result<Event, ConvergeError> {
        let Some(new) = attempt.target.system() else { return Ok(Event::Kept(attempt.id.clone())) };
        let event = match self.run_system(attempt, new, Verb::Boot)? {
            Ok(_) => Event::Kept(attempt.id.clone()),
            Err(Trouble::Left) => return Err(ConvergeError::Stopped),
            Err(trouble) => {
                let Failure { reason, log } = failed(trouble);
                Event::ActivationFailed(reason, human::redact(&log))
            }
        };
        crash::point("boot.kept");
        Ok(event)
    }

    /// Goes back to the system that ran before.
    pub(super) fn roll_back_system(&mut self, attempt: &Attempt) -> Result<Event, ConvergeError> {
        let not_back =
            |reason: Reason, log: &str| Ok(Event::RollbackFailed(reason, human::redact(log)));
        let before = attempt.from.as_ref().and_then(|from| Some((from, from.system()?)));
        let Some((from, system)) = before else {
            let text = "no system is known that ran before";
            return not_back(Reason::new(Code::RollbackFailed, text), "");
        };
        if let Err(error) = self.link_again(from) {
            return not_back(Reason::new(Code::RollbackFailed, chain(&error)), "");
        }
        crash::point("rollback.linked");
        self.forget_failed(attempt)?;
        crash::point("rollback.forgotten");
        let reboots = self.inner.place.reboots != Reboots::Never;
        let back_by_reboot = reboots && self.booted_differs_from(&from.path);
        let runs = systems::Systems::read(&self.inner.place.root).activated;
        let verb = match back_by_reboot || runs.as_ref() == Some(&from.path) {
            true => Verb::Boot,
            false => Verb::Switch,
        };
        match self.run_system(attempt, system, verb)? {
            Ok(_) => {}
            Err(Trouble::NeedsReboot(_)) => return Ok(Event::NeedsReboot(from.generation)),
            Err(Trouble::Left) => return Err(ConvergeError::Stopped),
            Err(trouble) => {
                let Failure { reason, log } = failed(trouble);
                return not_back(reason, &log);
            }
        }
        crash::point("rollback.activated");
        if let Some(loader) = Loader::find(&self.inner.place.root)
            && loader.once().is_some()
        {
            // What was to be booted once is no longer.
            let call = loader.set_once(None);
            let state_dir = &self.inner.place.state_dir;
            let set = nixos::set_once(&attempt.id, &call, state_dir, &self.inner.leave);
            match runtime()?.block_on(set) {
                Ok(()) => {}
                Err(Trouble::Left) => return Err(ConvergeError::Stopped),
                Err(trouble) => {
                    let Failure { reason, log } = failed(trouble);
                    return not_back(reason, &log);
                }
            }
        }
        if back_by_reboot {
            return Ok(Event::NeedsReboot(from.generation));
        }
        Ok(Event::RolledBack)
    }

    /// Reboots, unless another profile is in the middle of a switch, or this host must not.
    pub(super) fn reboot(&self, attempt: &Attempt) -> Result<(), ConvergeError> {
        if self.inner.place.reboots == Reboots::Never {
            return Ok(());
        }
        for name in self.inner.journal.names()? {
            if name != self.profile.name
                && let Some(other) = self.inner.journal.read(&name)?
                && other.attempt().is_some()
            {
                tracing::info!(profile = %other.name, "the reboot waits for its switch");
                return Ok(());
            }
        }
        tracing::warn!(attempt = attempt.id, target = %attempt.target, "reboots the machine");
        if let Err(error) = runtime()?.block_on(nixos::reboot()) {
            // It is asked for again at the next look.
            tracing::warn!("cannot reboot: {}", chain(&error));
        }
        crash::point("boot.asked");
        Ok(())
    }

    fn booted_differs_from(&self, path: &StorePath) -> bool {
        let root = &self.inner.place.root;
        let found = systems::Systems::read(root);
        let booted: Option<PathBuf> = found.booted.map(|booted| real_path(root, &booted));
        booted.is_some_and(|booted| nixos::needs_reboot(&booted, &real_path(root, path)).is_some())
    }

    fn run_system(
        &self,
        attempt: &Attempt,
        system: System<'_>,
        verb: Verb,
    ) -> Result<Result<String, Trouble>, ConvergeError> {
        let run = Run {
            attempt: &attempt.id,
            system: system.path,
            verb,
            timeout: Duration::from_secs(system.timeout.into()),
            root: &self.inner.place.root,
            state_dir: &self.inner.place.state_dir,
        };
        Ok(runtime()?.block_on(nixos::run(&run, &self.inner.leave)))
    }
}

/// Says that kernels do not fit where they would be copied to.
fn no_room(folder: &Path, size: u64) -> Option<Reason> {
    // The file system of the store has a check of its own, and nothing is copied there.
    if size == 0 || systems::shares_the_store(Path::new("/"), folder) {
        return None;
    }
    let free = host::free_space(folder)?;
    let needed = size.saturating_add(BOOT_SLACK);
    let text = format!(
        "kernel and initial ramdisk need {} in `{}`, which has {} left",
        human::size(needed),
        folder.display(),
        human::size(free)
    );
    (free < needed).then(|| Reason::new(Code::DiskFull, text))
}

fn failed(trouble: Trouble) -> Failure {
    let plain =
        |text: String, log| Failure { reason: Reason::new(Code::ActivationFailed, text), log };
    match trouble {
        Trouble::Failed(failure) => failure,
        Trouble::Busy(text) => plain(text, String::new()),
        Trouble::NeedsReboot(log) => plain("it asks for a reboot".to_owned(), log),
        Trouble::Left => plain("it goes on".to_owned(), String::new()),
    }
}

fn refused(text: &str) -> Event {
    Event::ActivationFailed(Reason::new(Code::ActivationFailed, text), String::new())
}
