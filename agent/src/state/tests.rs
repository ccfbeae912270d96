//! The machine against a model of a host, under random events, failures, strangers and crashes.

mod cases;

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

fn path(name: u8) -> StorePath {
    StorePath::from_base_name(&format!("{}-app-{name}", "0".repeat(32))).unwrap()
}

fn version(epoch: u32, number: u32) -> EpochVersion {
    EpochVersion { epoch, version: VersionNumber::new(number).unwrap() }
}

fn wanted(version: EpochVersion, root: u8) -> Wanted {
    let activation = Activation::Exec { timeout: 10, user: None, privileged: false };
    let checkup = checkup(root);
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
    Windows(bool, bool),
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
    /// Roots that were healthy once, or that a stranger put there.
    good: BTreeSet<StorePath>,
    highest: Option<EpochVersion>,
    attempts: u32,
    boots: u32,
}

impl Host {
    fn new() -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let name = ProfileName::parse("app").unwrap();
        let group = GroupName::parse("lab").unwrap();
        let mut host = Self {
            profile: Profile::new(Some(group), name, now),
            pending: Vec::new(),
            now,
            pin: None,
            open: Openings::default(),
            generations: BTreeMap::new(),
            link: None,
            active: None,
            good: BTreeSet::new(),
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

    fn restart(&mut self) {
        self.pending.clear();
        self.profile.open = self.open;
        self.profile.pin.clone_from(&self.pin);
        let facts = Facts { link: self.link(), boot_id: self.boots.to_string(), at_work: false };
        let (profile, actions) = recover(self.profile.clone(), &facts, self.now);
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
            if let Action::Fetch(_) = action {
                assert_eq!(self.open.fetch, Opening::Open, "no fetch past a window");
            }
            if let Action::Switch(Attempt { target: Target::Wanted { wanted }, starts, .. }) =
                action
            {
                assert!(*starts > 1 || !profile.is_pinned(self.now), "no switch past a pin");
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
        assert!(explained.until.is_none_or(|_| explained.word != StateWord::Converged));
        if explained.word == StateWord::Converged
            && let Desired::Run { wanted } = &self.profile.desired
        {
            assert_eq!(self.link().unwrap().path, wanted.path);
            assert_eq!(self.active, Some(wanted.path.clone()), "converged, but not at work");
        }
    }

    fn dead_man(&mut self, attempt: Option<u8>) {
        let id = attempt.map_or(self.attempts.to_string(), |attempt| attempt.to_string());
        let was = self.profile.clone();
        // Without the lock, only health is checked meanwhile: what it finds comes later.
        let checking = self.profile.examination().map(|it| it.id);
        self.pending.clear();
        self.feed(Event::Expired(id.clone(), self.link()));
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
                Event::LockTaken(Ticket { id, boot_id: self.boots.to_string(), link: self.link() })
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
        if end == End::NeedsReboot {
            return self.link.map(Event::NeedsReboot);
        }
        self.active = self.link().map(|link| link.path);
        if end == End::Fails { Some(failed()) } else { Some(Event::Activated(self.link)) }
    }

    fn roll_back(&mut self, attempt: &Attempt, end: End) -> Option<Event> {
        self.link = attempt.from.as_ref().map(|running| running.generation);
        if let Some(link) = self.link {
            assert!(self.generations.contains_key(&link), "the previous generation is there");
        }
        if end == End::CrashBetween {
            return None;
        }
        self.active = self.link().map(|link| link.path);
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
            Happening::Desired(desired) => self.feed(Event::Desired(desired)),
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
            Happening::Windows(fetch, switch) => {
                let until = self.now.checked_add(SignedDuration::from_hours(1)).ok();
                let opening = |open| if open { Opening::Open } else { Opening::Closed { until } };
                self.open = Openings { fetch: opening(fetch), switch: opening(switch) };
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
            Happening::BootEntryGone => self.feed(Event::BootEntryGone),
            Happening::Retry => self.feed(Event::Retry),
            Happening::RollBack(choice) => self.operator_goes_back(choice),
            Happening::Stranger(root) => {
                // Between two of our switches, as `nix-env --set` might.
                if matches!(self.profile.state, State::Steady { .. } | State::Staged { .. }) {
                    self.good.insert(path(root));
                    self.set_link(&path(root));
                    self.restart();
                }
            }
        }
    }

    /// Whatever the link leads to is at work after a boot.
    fn reboot(&mut self) {
        self.boots += 1;
        self.active = self.link().map(|link| link.path);
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
            activation: Activation::None,
            checkup: Checkup::default(),
            unsure: true,
        };
        self.pin = Some(Pin { reason: "a test".into(), since: self.now, until: None });
        self.feed(Event::RollBack(running));
    }

    /// Everything works from now on.
    fn settle(&mut self) {
        for _ in 0..40 {
            if self.pending.is_empty() {
                return;
            }
            self.act(End::Works);
        }
        panic!("does not come to rest: {:?}", self.profile);
    }
}

fn desired() -> impl Strategy<Value = Desired> {
    let run = (0_u32..3, 1_u32..20, 0_u8..4).prop_map(|(epoch, number, root)| Desired::Run {
        wanted: wanted(version(epoch, number), root),
    });
    let codes = [
        Code::PolicyHold,
        Code::Epoch,
        Code::Untrusted,
        Code::NoFreshSource,
        Code::Unsupported,
        Code::ProfileClaimedTwice,
    ];
    prop_oneof![
        8 => run,
        1 => prop::sample::select(codes.to_vec()).prop_map(freeze),
        1 => Just(stop()),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let end = prop_oneof![
        6 => Just(End::Works),
        2 => Just(End::Fails),
        1 => Just(End::CrashBefore),
        1 => Just(End::CrashBetween),
        1 => Just(End::CrashAfter),
        1 => Just(End::NeedsReboot),
        1 => Just(End::NotReady),
    ];
    prop_oneof![
        6 => desired().prop_map(Happening::Desired),
        20 => end.prop_map(Happening::Acts),
        2 => any::<u16>().prop_map(Happening::Later),
        1 => Just(Happening::Pin),
        2 => Just(Happening::Unpin),
        1 => Just(Happening::Retry),
        1 => any::<u8>().prop_map(Happening::RollBack),
        1 => (0_u8..4).prop_map(Happening::Stranger),
        2 => proptest::option::of(0_u8..8).prop_map(Happening::DeadMan),
        1 => any::<(bool, bool)>().prop_map(|(fetch, switch)| Happening::Windows(fetch, switch)),
        1 => any::<bool>().prop_map(Happening::Looked),
        1 => Just(Happening::Confirm),
        1 => Just(Happening::Reboot),
        1 => Just(Happening::BootEntryGone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_host_always_keeps_a_good_generation_and_converges_when_things_work_again(
        happenings in prop::collection::vec(happening(), 0..80),
        root in 0_u8..4,
    ) {
        let mut host = Host::new();
        for happening in happenings {
            host.happens(happening);
        }
        host.pin = None;
        host.open = Openings::default();
        host.reboot();
        host.feed(Event::Desired(Desired::Run { wanted: wanted(version(3, 1), root) }));
        host.settle();
        host.feed(Event::Desired(Desired::Run { wanted: wanted(version(3, 2), root) }));
        host.settle();
        let generation = host.link().unwrap().generation;
        host.feed(Event::Looked(generation, None));
        prop_assert_eq!(host.profile.explain(host.now).word, StateWord::Converged);
        prop_assert_eq!(host.link().unwrap().path, path(root));
    }
}
