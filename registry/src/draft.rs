//! The next manifest, drafted from the current one and what its publisher asks for. Pure.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    closure::ClosureIndex,
    id::{GroupName, HostName, ProfileName, RealmName, System, TargetPath},
    manifest::{self, Activation, ActivationKind, Entry, Manifest, Retire, Selector},
    policy::{Policy, ProfileRule, Take},
    problem::{Kind, Problem},
    shard,
    version::{SoftwareVersion, VersionNumber},
    window::Windows,
};

use crate::{health_edit::HealthEdit, window_edit::WindowArgs};

/// Seconds that an activation may take unless its publisher says otherwise.
const TIMEOUT: u32 = 300;
/// The oldest agent that reads what is drafted here.
const MIN_AGENT: SoftwareVersion = SoftwareVersion { major: 0, minor: 1, patch: 0 };

/// What the publisher asks for; what is not asked for stays as it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) note: String,
    pub(crate) provenance: BTreeMap<String, String>,
    pub(crate) activation: Option<ActivationKind>,
    pub(crate) timeout: Option<u32>,
    pub(crate) health: HealthEdit,
    pub(crate) windows: WindowArgs,
}

/// What becomes of the profile.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Hosts run what these entries say; other entries stay.
    Run(Change),
    /// The service ends.
    Retire(Retire),
}

/// What becomes of the entries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    /// Entries that take the place of those for the same hosts, or are new.
    pub(crate) set: Vec<Entry>,
    /// Entries that go.
    pub(crate) dropped: Vec<Selector>,
}

/// Where the manifest belongs, and what came before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) realm: &'a RealmName,
    pub(crate) group: &'a GroupName,
    pub(crate) profile: &'a ProfileName,
    pub(crate) policy: &'a Policy,
    pub(crate) current: Option<&'a Manifest>,
}

/// A manifest that can be signed.
#[derive(Debug, Clone)]
pub(crate) struct Drafted {
    pub(crate) manifest: Manifest,
    /// The files of its shards, if it has any.
    pub(crate) shards: Vec<Vec<u8>>,
}

/// Drafts the next version, and checks that hosts of the group would take it.
///
/// # Errors
/// When the policy does not allow it, or it contradicts itself.
pub(crate) fn draft(place: &Place<'_>, content: Content, wish: Wish) -> Result<Drafted, Problem> {
    let rule = rule(place)?;
    let current = place.current;
    let version = match current {
        // A new epoch begins its own numbers, but a rising one is easier to talk about.
        Some(current) => current.version.next().ok_or_else(|| {
            Problem::new(Kind::Conflict, "versions", "there is no version after 4294967295")
                .leaves("nothing changed")
                .fix("ask the owners of the group to raise the epoch of the profile")
        })?,
        None => VersionNumber::FIRST,
    };
    let (entries, retire) = match content {
        Content::Run(change) => (entries(current, change), None),
        Content::Retire(retire) => (Vec::new(), Some(retire)),
    };
    let drafted = Manifest {
        format: manifest::FORMAT,
        realm: place.realm.clone(),
        group: place.group.clone(),
        profile: place.profile.clone(),
        epoch: rule.epoch,
        version,
        min_agent: MIN_AGENT,
        note: wish.note,
        provenance: wish.provenance,
        entries,
        shards: None,
        activation: Activation {
            kind: activation(place, rule, wish.activation)?,
            timeout: wish
                .timeout
                .or(current.map(|current| current.activation.timeout))
                .unwrap_or(TIMEOUT),
        },
        health: wish.health.apply(current.map(|current| &current.health)),
        rollout: None,
        requires: Vec::new(),
        windows: wish
            .windows
            .apply(&current.map_or_else(Windows::default, |it| it.windows.clone())),
        retire,
    };
    let (manifest, shards) = shard::fit(drafted).map_err(|error| {
        Problem::from_error(Kind::Usage, "manifest", &error).leaves("nothing changed")
    })?;
    Ok(Drafted { manifest, shards })
}

/// Selects every host of one system, or one of them.
pub(crate) fn selector(system: &System, host: Option<&HostName>) -> Selector {
    let hosts = host.into_iter().cloned().collect();
    Selector { system: system.clone(), hosts, labels: BTreeMap::new() }
}

