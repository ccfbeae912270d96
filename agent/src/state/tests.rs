//! The machine against a model of a host, by cases that are told, and under random events, failures,
//! strangers and crashes.

mod cases;
mod random;
mod systems;

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::*;

fn path(name: u8) -> StorePath {
    StorePath::from_base_name(&format!("{}-app-{name}", "0".repeat(32))).unwrap()
}

fn version(epoch: u32, number: u32) -> EpochVersion {
    EpochVersion { epoch, version: VersionNumber::new(number).unwrap() }
}

fn wanted(version: EpochVersion, root: u8) -> Wanted {
    let (activation, checkup) = (activation(false), checkup(root));
    Wanted { version, path: path(root), closure: Digest::of(&[root]), activation, checkup }
}

/// Odd roots have a check.
fn checkup(root: u8) -> Checkup {
    let check = shared::health::Check {
        name: "web".parse().unwrap(),
        probe: shared::health::Probe::Registry,
        interval: 1,
        timeout: 1,
        retries: 1,
    };
    let checks = if root % 2 == 1 { vec![check] } else { Vec::new() };
    Checkup { health: Health { deadline: 60, soak: 0, checks }, ..Checkup::default() }
}

fn run(number: u32, root: u8) -> Desired {
    Desired::Run { wanted: wanted(version(0, number), root) }
}

fn freeze(code: Code) -> Desired {
    Desired::Freeze { reason: Reason::new(code, "a test says so") }
}

fn stop() -> Desired {
    Desired::Stop { version: None, reason: Reason::new(Code::PolicyStop, "a test says so") }
}

/// How a root is put to work: as the machine's system, or by a program of its own.
fn activation(is_system: bool) -> Activation {
    if is_system {
        return Activation::Nixos { timeout: 10 };
    }
    Activation::Exec { timeout: 10, user: None, privileged: false }
}

/// How an action ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Works,
    Fails,
    CrashBefore,
    CrashBetween,
    CrashAfter,
    NeedsReboot,
    NotReady,
}

/// Something that may happen to the host.
#[derive(Debug, Clone)]
enum Happening {
    Desired(Desired),
    Acts(End),
    Later(u16),
    Pin,
    Unpin,
    Retry,
    RollBack(u8),
    Stranger(u8),
    /// The dead man wakes for the attempt of this number, or for the last one; the process has
    /// died, or is checking health.
    DeadMan(Option<u8>),
    Windows(bool, bool, bool),
    Looked(bool),
    Confirm,
    Reboot,
    BootEntryGone,
}

/// A host: what would be on its disk, and the machine that drives it.
struct Host {
    profile: Profile,
    pending: Vec<Action>,
    now: Timestamp,
    pin: Option<Pin>,
    open: Openings,
    generations: BTreeMap<u64, StorePath>,
    link: Option<u64>,
    /// What was activated last.
    active: Option<StorePath>,
    /// The machine's boots, if the profile is its system.
    system: Option<Machine>,
    /// Roots that were healthy once, or that a stranger put there.
    good: BTreeSet<StorePath>,
    highest: Option<EpochVersion>,
    attempts: u32,
    boots: u32,
}

/// What a machine boots.
#[derive(Debug, Clone)]
struct Machine {
    booted: StorePath,
    /// What it boots by default.
    default: StorePath,
    /// What it boots once.
    once: Option<StorePath>,
    /// Reboots that the agent asked for, by attempt.
    asked: BTreeMap<String, u32>,
}

impl Host {
    fn new() -> Self {
        Self::with("app", None)
    }

    /// A machine with an operating system that nobody manages yet.
    fn machine() -> Self {
        let (booted, default) = (path(7), path(7));
        Self::with("system", Some(Machine { booted, default, once: None, asked: BTreeMap::new() }))
    }

