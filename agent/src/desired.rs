//! What the verified documents of one profile ask of this host: pure.
//!
//! The policy decides before the manifest is looked at, and a manifest that asks for anything this
//! agent cannot do is refused as a whole.

use shared::feature::Feature;
use shared::health::{Check, Health, Probe};
use shared::id::{CheckName, GroupName, ProfileName};
use shared::manifest::{self, ActivationKind, Entry, HostFacts, Manifest, Retire};
use shared::policy::{Policy, ProfileRule, Take};
use shared::window::Windows;

use crate::state::{Activation, Checkup, Code, Desired, EpochVersion, Reason, Wanted};
use crate::windows;

/// What this agent can do.
pub(crate) const SUPPORTED: &[Feature] = &[
    Feature::ActivationExec,
    Feature::ActivationNixos,
    Feature::ActivationNone,
    Feature::ActivationSystemd,
    Feature::Health,
    Feature::HealthUnit,
    Feature::Retire,
    Feature::Shards,
    Feature::Windows,
];

/// The check that this host adds where its configuration asks for it.
const REGISTRY_CHECK: &str = "host-registry";

/// How that is tried, and by when it must have passed where the manifest has no checks, in seconds.
const REGISTRY_INTERVAL: u32 = 5;
const REGISTRY_DEADLINE: u32 = 60;

/// What decides for one profile, all of it verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Documents<'a> {
    /// The group that the host follows.
    pub(crate) group: &'a GroupName,
    /// The profile.
    pub(crate) profile: &'a ProfileName,
    /// The group's policy.
    pub(crate) policy: &'a Policy,
    /// The profile's manifest, if one is published.
    pub(crate) manifest: Option<&'a Manifest>,
}

/// What this host's own configuration says of every profile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostRules<'a> {
    /// What manifests may match.
    pub(crate) host: &'a HostFacts,
    /// The activations that this host takes; all if none are named.
    pub(crate) activations: Option<&'a [ActivationKind]>,
    /// Whether a switch that loses the registry is undone.
    pub(crate) keeps_registry: bool,
    /// Whether it has a manager of units that checks can ask.
    pub(crate) has_units: bool,
    /// When this host fetches, switches and reboots at most.
    pub(crate) windows: &'a Windows,
}

/// Returns the windows that narrow each other: of the manifest, the policy and the host.
pub(crate) fn windows_of(documents: &Documents<'_>, rules: &HostRules<'_>) -> Vec<Windows> {
    let manifest = documents.manifest.map(|manifest| &manifest.windows);
    let all = manifest.into_iter().chain([&documents.policy.windows, rules.windows]);
    all.filter(|windows| !windows.is_empty()).cloned().collect()
}

/// Returns what the documents ask of this host.
pub(crate) fn desire(documents: &Documents<'_>, rules: &HostRules<'_>) -> Desired {
    ask(documents, rules).unwrap_or_else(|reason| Desired::Freeze { reason })
}

fn ask(documents: &Documents<'_>, rules: &HostRules<'_>) -> Result<Desired, Reason> {
    let Documents { group, profile, policy, .. } = documents;
    let rule = policy.profiles.get(*profile).ok_or_else(|| {
        let text = format!("the policy of `{group}` does not list `{profile}`");
        Reason::new(Code::NotAllowed, text)
    })?;
    match rule.take {
        Take::Stop if profile.is_system() => return Err(not_stopped("the policy")),
        Take::Stop => {
            let text = format!("the policy of `{group}` stops `{profile}`");
            let reason = Reason::new(Code::PolicyStop, text);
            return Ok(Desired::Stop { version: None, reason });
        }
        Take::Hold => {
            let text = format!("the policy of `{group}` holds `{profile}`");
            return Err(Reason::new(Code::PolicyHold, text));
        }
        Take::Yes => {}
    }
    refuse_unsupported("the policy", &policy.unsupported(SUPPORTED))?;
    refuse_unknown_zones("the policy", &policy.windows)?;
    let manifest = documents.manifest.ok_or_else(|| {
        let text = format!("no manifest is published for `{group}/{profile}`");
        Reason::new(Code::NoManifest, text)
    })?;
    follow(manifest, rule, rules)
}

/// A host without its operating system is none.
fn not_stopped(who: &str) -> Reason {
    Reason::new(Code::NotAllowed, format!("{who} stops `system`, and no machine goes without"))
}