/// Returns the entry of a closure for these hosts.
pub(crate) fn entry(selector: Selector, index: &ClosureIndex) -> Entry {
    Entry {
        selector,
        path: index.root().clone(),
        closure: index.digest(),
        paths: index.len() as u64,
        nar_size: index.nar_size(),
    }
}

fn rule<'a>(place: &Place<'a>) -> Result<&'a ProfileRule, Problem> {
    let Place { group, profile, policy, .. } = place;
    let target = TargetPath::Manifest((*group).clone(), (*profile).clone());
    let rule = policy.profiles.get(*profile).ok_or_else(|| {
        let known: Vec<&str> = policy.profiles.keys().map(ProfileName::as_str).collect();
        Problem::new(Kind::Conflict, "not_taken", format!("no host would take `{target}`"))
            .because(format!("the policy of `{group}` lists only: {}", known.join(", ")))
            .leaves("nothing changed")
            .fix("ask the owners of the group to add the profile to the policy")
            .next(format!("registry group set {group} --profile {profile}:ACTIVATION"))
    })?;
    match rule.take {
        Take::Yes | Take::Hold => Ok(rule),
        Take::Stop => {
            Err(Problem::new(Kind::Conflict, "stopped", format!("no host would take `{target}`"))
                .because(format!("the policy of `{group}`, version {}, stops it", policy.version))
                .leaves("nothing changed")
                .fix("ask the owners of the group"))
        }
    }
}

fn activation(
    place: &Place<'_>,
    rule: &ProfileRule,
    wish: Option<ActivationKind>,
) -> Result<ActivationKind, Problem> {
    let before = place.current.map(|current| current.activation.kind);
    let only = match rule.activations.as_slice() {
        [only] => Some(*only),
        _ => None,
    };
    let allowed: Vec<&str> = rule.activations.iter().map(|kind| kind.word()).collect();
    let allowed = allowed.join(", ");
    let kind = wish.or(before).or(only).ok_or_else(|| {
        Problem::new(Kind::Usage, "activation", "it is not said how to activate the profile")
            .because(format!("the policy of `{}` allows: {allowed}", place.group))
            .leaves("nothing changed")
            .fix("add --activation KIND")
    })?;
    if rule.activations.contains(&kind) {
        return Ok(kind);
    }
    let what = format!("hosts of `{}` would refuse activation `{kind}`", place.group);
    Err(Problem::new(Kind::Conflict, "activation", what)
        .because(format!("the policy allows `{}` only: {allowed}", place.profile))
        .leaves("nothing changed")
        .fix("choose an allowed one with --activation, or ask the owners of the group"))
}

/// Puts each new entry in the place of the one for the same hosts; what is new and for one host comes
/// before what is for many, because the first match wins.
fn entries(current: Option<&Manifest>, change: Change) -> Vec<Entry> {
    let mut entries = current.map(|current| current.entries.clone()).unwrap_or_default();
    let dropped: BTreeSet<Selector> = change.dropped.into_iter().collect();
    entries.retain(|entry| !dropped.contains(&entry.selector));
    let mut set: BTreeMap<Selector, Entry> =
        change.set.into_iter().map(|entry| (entry.selector.clone(), entry)).collect();
    for old in &mut entries {
        if let Some(entry) = set.remove(&old.selector) {
            *old = entry;
        }
    }
    let (many, one): (Vec<_>, Vec<_>) =
        set.into_values().partition(|entry| entry.selector.hosts.is_empty());
    let first = entries.iter().position(|entry| entry.selector.hosts.is_empty());
    let first = first.unwrap_or(entries.len());
    entries.splice(first..first, one);
    entries.extend(many);
    entries
}

#[cfg(test)]
mod tests {
    use shared::{id::Digest, nix::StorePath};

    use super::*;

