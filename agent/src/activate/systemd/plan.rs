//! What must be done so that the units of a root take over from those that are installed: pure.
//!
//! Level-triggered: it looks at what is installed and active, not at what was activated before, so
//! that a second run does what a first one left undone, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use shared::id::ProfileName;

use super::links::{Linked, Pending};
use super::root::{Unit, Units};
use super::unit::{Kind, OnChange, UnitName, UnitText};

/// The steps, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Units that are stopped, by what is installed now.
    pub(crate) stop: BTreeSet<String>,
    /// Links that are made or replaced.
    pub(crate) link: Vec<UnitName>,
    /// Links that are removed.
    pub(crate) unlink: Vec<UnitName>,
    /// What follows once the manager has read its units again.
    pub(crate) then: Pending,
}

/// What is known when a plan is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// The profile.
    pub(crate) profile: &'a ProfileName,
    /// What is installed.
    pub(crate) installed: &'a BTreeMap<UnitName, Linked>,
    /// The active state of each of the profile's units that the manager has loaded.
    pub(crate) states: &'a BTreeMap<String, String>,
    /// What a run left undone that died.
    pub(crate) pending: &'a Pending,
}

impl Plan {
    /// Plans the step to `new`.
    pub(crate) fn new(known: Known<'_>, new: &Units) -> Self {
        let mut plan = Self::default();
        for (name, unit) in &new.units {
            if known.installed.get(name).is_none_or(|linked| linked.target != unit.file) {
                plan.link.push(name.clone());
            }
        }
        plan.unlink
            .extend(known.installed.keys().filter(|it| !new.units.contains_key(it)).cloned());
        for (name, state) in known.states {
            let Ok(name) = UnitName::parse(name, known.profile) else { continue };
            if is_up(state) {
                plan.change(known, new, &name);
            }
        }
        for name in &new.wanted {
            plan.want(known, new, name);
        }
        plan.take_over(known, new);
        plan
    }

    /// Plans what becomes of units that somebody else started after `known` was told, while links were
    /// made: they may run by what was installed before. `states` is how they are by now.
    pub(crate) fn late(known: Known<'_>, new: &Units, states: &BTreeMap<String, String>) -> Self {
        let mut plan = Self::default();
        for (name, state) in states {
            let was_up = known.states.get(name).is_some_and(|before| is_up(before));
            if is_up(state)
                && !was_up
                && let Ok(name) = UnitName::parse(name, known.profile)
            {
                plan.change(Known { states, ..known }, new, &name);
            }
        }
        plan
    }

    /// Plans what becomes of a unit that is active.
    fn change(&mut self, known: Known<'_>, new: &Units, name: &UnitName) {
        let Some((fragment, linked)) = known.installed_as(name) else { return };
        let Some(unit) = new.units.get(fragment) else {
            self.stop.insert(name.to_string());
            return;
        };
        if linked.content.as_ref() == Some(&unit.content) {
            return;
        }
        match unit.text.on_change {
            OnChange::Nothing => {}
            OnChange::Reload => self.add_reload(name),
            OnChange::Restart => drop(self.then.restart.insert(name.to_string())),
            OnChange::StopAndStart => {
                self.stop.insert(name.to_string());
                if !new.is_triggered(name) {
                    self.then.start.insert(name.to_string());
                }
                // No socket listens again while its service runs.
                if name.kind() == Kind::Socket {
                    self.stop_triggered(known, new, &unit.text);
                }
            }
        }
    }

    fn add_reload(&mut self, name: &UnitName) {
        self.then.reload.insert(name.to_string());
    }

    /// Stops the service of a socket that changed; it starts again if it is wanted.
    fn stop_triggered(&mut self, known: Known<'_>, new: &Units, socket: &UnitText) {
        let Some(service) = &socket.triggers else { return };
        let Ok(name) = UnitName::parse(service, known.profile) else { return };
        if known.states.get(service).is_some_and(|state| is_up(state)) {
            self.stop.insert(service.clone());
            if new.wanted.contains(&name) {
                self.then.start.insert(service.clone());
            }
        }
    }

    /// Plans the start of a unit that is wanted and is not active.
    fn want(&mut self, known: Known<'_>, new: &Units, name: &UnitName) {
        let state = known.states.get(name.as_str()).map_or("inactive", String::as_str);
        let Some(unit) = new.get(name) else { return };
        let before = known.installed_as(name).and_then(|(_, linked)| linked.content.as_ref());
        // What has done its one thing is not missed.
        let is_done = unit.text.is_oneshot
            && state == "inactive"
            && before.is_some_and(|before| *before == unit.content);
        let is_stopped = self.stop.contains(name.as_str());
        if is_stopped || (!is_up(state) && !is_done) {
            self.then.start.insert(name.to_string());
        }
    }

