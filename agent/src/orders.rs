//! What each profile of this host is asked for, all groups and the host's configuration taken
//! together: pure.
//!
//! One group decides in `desired` what it asks for one profile. Here the groups meet: a profile
//! that two of them claim changes under neither, and a document that failed freezes what it would
//! have decided, and nothing else.

use std::collections::BTreeMap;

use shared::id::{GroupName, ProfileName};
use shared::manifest::Manifest;
use shared::policy::Policy;
use shared::window::Windows;

use crate::config::{ProfilePattern, Settings};
use crate::desired::{Documents, HostRules, desire, windows_of};
use crate::state::{Code, Desired, Reason};

/// What one profile is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The group that asks.
    pub(crate) group: GroupName,
    /// The profile.
    pub(crate) profile: ProfileName,
    /// What for.
    pub(crate) desired: Desired,
    /// The windows that hold from now on; as before if the documents cannot be read.
    pub(crate) windows: Option<Vec<Windows>>,
}

/// A profile that this host has already, and the group it followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The group.
    pub(crate) group: GroupName,
    /// The profile.
    pub(crate) profile: ProfileName,
}

/// What one group publishes, verified.
#[derive(Debug, Clone)]
pub(crate) struct Published<'a> {
    /// Its policy.
    pub(crate) policy: &'a Policy,
    /// The manifests of the profiles that the policy lets run, or why there is none.
    pub(crate) manifests: BTreeMap<&'a ProfileName, Result<&'a Manifest, &'a Reason>>,
}

/// The groups that the host follows: what each publishes, or why nothing of it can be used.
pub(crate) type Groups<'a> = BTreeMap<&'a GroupName, Result<Published<'a>, &'a Reason>>;

/// What this host's configuration says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrowing<'a> {
    /// The profiles that this host takes; all if none are named.
    pub(crate) allow: Option<&'a [ProfilePattern]>,
    /// What holds for each of them.
    pub(crate) rules: HostRules<'a>,
}

impl<'a> Narrowing<'a> {
    /// Takes what the settings say.
    pub(crate) fn of(settings: &'a Settings) -> Self {
        let rules = HostRules {
            host: &settings.host,
            activations: settings.activations.as_deref(),
            keeps_registry: settings.keeps_registry,
            has_units: settings.has_units,
            windows: &settings.windows,
        };
        Self { allow: settings.allow.as_deref(), rules }
    }

    fn allows(&self, profile: &ProfileName) -> bool {
        self.allow.is_none_or(|allow| allow.iter().any(|pattern| pattern.matches(profile)))
    }
}

/// Asks every known profile to stay as it is, for one reason.
pub(crate) fn freeze_all(known: &[Known], reason: &Reason) -> Vec<Asked> {
    known.iter().map(|known| freeze(&known.group, &known.profile, reason.clone())).collect()
}

/// Returns what every profile is asked for, known or new.
pub(crate) fn ask(groups: &Groups<'_>, narrowing: Narrowing<'_>, known: &[Known]) -> Vec<Asked> {
    let mut claims: BTreeMap<&ProfileName, Vec<&GroupName>> = BTreeMap::new();
    for (group, published) in groups {
        let profiles = published.iter().flat_map(|published| published.policy.profiles.keys());
        for profile in profiles {
            claims.entry(profile).or_default().push(group);
        }
    }
    let mut asked = Vec::new();
    for (profile, claimants) in &claims {
        let known = known.iter().find(|known| known.profile == **profile);
        // A profile that this host does not take, and never had, is no business of this host.
        if narrowing.allows(profile) || known.is_some() {
            asked.extend(ask_one(groups, narrowing, profile, claimants, known));
        }
    }
    let unclaimed = known.iter().filter(|known| !claims.contains_key(&known.profile));
    asked.extend(unclaimed.map(|known| keep(groups, known)));
    asked
}

/// Asks one profile that at least one group claims.
fn ask_one(
    groups: &Groups<'_>,
    narrowing: Narrowing<'_>,
    profile: &ProfileName,
    claimants: &[&GroupName],
    known: Option<&Known>,
) -> Option<Asked> {
    let own = known.map(|known| &known.group).filter(|group| claimants.contains(group));
    let group = own.or_else(|| claimants.first().copied())?;
    Some(match refusal(groups, narrowing, profile, claimants, known) {
        Some(reason) => freeze(group, profile, reason),
        None => {
            let Some(Ok(published)) = groups.get(group) else { return None };
            let manifest = match published.manifests.get(profile) {
                Some(Err(reason)) => return Some(freeze(group, profile, (*reason).clone())),
                Some(Ok(manifest)) => Some(*manifest),
                None => None,
            };
            let documents = Documents { group, profile, policy: published.policy, manifest };
            let desired = desire(&documents, &narrowing.rules);
            let windows = Some(windows_of(&documents, &narrowing.rules));
            Asked { group: group.clone(), profile: profile.clone(), desired, windows }
        }
    })
}

/// Returns why no group may change the profile, whatever its documents say.
fn refusal(
    groups: &Groups<'_>,
    narrowing: Narrowing<'_>,
    profile: &ProfileName,
    claimants: &[&GroupName],
    known: Option<&Known>,
) -> Option<Reason> {
    if !narrowing.allows(profile) {
        let text = format!("this host's configuration does not allow `{profile}`");
        return Some(Reason::new(Code::NotAllowed, text));
    }
    if claimants.len() > 1 {
        let names: Vec<String> = claimants.iter().map(|group| format!("`{group}`")).collect();
        let text = format!("the groups {} both offer `{profile}`", names.join(" and "));
        return Some(Reason::new(Code::ProfileClaimedTwice, text));
    }
    // The group that it followed could not be read, and may well offer it still.
    let lost = known.filter(|known| !claimants.contains(&&known.group))?;
    groups.get(&lost.group)?.as_ref().err().map(|reason| (*reason).clone())
}