    fn policy(profiles: &str) -> Policy {
        let text = format!(
            r#"{{"format":1,"realm":"main","group":"eu","version":7,"min_agent":"0.1.0",
            "profiles":{profiles},"caches":[],"builders":[],"enrolment":[],
            "windows":{{"fetch":[],"switch":[],"reboot":[]}},
            "rollout":{{"max_wave_percent":100,"min_soak":0,"default":null}}}}"#
        );
        Policy::parse(text.as_bytes(), SoftwareVersion::current()).unwrap()
    }

    fn exec_and_none() -> Policy {
        policy(
            r#"{"web":{"take":"yes","activations":["exec","none"],"privileged":false,"epoch":3},
                "old":{"take":"stop","activations":["none"],"privileged":false,"epoch":0}}"#,
        )
    }

    fn entry(system: &str, letter: char) -> Entry {
        let path = format!("{}-web-1", letter.to_string().repeat(32));
        Entry {
            selector: Selector {
                system: System::parse(system).unwrap(),
                hosts: Vec::new(),
                labels: BTreeMap::new(),
            },
            path: StorePath::from_base_name(&path).unwrap(),
            closure: Digest([0; 32]),
            paths: 1,
            nar_size: 120,
        }
    }

    fn run(
        policy: &Policy,
        profile: &str,
        current: Option<&Manifest>,
        content: Content,
        activation: Option<ActivationKind>,
    ) -> Result<Manifest, Problem> {
        let place = Place {
            realm: &RealmName::parse("main").unwrap(),
            group: &GroupName::parse("eu").unwrap(),
            profile: &ProfileName::parse(profile).unwrap(),
            policy,
            current,
        };
        draft(&place, content, Wish { activation, ..Wish::default() })
            .map(|drafted| drafted.manifest)
    }

    fn content(set: Entry) -> Content {
        Content::Run(Change { set: vec![set], dropped: Vec::new() })
    }

    #[test]
    fn the_next_version_keeps_what_is_not_asked_to_change() {
        let policy = exec_and_none();
        let x86 = content(entry("x86_64-linux", '1'));
        let first = run(&policy, "web", None, x86, Some(ActivationKind::Exec)).unwrap();
        assert_eq!((first.version.get(), first.epoch), (1, 3));
        let arm = content(entry("aarch64-linux", '2'));
        let second = run(&policy, "web", Some(&first), arm, None).unwrap();
        assert_eq!(second.version.get(), 2);
        assert_eq!(second.activation, first.activation);
        assert_eq!(second.entries.len(), 2);
        let x86 = content(entry("x86_64-linux", '3'));
        let third = run(&policy, "web", Some(&second), x86, None).unwrap();
        assert_eq!(third.entries[0].path, entry("x86_64-linux", '3').path);
        assert_eq!(third.entries.len(), 2);
    }

    #[test]
    fn an_entry_for_one_host_comes_before_those_for_many_and_can_be_dropped() {
        let policy = exec_and_none();
        let all = content(entry("x86_64-linux", '1'));
        let first = run(&policy, "web", None, all, Some(ActivationKind::Exec)).unwrap();
        let own = |host: &str, letter| {
            let mut own = entry("x86_64-linux", letter);
            own.selector.hosts = vec![host.parse().unwrap()];
            own
        };
        let change = Change { set: vec![own("b", '2'), own("a", '3')], dropped: Vec::new() };
        let second = run(&policy, "web", Some(&first), Content::Run(change), None).unwrap();
        let names = |manifest: &Manifest| -> Vec<String> {
            let entries = manifest.entries.iter();
            entries
                .map(|it| it.selector.hosts.first().map_or("*".into(), ToString::to_string))
                .collect()
        };
        assert_eq!(names(&second), ["a", "b", "*"]);
        let change = Change { set: vec![own("c", '2')], dropped: vec![own("a", '3').selector] };
        let third = run(&policy, "web", Some(&second), Content::Run(change), None).unwrap();
        assert_eq!(names(&third), ["b", "c", "*"]);
    }

    #[test]
    fn a_retired_profile_has_no_entries() {
        let policy = exec_and_none();
        let retired = Content::Retire(Retire::Stop);
        let manifest = run(&policy, "web", None, retired, Some(ActivationKind::None)).unwrap();
        assert!(manifest.entries.is_empty());
    }

    #[test]
    fn what_hosts_would_refuse_is_refused_here() {
        let policy = exec_and_none();
        let web = || content(entry("x86_64-linux", '1'));
        let told = |profile, kind| run(&policy, profile, None, web(), kind).unwrap_err().code;
        assert_eq!(told("shop", None), "not_taken");
        assert_eq!(told("old", None), "stopped");
        assert_eq!(told("web", None), "activation");
        assert_eq!(told("web", Some(ActivationKind::Systemd)), "activation");
    }
}