    /// Takes over what a run left undone that died.
    fn take_over(&mut self, known: Known<'_>, new: &Units) {
        let still = |unit: &&String| {
            UnitName::parse(unit, known.profile).is_ok_and(|name| new.get(&name).is_some())
        };
        let kept = |units: &BTreeSet<String>| units.iter().filter(still).cloned().collect();
        let Pending { start, restart, reload } = known.pending;
        self.then.add(Pending { start: kept(start), restart: kept(restart), reload: kept(reload) });
    }

    /// Returns whether nothing is to be done.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the units to start, in groups that are started one after the other: whoever calls a
    /// service finds its socket.
    pub(crate) fn starts(&self, profile: &ProfileName) -> Vec<Vec<&str>> {
        let mut groups: BTreeMap<Kind, Vec<&str>> = BTreeMap::new();
        for unit in &self.then.start {
            let kind = UnitName::parse(unit, profile).map_or(Kind::Service, |name| name.kind());
            groups.entry(kind).or_default().push(unit);
        }
        groups.into_values().collect()
    }
}

impl<'a> Known<'a> {
    /// Returns the link that defines a unit: its own, or that of its template.
    fn installed_as(&self, name: &UnitName) -> Option<(&'a UnitName, &'a Linked)> {
        self.installed
            .get_key_value(name)
            .or_else(|| self.installed.get_key_value(&name.template()?))
    }
}

impl Units {
    /// Returns whether a service starts by itself when somebody calls, and by nothing else.
    fn is_triggered(&self, name: &UnitName) -> bool {
        let triggers = |(other, unit): (&UnitName, &Unit)| {
            other.kind() == Kind::Socket && unit.text.triggers.as_deref() == Some(name.as_str())
        };
        !self.wanted.contains(name) && self.units.iter().any(triggers)
    }
}

