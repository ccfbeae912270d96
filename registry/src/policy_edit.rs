//! Changing a policy by what is asked for on the command line. Pure.

use std::str::FromStr;

use shared::{
    id::{GroupName, IdError, ProfileName, RawKey, RealmName, UserName},
    manifest::ActivationKind,
    nix::PublicKey,
    policy::{self, Cache, Policy, ProfileRule, RolloutRule, Take},
    problem::{Kind, Problem},
    version::{SoftwareVersion, VersionNumber},
    window::Windows,
};

use crate::window_edit::{self, WindowArgs};

/// The priority of the first cache that is given; the next one comes after it.
const PRIORITY: u32 = 40;
/// The oldest agent that reads what is written here.
const MIN_AGENT: SoftwareVersion = SoftwareVersion { major: 0, minor: 1, patch: 0 };

/// What is asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PolicyArgs {
    /// A binary cache that hosts may use; asked in the order given
    #[arg(long, value_name = "URL")]
    pub(crate) cache: Vec<String>,
    /// A cache that hosts may no longer use
    #[arg(long, value_name = "URL")]
    pub(crate) remove_cache: Vec<String>,
    /// A key whose signatures let a path into the store, `name:base64`, as Nix writes it
    #[arg(long, value_name = "KEY", value_parser = builder)]
    pub(crate) builder: Vec<PublicKey>,
    /// The name of a builder key that no longer does
    #[arg(long, value_name = "NAME")]
    pub(crate) remove_builder: Vec<String>,
    /// A profile that hosts take: `NAME:ACTIVATION`, several joined by `+`; behind another `:`
    /// `privileged`, or `user=NAME`
    #[arg(long, value_name = "PROFILE")]
    pub(crate) profile: Vec<ProfileArg>,
    /// Hosts follow this profile's manifests, after --hold or --stop
    #[arg(long, value_name = "PROFILE")]
    pub(crate) take: Vec<ProfileName>,
    /// Hosts stay with what they run of this profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) hold: Vec<ProfileName>,
    /// Hosts stop this profile
    #[arg(long, value_name = "PROFILE")]
    pub(crate) stop: Vec<ProfileName>,
    /// Raise the epoch of this profile: what was published before no longer counts
    #[arg(long, value_name = "PROFILE")]
    pub(crate) raise_epoch: Vec<ProfileName>,
    /// A key whose certificates make a host's reports count, 64 hexadecimal digits
    #[arg(long, value_name = "KEY")]
    pub(crate) enrolment: Vec<RawKey>,
    #[command(flatten)]
    pub(crate) windows: WindowArgs,
}

/// A profile and how it is taken, as given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProfileArg {
    name: ProfileName,
    activations: Vec<ActivationKind>,
    privileged: bool,
    user: Option<UserName>,
}

impl FromStr for ProfileArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let told = |error: IdError| error.to_string();
        let name = ProfileName::parse(parts.next().unwrap_or_default()).map_err(told)?;
        let activations = match parts.next() {
            Some(kinds) => kinds.split('+').map(str::parse).collect::<Result<_, _>>()?,
            None => vec![ActivationKind::None],
        };
        let mut argument = Self { privileged: name.is_system(), name, activations, user: None };
        for word in parts {
            match word.split_once('=') {
                None if word == "privileged" => argument.privileged = true,
                Some(("user", user)) => {
                    argument.user = Some(UserName::parse(user).map_err(told)?);
                }
                _ => return Err(format!("`{word}` is neither `privileged` nor `user=NAME`")),
            }
        }
        Ok(argument)
    }
}

/// Returns a policy that takes nothing from nowhere.
pub(crate) fn empty(realm: RealmName, group: GroupName, version: VersionNumber) -> Policy {
    Policy {
        format: policy::FORMAT,
        realm,
        group,
        version,
        min_agent: MIN_AGENT,
        profiles: std::collections::BTreeMap::new(),
        caches: Vec::new(),
        builders: Vec::new(),
        enrolment: Vec::new(),
        windows: Windows::default(),
        rollout: RolloutRule::default(),
    }
}

/// Changes a policy as asked.
///
/// # Errors
/// When something is named that is not there.
pub(crate) fn apply(policy: &mut Policy, asked: &PolicyArgs) -> Result<(), Problem> {
    for url in &asked.remove_cache {
        remove(&mut policy.caches, "cache", url, |cache| cache.url == *url)?;
    }
    for url in &asked.cache {
        let url = url.trim_end_matches('/');
        if !policy.caches.iter().any(|cache| cache.url == url) {
            let last = policy.caches.iter().map(|cache| cache.priority).max();
            let priority = last.map_or(PRIORITY, |last| last.saturating_add(1));
            policy.caches.push(Cache { url: url.to_owned(), priority });
        }
    }
    for name in &asked.remove_builder {
        remove(&mut policy.builders, "builder", name, |key| key.name() == name)?;
    }
    for key in &asked.builder {
        policy.builders.retain(|known| known.name() != key.name());
        policy.builders.push(key.clone());
    }
    for key in &asked.enrolment {
        if !policy.enrolment.contains(key) {
            policy.enrolment.push(*key);
        }
    }
    for profile in &asked.profile {
        let before = policy.profiles.get(&profile.name);
        let rule = ProfileRule {
            take: before.map_or(Take::Yes, |rule| rule.take),
            activations: profile.activations.clone(),
            privileged: profile.privileged,
            user: profile.user.clone(),
            epoch: before.map_or(0, |rule| rule.epoch),
        };
        policy.profiles.insert(profile.name.clone(), rule);
    }
    for (names, take) in
        [(&asked.take, Take::Yes), (&asked.hold, Take::Hold), (&asked.stop, Take::Stop)]
    {
        for name in names {
            rule(policy, name)?.take = take;
        }
    }
    policy.windows = asked.windows.apply(&policy.windows);
    for name in &asked.raise_epoch {
        let rule = rule(policy, name)?;
        rule.epoch = rule.epoch.saturating_add(1);
    }
    Ok(())
}