    fn with(name: &str, system: Option<Machine>) -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let name = ProfileName::parse(name).unwrap();
        let group = GroupName::parse("lab").unwrap();
        let mut host = Self {
            profile: Profile::new(Some(group), name, now),
            pending: Vec::new(),
            now,
            pin: None,
            open: Openings::default(),
            generations: BTreeMap::new(),
            link: None,
            active: system.as_ref().map(|machine| machine.booted.clone()),
            good: system.iter().map(|machine| machine.booted.clone()).collect(),
            system,
            highest: None,
            attempts: 0,
            boots: 1,
        };
        host.restart();
        host
    }

    fn link(&self) -> Option<Link> {
        let generation = self.link?;
        Some(Link { generation, path: self.generations[&generation].clone() })
    }

    fn facts(&self) -> Facts {
        let link = |path: &StorePath| {
            let known = self.generations.iter().rev().find(|(_, known)| *known == path);
            Link { generation: known.map_or(0, |(number, _)| *number), path: path.clone() }
        };
        let systems = self.system.as_ref().map(|machine| Systems {
            running: self.active.as_ref().map(link),
            booted: Some(machine.booted.clone()),
            next: Some(machine.once.as_ref().unwrap_or(&machine.default).clone()),
        });
        Facts { link: self.link(), boot_id: self.boots.to_string(), systems, at_work: false }
    }

    /// What a host's documents ask for; nobody stops an operating system.
    fn asked(&self, desired: Desired) -> Desired {
        match (desired, &self.system) {
            (Desired::Run { wanted }, system) => {
                let activation = activation(system.is_some());
                Desired::Run { wanted: Wanted { activation, ..wanted } }
            }
            (Desired::Stop { .. }, Some(_)) => freeze(Code::NotAllowed),
            (other, _) => other,
        }
    }

    fn restart(&mut self) {
        self.pending.clear();
        self.profile.open = self.open;
        self.profile.pin.clone_from(&self.pin);
        let (profile, actions) = recover(self.profile.clone(), &self.facts(), self.now);
        assert_ne!(profile.state, State::Starting);
        self.take(profile, actions);
    }

    fn feed(&mut self, event: Event) {
        self.profile.open = self.open;
        self.profile.pin.clone_from(&self.pin);
        let (profile, actions) = step(self.profile.clone(), event, self.now);
        self.take(profile, actions);
    }

    fn take(&mut self, profile: Profile, actions: Vec<Action>) {
        let json = serde_json::to_string(&profile).unwrap();
        let mut read: Profile = serde_json::from_str(&json).unwrap();
        read.pin.clone_from(&self.pin);
        read.open = self.open;
        assert_eq!(read, profile, "the journal holds all of it");
        assert!(profile.floor >= self.profile.floor, "the floor only rises");
        for action in &actions {
            if let Action::Switch(Attempt { target, starts: 1, .. }) = action {
                let by_hand = matches!(target, Target::Generation { .. });
                assert!(by_hand || self.open.switch == Opening::Open, "no switch past a window");
            }
            if let (Action::Reboot(attempt), State::RebootPending { .. }) = (action, &profile.state)
            {
                assert_eq!(self.open.reboot, Opening::Open, "no reboot past a window");
                let by_hand = matches!(attempt.target, Target::Generation { .. });
                assert!(by_hand || !profile.is_pinned(self.now), "no reboot past a pin");
            }
            if let Action::Fetch(_) = action {
                assert_eq!(self.open.fetch, Opening::Open, "no fetch past a window");
            }
            if let Action::Switch(Attempt { target: Target::Wanted { wanted }, starts, .. }) =
                action
            {
                assert!(*starts > 1 || !profile.is_pinned(self.now), "no switch past a pin");
                let begun = self.link().is_some_and(|link| link.path == wanted.path);
                assert!(*starts == 1 || begun, "what was not begun goes through the gates again");
                assert!(Some(wanted.version) >= self.highest, "no switch below the floor");
                if *starts == 1 {
                    let asked = Desired::Run { wanted: wanted.clone() };
                    assert_eq!(profile.desired, asked, "no switch that nobody asks for");
                    self.highest = Some(wanted.version);
                }
                let refused = profile.refused.as_ref().map(|refused| refused.version);
                assert!(refused < Some(wanted.version), "no switch to what is refused");
            }
        }
        self.pending.extend(actions);
        self.profile = profile;
        self.check();
    }

    /// What holds at every moment.
    fn check(&self) {
        let explained = self.profile.explain(self.now);
        if explained.word != StateWord::Converged {
            assert!(explained.reason.is_some(), "{explained:?}");
            assert!(explained.next.is_some(), "{explained:?}");
        }
        let resting = matches!(
            self.profile.state,
            State::Steady { .. } | State::Fetching { .. } | State::Staged { .. }
        );
        if let (true, Some(link)) = (resting, self.link()) {
            assert!(self.good.contains(&link.path), "rests on a bad generation");
        }
        if let Some(machine) = &self.system {
            assert!(self.good.contains(&machine.default), "boots a bad system by default");
            assert!(machine.asked.values().all(|asked| *asked <= 2), "reboots on and on");
        }
        assert!(explained.until.is_none_or(|_| explained.word != StateWord::Converged));
        if explained.word == StateWord::Converged
            && let Desired::Run { wanted } = &self.profile.desired
        {
            assert_eq!(self.link().unwrap().path, wanted.path, "{:?}", self.profile);
            assert_eq!(self.active, Some(wanted.path.clone()), "converged, but not at work");
        }
    }

    fn dead_man(&mut self, attempt: Option<u8>) {
        let id = attempt.map_or(self.attempts.to_string(), |attempt| attempt.to_string());
        let was = self.profile.clone();
        // Without the lock, only health is checked meanwhile: what it finds comes later.
        let checking = self.profile.examination().map(|it| it.id);
        self.pending.clear();
        self.feed(Event::Expired(id.clone(), self.facts()));
        if was.attempt().is_none_or(|attempt| attempt.id != id) {
            assert_eq!(self.profile.state, was.state, "only the attempt that it was armed for");
        }
        if let Some(checked) = checking
            && self.profile.examination().is_none_or(|it| it.id != checked)
        {
            let now = self.profile.clone();
            self.feed(Event::Unhealthy(
                checked.clone(),
                Reason::new(Code::HealthFailed, ""),
                "".into(),
            ));
            self.feed(Event::Healthy(checked));
            assert_eq!(self.profile.state, now.state, "who was overtaken decides nothing");
        }
        if self.pending.is_empty() {
            self.restart();
        }
    }

    fn set_link(&mut self, root: &StorePath) -> u64 {
        let last = self.generations.last_key_value().map(|(number, path)| (*number, path.clone()));
        let generation = match last {
            Some((number, path)) if path == *root => number,
            Some((number, _)) => number + 1,
            None => 1,
        };
        self.generations.insert(generation, root.clone());
        self.link = Some(generation);
        generation
    }

    fn act(&mut self, end: End) {
        if self.pending.is_empty() {
            return;
        }
        if end == End::CrashBefore {
            return self.restart();
        }
        let event = match self.pending.remove(0) {
            Action::Fetch(wanted) if end == End::Fails => {
                let code = if wanted.closure == Digest::of(&[1]) {
                    Code::FetchFailed
                } else {
                    Code::DiskFull
                };
                Event::NotReady(wanted.path, Reason::new(code, "a test says so"))
            }
            Action::Fetch(wanted) => Event::Fetched(wanted.path),
            Action::TakeLock => {
                self.attempts += 1;
                let id = self.attempts.to_string();
                Event::LockTaken(Ticket { id, facts: self.facts() })
            }
            Action::Switch(attempt) => match self.switch(&attempt, end) {
                Some(event) => event,
                None => return self.restart(),
            },
            Action::CheckHealth(_) => {
                let Some(it) = self.profile.examination() else { return };
                if end == End::Fails {
                    let reason = Reason::new(Code::HealthFailed, "a test says so");
                    Event::Unhealthy(it.id, reason, "502".into())
                } else {
                    if matches!(end, End::Works | End::NeedsReboot | End::NotReady) {
                        self.good.extend(self.link().map(|link| link.path));
                    }
                    Event::Healthy(it.id)
                }
            }
            Action::Keep(attempt) => match self.keep(&attempt, end) {
                Some(event) => event,
                None => return self.restart(),
            },
            // Somebody may hold it up.
            Action::Reboot(_) if end == End::Fails => return self.restart(),
            Action::Reboot(attempt) => {
                if let Some(machine) = &mut self.system {
                    *machine.asked.entry(attempt.id).or_default() += 1;
                }
                return self.reboot();
            }
            Action::RollBack(attempt) => match self.roll_back(&attempt, end) {
                Some(event) => event,
                None => return self.restart(),
            },
        };
        match end {
            End::CrashAfter | End::CrashBetween => self.restart(),
            End::Works | End::Fails | End::CrashBefore | End::NeedsReboot | End::NotReady => {
                self.feed(event);
            }
        }
    }

    fn switch(&mut self, attempt: &Attempt, end: End) -> Option<Event> {
        let failed =
            || Event::ActivationFailed(Reason::new(Code::ActivationFailed, "test"), "log".into());
        if let (Some(_), Some(from)) = (&self.system, &attempt.from)
            && !self.generations.values().any(|path| *path == from.path)
        {
            self.set_link(&from.path);
        }
        match &attempt.target {
            Target::Nothing if end == End::Fails => return Some(failed()),
            Target::Nothing => {
                self.active = None;
                if end == End::CrashBetween {
                    return None;
                }
                self.link = None;
                self.generations.clear();
                return Some(Event::Activated(None));
            }
            Target::Wanted { wanted } if end == End::NotReady => {
                if self.link().is_none_or(|link| link.path != wanted.path) {
                    let reason = Reason::new(Code::DiskFull, "a test says so");
                    return Some(Event::NotReady(wanted.path.clone(), reason));
                }
            }
            Target::Wanted { wanted } => {
                self.set_link(&wanted.path);
            }
            Target::Generation { running } => {
                assert!(self.generations.contains_key(&running.generation));
                self.link = Some(running.generation);
            }
        }
        if end == End::CrashBetween {
            return None;
        }
        let target = self.link().map(|link| link.path);
        if let (Some(machine), Some(target), End::NeedsReboot) = (&mut self.system, &target, end)
            && machine.booted != *target
        {
            machine.once = Some(target.clone());
            return self.link.map(Event::NeedsReboot);
        }
        self.active = self.link().map(|link| link.path);
        if end == End::Fails { Some(failed()) } else { Some(Event::Activated(self.link)) }
    }

    fn keep(&mut self, attempt: &Attempt, end: End) -> Option<Event> {
        if end == End::Fails {
            let reason = Reason::new(Code::ActivationFailed, "a test says so");
            return Some(Event::ActivationFailed(reason, String::new()));
        }
        let machine = self.system.as_mut().unwrap();
        machine.default = attempt.target.path().unwrap().clone();
        (end != End::CrashBetween).then(|| Event::Kept(attempt.id.clone()))
    }

    fn roll_back(&mut self, attempt: &Attempt, end: End) -> Option<Event> {
        if let (Some(_), Some(from)) = (&self.system, &attempt.from) {
            let same = self.generations.get(&from.generation) == Some(&from.path);
            self.link = Some(if same { from.generation } else { self.set_link(&from.path) });
        } else {
            self.link = attempt.from.as_ref().map(|running| running.generation);
        }
        if let Some(link) = self.link {
            assert!(self.generations.contains_key(&link), "the previous generation is there");
        }
        if end == End::CrashBetween {
            return None;
        }
        let back = self.link().map(|link| link.path);
        if let (Some(machine), Some(back)) = (&mut self.system, &back)
            && end != End::Fails
        {
            (machine.default, machine.once) = (back.clone(), None);
            // A part of what was booted is replaced by a reboot alone.
            if Some(&machine.booted) == attempt.target.path() && machine.booted != *back {
                return Some(Event::NeedsReboot(self.link.unwrap()));
            }
        }
        self.active = back;
        if end == End::Fails {
            return Some(Event::RollbackFailed(
                Reason::new(Code::ActivationFailed, "test"),
                String::new(),
            ));
        }
        Some(Event::RolledBack)
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Desired(desired) => {
                let desired = self.asked(desired);
                self.feed(Event::Desired(desired));
            }
            Happening::Acts(end) => self.act(end),
            Happening::Later(seconds) => {
                self.now = self.now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap();
                self.feed(Event::Woke);
            }
            Happening::Pin => {
                self.pin = Some(Pin { reason: "a test".into(), since: self.now, until: None });
            }
            Happening::Unpin => {
                self.pin = None;
                self.feed(Event::Woke);
            }
            Happening::DeadMan(attempt) => self.dead_man(attempt),
            Happening::Windows(fetch, switch, reboot) => {
                let until = self.now.checked_add(SignedDuration::from_hours(1)).ok();
                let opening = |open| if open { Opening::Open } else { Opening::Closed { until } };
                let (fetch, switch, reboot) = (opening(fetch), opening(switch), opening(reboot));
                self.open = Openings { fetch, switch, reboot };
                self.feed(Event::Woke);
            }
            Happening::Looked(well) => {
                let generation = self.profile.running.as_ref().map_or(7, |it| it.generation);
                let found = (!well).then(|| Reason::new(Code::Unhealthy, "a test says so"));
                self.feed(Event::Looked(generation, found));
            }
            Happening::Confirm => {
                if matches!(self.profile.state, State::Confirming { .. }) {
                    self.good.extend(self.link().map(|link| link.path));
                }
                self.feed(Event::Confirm);
            }
            Happening::Reboot => self.reboot(),
            Happening::BootEntryGone => {
                if let Some(machine) = &mut self.system {
                    machine.once = None;
                }
                self.restart();
            }
            Happening::Retry => self.feed(Event::Retry),
            Happening::RollBack(choice) => self.operator_goes_back(choice),
            Happening::Stranger(root) => {
                // Between two of our switches, as `nix-env --set` might.
                if matches!(self.profile.state, State::Steady { .. } | State::Staged { .. }) {
                    self.good.insert(path(root));
                    self.set_link(&path(root));
                    if let Some(machine) = &mut self.system {
                        machine.default = path(root);
                        self.active = Some(path(root));
                    }
                    self.restart();
                }
            }
        }
    }

    /// Whatever the link leads to is at work after a boot; or else, what the machine booted.
    fn reboot(&mut self) {
        self.boots += 1;
        self.active = self.link().map(|link| link.path);
        if let Some(machine) = &mut self.system {
            machine.booted = machine.once.take().unwrap_or_else(|| machine.default.clone());
            self.active = Some(machine.booted.clone());
        }
        self.restart();
    }

    fn operator_goes_back(&mut self, choice: u8) {
        let good: Vec<_> =
            self.generations.iter().filter(|(_, path)| self.good.contains(*path)).collect();
        if good.is_empty() {
            return;
        }
        let (generation, root) = good[usize::from(choice) % good.len()];
        let running = Running {
            version: None,
            path: root.clone(),
            generation: *generation,
            activation: match self.system {
                Some(_) => activation(true),
                None => Activation::None,
            },
            checkup: Checkup::default(),
            unsure: true,
        };
        self.pin = Some(Pin { reason: "a test".into(), since: self.now, until: None });
        self.feed(Event::RollBack(running));
    }

    /// Everything works from now on.
    fn settle(&mut self) {
        self.settle_by(End::Works);
    }

    /// Everything works from now on; where that is asked for, by a reboot.
    fn settle_by(&mut self, end: End) {
        for _ in 0..40 {
            if self.pending.is_empty() {
                return;
            }
            self.act(end);
        }
        panic!("does not come to rest: {:?}", self.profile);
    }
}