/// What the manifest asks, where the policy says `take = yes`.
fn follow(
    manifest: &Manifest,
    rule: &ProfileRule,
    rules: &HostRules<'_>,
) -> Result<Desired, Reason> {
    if manifest.epoch != rule.epoch {
        let text = format!(
            "the manifest has epoch {}, the policy asks for epoch {}",
            manifest.epoch, rule.epoch
        );
        return Err(Reason::new(Code::Epoch, text));
    }
    refuse_unsupported("the manifest", &manifest.unsupported(SUPPORTED))?;
    if !rules.has_units && manifest.unsupported(&[]).contains(&Feature::HealthUnit) {
        let text = "the manifest asks for health checks of systemd units, which this host's \
            configuration (`activation.runner`) does not allow";
        return Err(Reason::new(Code::NotAllowed, text));
    }
    refuse_unknown_zones("the manifest", &manifest.windows)?;
    let version = EpochVersion { epoch: manifest.epoch, version: manifest.version };
    let retired = || Reason::new(Code::Retired, "the team retired the profile");
    match manifest.retire {
        Some(Retire::Stop) if manifest.profile.is_system() => {
            return Err(not_stopped("the manifest"));
        }
        Some(Retire::Stop) => {
            return Ok(Desired::Stop { version: Some(version), reason: retired() });
        }
        Some(Retire::Keep) => {
            return Ok(Desired::Keep { version: Some(version), reason: retired() });
        }
        None => {}
    }
    let host = rules.host;
    let Some(entry) = manifest.select(host) else {
        let text = format!("no entry matches host `{}` with `{}`", host.name, host.system);
        let reason = Reason::new(Code::NotForThisHost, text);
        return Ok(Desired::Keep { version: Some(version), reason });
    };
    let activation = choose_activation(manifest, rule, rules.activations)?;
    let checkup = Checkup {
        health: examine(manifest, rules),
        user: rule.user.clone(),
        privileged: rule.privileged,
    };
    let Entry { path, closure, .. } = entry.clone();
    Ok(Desired::Run { wanted: Wanted { version, path, closure, activation, checkup } })
}

/// Returns the manifest's checks, and this host's own if it has one.
fn examine(manifest: &Manifest, rules: &HostRules<'_>) -> Health {
    let mut health = manifest.health.clone();
    let asked = |check: &Check| check.probe == Probe::Registry;
    let Ok(name) = CheckName::parse(REGISTRY_CHECK) else { return health };
    if rules.keeps_registry && !health.checks.iter().any(asked) {
        if health.checks.is_empty() {
            health.deadline = health.deadline.max(REGISTRY_DEADLINE);
        }
        health.checks.push(Check {
            name,
            probe: Probe::Registry,
            interval: REGISTRY_INTERVAL,
            timeout: REGISTRY_INTERVAL,
            retries: 3,
        });
    }
    health
}

fn choose_activation(
    manifest: &Manifest,
    rule: &ProfileRule,
    activations: Option<&[ActivationKind]>,
) -> Result<Activation, Reason> {
    let manifest::Activation { kind, timeout } = manifest.activation;
    let not_allowed = |who: &str| {
        let profile = &manifest.profile;
        let text = format!("{who} does not allow activation `{kind}` for `{profile}`");
        Err(Reason::new(Code::NotAllowed, text))
    };
    if !rule.activations.contains(&kind) {
        return not_allowed("the policy");
    }
    if activations.is_some_and(|allowed| !allowed.contains(&kind)) {
        let who = match kind {
            ActivationKind::Systemd | ActivationKind::Nixos => {
                "this host's configuration (`activation.runner`, `profiles.activations`)"
            }
            ActivationKind::Exec | ActivationKind::None => "this host's configuration",
        };
        return not_allowed(who);
    }
    if manifest.profile.is_system() && kind != ActivationKind::Nixos {
        let text = "`system` is the host's operating system, which only `nixos` activates";
        return Err(Reason::new(Code::NotAllowed, text));
    }
    if kind == ActivationKind::Nixos && !manifest.profile.is_system() {
        let text = "activation `nixos` is for the profile `system` alone";
        return Err(Reason::new(Code::NotAllowed, text));
    }
    match kind {
        ActivationKind::None => Ok(Activation::None),
        ActivationKind::Exec => {
            Ok(Activation::Exec { timeout, user: rule.user.clone(), privileged: rule.privileged })
        }
        ActivationKind::Systemd => {
            let (user, privileged) = (rule.user.clone(), rule.privileged);
            Ok(Activation::Systemd { timeout, user, privileged })
        }
        ActivationKind::Nixos => Ok(Activation::Nixos { timeout }),
    }
}

fn refuse_unsupported(document: &str, missing: &[Feature]) -> Result<(), Reason> {
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = missing.iter().map(|feature| feature.describe()).collect();
    let text = format!("{document} asks for {}, which this agent cannot do", missing.join(", "));
    Err(Reason::new(Code::Unsupported, text))
}