/// Returns whether a state means that something of the unit runs, or that it is on duty.
fn is_up(state: &str) -> bool {
    !matches!(state, "inactive" | "failed")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn profile() -> ProfileName {
        "web".parse().unwrap()
    }

    /// A root of these units; those that hold `+` are wanted.
    fn units(given: &[(&str, &str)]) -> Units {
        let mut units = Units::default();
        for (name, text) in given {
            let name = UnitName::parse(name, &profile()).unwrap();
            let content = text.replace('+', "\n[Install]\nWantedBy=multi-user.target\n");
            let text = UnitText::read(&name, &content, &profile());
            units.wanted.extend(text.wanted.clone());
            // Where it lies is no matter.
            let file = PathBuf::from(format!("/nix/store/{}/{name}", units.units.len()));
            units.units.insert(name, Unit { file, content: content.into_bytes(), text });
        }
        units
    }

    /// Plans the step between two roots, where these units are in these states.
    fn plan(old: &[(&str, &str)], states: &[(&str, &str)], new: &[(&str, &str)]) -> String {
        let installed = units(old)
            .units
            .into_iter()
            .map(|(name, unit)| (name, Linked { target: unit.file, content: Some(unit.content) }));
        let installed = installed.collect();
        let states = states.iter().map(|(unit, state)| ((*unit).into(), (*state).into())).collect();
        let known = Known {
            profile: &profile(),
            installed: &installed,
            states: &states,
            pending: &Pending::default(),
        };
        tell(&Plan::new(known, &units(new)))
    }

    fn tell(plan: &Plan) -> String {
        let mut told = Vec::new();
        let names = |names: &[UnitName]| names.iter().map(ToString::to_string).collect();
        let starts = plan.starts(&profile()).concat().into_iter().map(str::to_owned).collect();
        for (verb, units) in [
            ("stop", plan.stop.iter().cloned().collect::<Vec<_>>()),
            ("unlink", names(&plan.unlink)),
            ("reload", plan.then.reload.iter().cloned().collect()),
            ("restart", plan.then.restart.iter().cloned().collect()),
            ("start", starts),
        ] {
            if !units.is_empty() {
                told.push(format!("{verb} {}", units.join(" ")));
            }
        }
        told.join("; ")
    }

    const ACTIVE: &[(&str, &str)] = &[("web.service", "active")];

    #[test]
    fn what_is_wanted_starts_and_what_has_gone_stops() {
        assert_eq!(
            plan(&[], &[], &[("web.service", "a+"), ("web_x.service", "b")]),
            "start web.service"
        );
        let told = plan(&[("web.service", "a+")], ACTIVE, &[]);
        assert_eq!(told, "stop web.service; unlink web.service");
    }

    #[test]
    fn what_did_not_change_is_not_touched() {
        let same = &[("web.service", "a+")];
        assert_eq!(plan(same, ACTIVE, same), "");
        assert_eq!(plan(same, &[("web.service", "activating")], same), "");
        // Whoever died meanwhile is missed.
        assert_eq!(plan(same, &[("web.service", "failed")], same), "start web.service");
        let oneshot = &[("web.service", "[Service]\nType=oneshot+")];
        assert_eq!(plan(oneshot, &[], oneshot), "", "it has done its one thing");
        let failed = [("web.service", "failed")];
        assert_eq!(plan(oneshot, &failed, oneshot), "start web.service");
    }

    #[test]
    fn a_change_is_carried_out_as_the_new_unit_says() {
        let check = |new: &str, expected: &str| {
            assert_eq!(plan(&[("web.service", "a+")], ACTIVE, &[("web.service", new)]), expected);
        };
        check("b+", "stop web.service; start web.service");
        check("b", "stop web.service; start web.service");
        check("[Service]\nX-StopIfChanged=false+", "restart web.service");
        check("[Service]\nX-RestartIfChanged=false+", "");
        check("[Service]\nX-ReloadIfChanged=true+", "reload web.service");
    }

    #[test]
    fn what_was_not_active_is_not_restarted() {
        assert_eq!(plan(&[("web_x.service", "a")], &[], &[("web_x.service", "b")]), "");
    }

    #[test]
    fn what_a_timer_starts_meanwhile_is_started_again_by_its_new_definition_or_stopped() {
        let installed = units(&[("web_x.service", "a"), ("web_y.service", "b")]).units;
        let linked = |(name, unit): (UnitName, Unit)| {
            (name, Linked { target: unit.file, content: Some(unit.content) })
        };
        let installed = installed.into_iter().map(linked).collect();
        let states = |state: &str| {
            ["web_x.service", "web_y.service"]
                .map(|unit| (unit.to_owned(), state.to_owned()))
                .into()
        };
        let (down, up) = (states("inactive"), states("active"));
        let late = |before, now| {
            let pending = &Pending::default();
            let known =
                Known { profile: &profile(), installed: &installed, states: before, pending };
            tell(&Plan::late(known, &units(&[("web_x.service", "c")]), now))
        };
        assert_eq!(late(&down, &up), "stop web_x.service web_y.service; start web_x.service");
        assert_eq!(late(&up, &up), "", "the plan had them");
        assert_eq!(late(&down, &down), "");
    }

    #[test]
    fn sockets_and_timers_come_before_services() {
        let new = &[("web.service", "a+"), ("web.socket", "b+"), ("web_n.timer", "c+")];
        assert_eq!(plan(&[], &[], new), "start web.socket web_n.timer web.service");
    }

    #[test]
    fn a_socket_that_changed_takes_its_service_with_it() {
        let (service, states) =
            (("web.service", "a"), [("web.service", "active"), ("web.socket", "active")]);
        let old = [service, ("web.socket", "b+")];
        let told = plan(&old, &states, &[service, ("web.socket", "c+")]);
        assert_eq!(told, "stop web.service web.socket; start web.socket");
        // The service alone: whoever calls next starts it.
        let told = plan(&old, &states, &[("web.service", "c"), ("web.socket", "b+")]);
        assert_eq!(told, "stop web.service");
    }

    #[test]
    fn instances_follow_their_template() {
        let states = [("web@1.service", "active"), ("web@2.service", "inactive")];
        let told = plan(&[("web@.service", "a")], &states, &[("web@.service", "b")]);
        assert_eq!(told, "stop web@1.service; start web@1.service");
        assert_eq!(
            plan(&[("web@.service", "a")], &states, &[]),
            "stop web@1.service; unlink web@.service"
        );
    }

    #[test]
    fn what_a_dead_run_left_undone_is_done_if_it_is_still_there() {
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        let pending = Pending {
            start: names(&["web.service", "web_gone.service", "../x.service"]),
            restart: names(&["web.service", "web_b.service"]),
            reload: names(&["web_b.service", "web_c.service"]),
        };
        let same = units(&[("web.service", "a"), ("web_b.service", "b"), ("web_c.service", "c")]);
        let linked =
            |unit: &Unit| Linked { target: unit.file.clone(), content: Some(unit.content.clone()) };
        let installed =
            same.units.iter().map(|(name, unit)| (name.clone(), linked(unit))).collect();
        let known = Known {
            profile: &profile(),
            installed: &installed,
            states: &BTreeMap::new(),
            pending: &pending,
        };
        let told = tell(&Plan::new(known, &same));
        assert_eq!(told, "reload web_c.service; restart web_b.service; start web.service");
    }
}