/// Tells in one line each what differs between two policies.
pub(crate) fn changes(before: Option<&Policy>, after: &Policy) -> Vec<String> {
    let lines = |policy: &Policy| -> Vec<String> {
        let profiles = policy.profiles.iter().map(|(name, rule)| describe(name, rule));
        let caches = policy
            .caches
            .iter()
            .map(|cache| format!("cache {} with priority {}", cache.url, cache.priority));
        let builders = policy.builders.iter().map(|key| format!("builder {key}"));
        let enrolment = policy.enrolment.iter().map(|key| format!("enrolment key {key}"));
        let rollout = serde_json::to_string(&policy.rollout).map(|json| format!("rollout {json}"));
        let rest = window_edit::describe(&policy.windows).into_iter().chain(rollout);
        profiles.chain(caches).chain(builders).chain(enrolment).chain(rest).collect()
    };
    let nothing = || lines(&empty(after.realm.clone(), after.group.clone(), after.version));
    let (old, new) = (before.map_or_else(nothing, lines), lines(after));
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(come).collect()
}

fn describe(name: &ProfileName, rule: &ProfileRule) -> String {
    let take = match rule.take {
        Take::Yes => "take",
        Take::Hold => "hold",
        Take::Stop => "stop",
    };
    let kinds: Vec<&str> = rule.activations.iter().map(|kind| kind.word()).collect();
    let user = match (&rule.user, rule.privileged) {
        (_, true) => ", privileged".to_owned(),
        (Some(user), false) => format!(", as user {user}"),
        (None, false) => String::new(),
    };
    format!("profile {name}: {take}, activation {}{user}, epoch {}", kinds.join(" or "), rule.epoch)
}

fn builder(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text).map_err(|error| error.to_string())
}

fn rule<'a>(policy: &'a mut Policy, name: &ProfileName) -> Result<&'a mut ProfileRule, Problem> {
    let group = policy.group.clone();
    policy.profiles.get_mut(name).ok_or_else(|| missing("profile", name.as_str(), &group))
}

fn remove<T>(
    list: &mut Vec<T>,
    kind: &str,
    name: &str,
    is_it: impl Fn(&T) -> bool,
) -> Result<(), Problem> {
    let before = list.len();
    list.retain(|item| !is_it(item));
    if list.len() < before {
        return Ok(());
    }
    Err(Problem::new(Kind::Usage, "missing", format!("the policy has no {kind} `{name}`"))
        .leaves("nothing changed"))
}

fn missing(kind: &str, name: &str, group: &GroupName) -> Problem {
    Problem::new(Kind::Usage, "missing", format!("the policy of `{group}` has no {kind} `{name}`"))
        .leaves("nothing changed")
        .next(format!("registry group show {group}"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn start() -> Policy {
        let name = |text| GroupName::parse(text).unwrap();
        empty(RealmName::parse("main").unwrap(), name("eu"), VersionNumber::FIRST)
    }

    #[test]
    fn flags_add_change_and_remove() {
        let mut policy = start();
        let asked = PolicyArgs {
            cache: vec!["https://a.example/".to_owned(), "https://b.example".to_owned()],
            profile: vec![
                "web:exec+none".parse().unwrap(),
                "system:nixos".parse().unwrap(),
                "shop:systemd:user=shop".parse().unwrap(),
                "plain".parse().unwrap(),
            ],
            ..PolicyArgs::default()
        };
        apply(&mut policy, &asked).unwrap();
        policy.to_bytes().unwrap();
        let before = policy.clone();
        let web = ProfileName::parse("web").unwrap();
        let asked = PolicyArgs {
            remove_cache: vec!["https://a.example".to_owned()],
            hold: vec![web.clone()],
            raise_epoch: vec![web],
            ..PolicyArgs::default()
        };
        apply(&mut policy, &asked).unwrap();
        expect![[r#"
            + profile plain: take, activation none, epoch 0
            + profile shop: take, activation systemd, as user shop, epoch 0
            + profile system: take, activation nixos, privileged, epoch 0
            + profile web: take, activation exec or none, epoch 0
            + cache https://a.example with priority 40
            + cache https://b.example with priority 41"#]]
        .assert_eq(&changes(None, &before).join("\n"));
        expect![[r#"
            - profile web: take, activation exec or none, epoch 0
            - cache https://a.example with priority 40
            + profile web: hold, activation exec or none, epoch 1"#]]
        .assert_eq(&changes(Some(&before), &policy).join("\n"));
    }

    #[test]
    fn what_is_not_there_is_told() {
        let shop = ProfileName::parse("shop").unwrap();
        let asked = PolicyArgs { stop: vec![shop], ..PolicyArgs::default() };
        assert_eq!(apply(&mut start(), &asked).unwrap_err().code, "missing");
        for text in ["", "web:docker", "web:exec:root", "web:exec:user=", "Web"] {
            assert!(text.parse::<ProfileArg>().is_err(), "{text}");
        }
    }
}