fn refuse_unknown_zones(document: &str, windows: &Windows) -> Result<(), Reason> {
    windows::check(windows).map_err(|error| {
        Reason::new(Code::Unsupported, format!("{document} has a window of no use here: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::version::SoftwareVersion;

    use super::*;

    fn manifest(change: impl FnOnce(&mut Value)) -> Manifest {
        let mut value = json!({
            "format": 1, "realm": "main", "group": "eu-prod", "profile": "webshop", "epoch": 0,
            "version": 42, "min_agent": "0.1.0", "note": "", "provenance": {},
            "entries": [{"match": {"system": "x86_64-linux", "hosts": [], "labels": {}},
                "path": format!("/nix/store/{}-webshop", "0".repeat(32)),
                "closure": "0".repeat(64), "paths": 1, "nar_size": 1}],
            "shards": null, "activation": {"kind": "exec", "timeout": 300},
            "health": {"deadline": 0, "soak": 0, "checks": []}, "rollout": null, "requires": [],
            "windows": {"fetch": [], "switch": [], "reboot": []}, "retire": null
        });
        change(&mut value);
        Manifest::parse(&serde_json::to_vec(&value).unwrap(), SoftwareVersion::current()).unwrap()
    }

    fn policy(change: impl FnOnce(&mut Value)) -> Policy {
        let mut value = json!({
            "format": 1, "realm": "main", "group": "eu-prod", "version": 7, "min_agent": "0.1.0",
            "profiles": {"webshop": {"take": "yes", "activations": ["exec"], "privileged": false,
                "user": "webshop", "epoch": 0}},
            "caches": [], "builders": [], "enrolment": [],
            "windows": {"fetch": [], "switch": [], "reboot": []},
            "rollout": {"max_wave_percent": 20, "min_soak": 60, "default": null}
        });
        change(&mut value);
        Policy::parse(&serde_json::to_vec(&value).unwrap(), SoftwareVersion::current()).unwrap()
    }

    fn facts() -> HostFacts {
        HostFacts {
            name: "web-1".parse().unwrap(),
            system: "x86_64-linux".parse().unwrap(),
            labels: std::collections::BTreeMap::default(),
        }
    }

    fn desired(policy: &Policy, manifest: Option<&Manifest>) -> Desired {
        let (group, profile) = (policy.group.clone(), ProfileName::parse("webshop").unwrap());
        let host = facts();
        let documents = Documents { group: &group, profile: &profile, policy, manifest };
        let activations = Some(&[ActivationKind::Exec, ActivationKind::None][..]);
        desire(
            &documents,
            &HostRules {
                host: &host,
                activations,
                keeps_registry: false,
                has_units: false,
                windows: &Windows::default(),
            },
        )
    }

    fn code(policy: impl FnOnce(&mut Value), change: impl FnOnce(&mut Value)) -> Code {
        match desired(&self::policy(policy), Some(&manifest(change))) {
            Desired::Freeze { reason }
            | Desired::Stop { reason, .. }
            | Desired::Keep { reason, .. } => reason.code,
            Desired::Run { wanted } => panic!("would run {wanted:?}"),
        }
    }

    #[test]
    fn the_first_matching_entry_runs_as_the_policy_says() {
        let desired = desired(&policy(|_| {}), Some(&manifest(|_| {})));
        let Desired::Run { wanted } = desired else { panic!("{desired:?}") };
        let user = Some("webshop".parse().unwrap());
        assert_eq!(wanted.activation, Activation::Exec { timeout: 300, user, privileged: false });
        assert_eq!(wanted.version.version.get(), 42);
    }

    #[test]
    fn every_refusal_has_its_own_code() {
        let nothing = |_: &mut Value| {};
        let take = |word: &'static str| {
            move |policy: &mut Value| policy["profiles"]["webshop"]["take"] = json!(word)
        };
        assert_eq!(code(take("hold"), nothing), Code::PolicyHold);
        assert_eq!(code(take("stop"), nothing), Code::PolicyStop);
        assert_eq!(code(|policy| policy["profiles"] = json!({}), nothing), Code::NotAllowed);
        assert_eq!(code(nothing, |manifest| manifest["epoch"] = json!(1)), Code::Epoch);
        let kind = |kind: &'static str| {
            move |manifest: &mut Value| manifest["activation"]["kind"] = json!(kind)
        };
        assert_eq!(code(nothing, kind("none")), Code::NotAllowed);
        assert_eq!(code(nothing, kind("systemd")), Code::NotAllowed);
        assert_eq!(code(nothing, kind("nixos")), Code::NotAllowed);
        let window = json!([{"cron": "0 2 * * *", "zone": "Europe/Atlantis", "length": 60}]);
        let windows = |document: &mut Value| document["windows"]["switch"] = window.clone();
        assert_eq!(code(nothing, windows), Code::Unsupported);
        assert_eq!(code(windows, nothing), Code::Unsupported);
        let elsewhere =
            |manifest: &mut Value| manifest["entries"][0]["match"]["hosts"] = json!(["db-1"]);
        assert_eq!(code(nothing, elsewhere), Code::NotForThisHost);
        let retire = |manifest: &mut Value| {
            manifest["retire"] = json!("stop");
            manifest["entries"] = json!([]);
        };
        assert_eq!(code(nothing, retire), Code::Retired);
        let Desired::Freeze { reason } = desired(&policy(nothing), None) else { panic!() };
        assert_eq!(reason.code, Code::NoManifest);
    }

    #[test]
    fn an_operating_system_is_the_profile_system_and_is_never_stopped() {
        let as_system = |value: &mut Value| {
            let rule = json!({"take": "yes", "activations": ["nixos", "none"], "privileged": true,
                "epoch": 0});
            if value["profiles"].is_object() {
                value["profiles"] = json!({"system": rule});
            } else {
                value["profile"] = json!("system");
                value["activation"]["kind"] = json!("nixos");
            }
        };
        let ask = |change: fn(&mut Value)| {
            let both = |value: &mut Value| {
                as_system(value);
                change(value);
            };
            let (policy, manifest) = (policy(both), manifest(both));
            let group = manifest.group.clone();
            let rules = HostRules {
                host: &facts(),
                activations: None,
                keeps_registry: false,
                has_units: true,
                windows: &Windows::default(),
            };
            let profile = &manifest.profile;
            let manifest = Some(&manifest);
            match desire(&Documents { group: &group, profile, policy: &policy, manifest }, &rules) {
                Desired::Run { wanted } => format!("{:?}", wanted.activation),
                Desired::Freeze { reason } => format!("{}: {}", reason.code, reason.text),
                other @ (Desired::Stop { .. } | Desired::Keep { .. }) => format!("{other:?}"),
            }
        };
        assert_eq!(ask(|_| {}), "Nixos { timeout: 300 }");
        let kind = ask(|value| {
            if value["activation"].is_object() {
                value["activation"]["kind"] = json!("none");
            }
        });
        assert!(kind.contains("which only `nixos` activates"), "{kind}");
        let stopped = ask(|value| {
            if value["profiles"].is_object() {
                value["profiles"]["system"]["take"] = json!("stop");
            }
        });
        assert!(stopped.contains("no machine goes without"), "{stopped}");
        let retired = ask(|value| {
            if value["activation"].is_object() {
                (value["retire"], value["entries"]) = (json!("stop"), json!([]));
            }
        });
        assert!(retired.contains("no machine goes without"), "{retired}");
    }

    #[test]
    fn checks_of_units_are_refused_where_nobody_can_be_asked() {
        let check = json!({"name": "web", "kind": "unit", "unit": "web.service", "interval": 5,
            "timeout": 3, "retries": 3});
        let manifest = manifest(|manifest| {
            manifest["health"] = json!({"deadline": 10, "soak": 0, "checks": [check]});
        });
        let desired = desired(&policy(|_| {}), Some(&manifest));
        let Desired::Freeze { reason } = desired else { panic!("{desired:?}") };
        assert_eq!(
            reason.text,
            "the manifest asks for health checks of systemd units, which this host's configuration \
             (`activation.runner`) does not allow"
        );
    }

    #[test]
    fn a_host_that_must_not_lose_its_registry_adds_a_check_of_its_own() {
        let rules = HostRules {
            host: &facts(),
            activations: None,
            keeps_registry: true,
            has_units: false,
            windows: &Windows::default(),
        };
        let health = examine(&manifest(|_| {}), &rules);
        assert_eq!((health.problem(), health.checks.len(), health.deadline), (None, 1, 60));
        let asks = manifest(|manifest| {
            let check = json!({"name": "mine", "kind": "registry", "interval": 9, "timeout": 3,
                "retries": 3});
            manifest["health"] = json!({"deadline": 10, "soak": 0, "checks": [check]});
        });
        assert_eq!(examine(&asks, &rules), asks.health);
        let careless = HostRules { keeps_registry: false, ..rules };
        assert_eq!(examine(&manifest(|_| {}), &careless), Health::default());
    }
}