/// Absence means keep: what nobody offers any more stays as it is, and says why.
fn keep(groups: &Groups<'_>, known: &Known) -> Asked {
    let Known { group, profile } = known;
    let reason = match groups.get(group) {
        Some(Err(reason)) => (*reason).clone(),
        Some(Ok(_)) => {
            let text = format!("the policy of `{group}` does not list `{profile}` any more");
            Reason::new(Code::NotAllowed, text)
        }
        None => {
            let text = format!("this host does not follow `{group}` any more");
            Reason::new(Code::NotAllowed, text)
        }
    };
    freeze(group, profile, reason)
}

fn freeze(group: &GroupName, profile: &ProfileName, reason: Reason) -> Asked {
    let desired = Desired::Freeze { reason };
    Asked { group: group.clone(), profile: profile.clone(), desired, windows: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::manifest::HostFacts;
    use shared::version::SoftwareVersion;

    use super::*;

    fn policy(group: &str, profiles: &[&str]) -> Policy {
        let rule = json!({"take": "yes", "activations": ["none"], "privileged": false, "epoch": 0});
        let profiles: BTreeMap<_, _> = profiles.iter().map(|name| (name, &rule)).collect();
        let value = json!({
            "format": 1, "realm": "main", "group": group, "version": 1, "min_agent": "0.1.0",
            "profiles": profiles, "caches": [], "builders": [], "enrolment": [],
            "windows": {"fetch": [], "switch": [], "reboot": []},
            "rollout": {"max_wave_percent": 20, "min_soak": 60, "default": null}
        });
        Policy::parse(&serde_json::to_vec(&value).unwrap(), SoftwareVersion::current()).unwrap()
    }

    fn known(group: &str, profile: &str) -> Known {
        Known { group: group.parse().unwrap(), profile: profile.parse().unwrap() }
    }

    /// Asks with these groups, and tells each profile with the code of its reason.
    fn check(
        groups: &[(&str, Result<&Policy, &Reason>)],
        allow: Option<&[ProfilePattern]>,
        known: &[Known],
        expected: &[(&str, &str, Code)],
    ) {
        let names: Vec<GroupName> = groups.iter().map(|(name, _)| name.parse().unwrap()).collect();
        let published = |policy| Published { policy, manifests: BTreeMap::new() };
        let groups: Groups<'_> = names
            .iter()
            .zip(groups)
            .map(|(name, (_, group))| (name, group.map(published)))
            .collect();
        let host = HostFacts {
            name: "web-1".parse().unwrap(),
            system: "x86_64-linux".parse().unwrap(),
            labels: BTreeMap::new(),
        };
        let rules = HostRules {
            host: &host,
            activations: None,
            keeps_registry: false,
            has_units: false,
            windows: &Windows::default(),
        };
        let narrowing = Narrowing { allow, rules };
        let asked = ask(&groups, narrowing, known);
        let told: Vec<_> = asked
            .iter()
            .map(|asked| {
                let Desired::Freeze { reason } = &asked.desired else { panic!("{asked:?}") };
                (asked.group.as_str(), asked.profile.as_str(), reason.code)
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_profile_that_two_groups_offer_changes_under_neither() {
        let (one, two) = (policy("one", &["db", "web"]), policy("two", &["web"]));
        let groups = [("one", Ok(&one)), ("two", Ok(&two))];
        check(
            &groups,
            None,
            &[known("two", "web")],
            &[("one", "db", Code::NoManifest), ("two", "web", Code::ProfileClaimedTwice)],
        );
    }

    #[test]
    fn a_group_that_cannot_be_read_holds_back_its_own_profiles_alone() {
        let one = policy("one", &["db"]);
        let untrusted = Reason::new(Code::Untrusted, "bad signature");
        check(
            &[("one", Ok(&one)), ("two", Err(&untrusted))],
            None,
            &[known("two", "web")],
            &[("one", "db", Code::NoManifest), ("two", "web", Code::Untrusted)],
        );
        // Another group must not take over what the unreadable one may still offer.
        check(
            &[("one", Ok(&one)), ("two", Err(&untrusted))],
            None,
            &[known("two", "db")],
            &[("one", "db", Code::Untrusted)],
        );
    }

    #[test]
    fn what_nobody_offers_any_more_stays_and_says_why() {
        let one = policy("one", &[]);
        check(
            &[("one", Ok(&one))],
            None,
            &[known("one", "web"), known("gone", "db")],
            &[("one", "web", Code::NotAllowed), ("gone", "db", Code::NotAllowed)],
        );
    }

    #[test]
    fn a_host_that_does_not_take_a_profile_only_tells_of_it_if_it_has_it() {
        let one = policy("one", &["db", "web", "web-beta"]);
        let allow = ["web*".parse().unwrap()];
        let groups = [("one", Ok(&one))];
        let web = [("one", "web", Code::NoManifest), ("one", "web-beta", Code::NoManifest)];
        check(&groups, Some(&allow), &[], &web);
        let db = [("one", "db", Code::NotAllowed)];
        check(&groups, Some(&allow), &[known("one", "db")], &[&db[..], &web].concat());
    }
}
