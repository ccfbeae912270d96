//! Which target paths a role may hold.
//!
//! A pattern is `G/P`: G a group or `*`, P a profile, or the beginning of one followed by `*`.
//! There is no bare `*` for P, and `*` stands for letters of names only, so that no wildcard ever
//! reaches `_policy`, which is delegated by its literal path alone.

use std::fmt;
use std::str::FromStr;

use super::metadata::TOP_LEVEL;
use crate::id::{GroupName, IdError, POLICY, ProfileName, RoleName, TargetPath};

/// Why a pattern, a path or a delegation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Not of the form `G/P`.
    #[error(
        "`{0}` is not a pattern: want `GROUP/PROFILE`, where GROUP may be `*` and PROFILE may end in `*`"
    )]
    Pattern(String),
    /// No group, profile, target path or role has this name.
    #[error(transparent)]
    Name(#[from] IdError),
    /// This role cannot delegate to that one.
    #[error("role `{delegator}` cannot delegate to role `{role}`")]
    Delegator {
        /// Who delegates.
        delegator: String,
        /// To whom.
        role: String,
    },
    /// An `owners` role with anything but its own policy.
    #[error("role `owners.{group}` may hold exactly `{group}/_policy`")]
    Owners {
        /// The group.
        group: String,
    },
    /// A policy in the hands of a role that is not its owners'.
    #[error("`{pattern}` is only for the role `owners.GROUP`, not for `{role}`")]
    Policy {
        /// The role.
        role: String,
        /// The pattern.
        pattern: String,
    },
    /// Two delegations could match one path.
    #[error("`{first}` of role `{first_role}` and `{second}` of role `{second_role}` overlap")]
    Overlap {
        /// The earlier role.
        first_role: String,
        /// Its pattern.
        first: String,
        /// The later role.
        second_role: String,
        /// Its pattern.
        second: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Any,
    Named(GroupName),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Profile {
    Named(ProfileName),
    /// A beginning of a name is itself one.
    Beginning(ProfileName),
    Policy,
}

/// A set of target paths, `G/P`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    group: Group,
    profile: Profile,
}

impl Pattern {
    /// Returns the pattern of one group's policy.
    #[must_use]
    pub const fn policy(group: GroupName) -> Self {
        Self { group: Group::Named(group), profile: Profile::Policy }
    }

    /// Tells whether a role with this pattern may hold `path`.
    #[must_use]
    pub fn matches(&self, path: &TargetPath) -> bool {
        let group_fits = match &self.group {
            Group::Any => true,
            Group::Named(name) => name == path.group(),
        };
        let profile_fits = match (&self.profile, path.profile()) {
            (Profile::Named(name), Some(profile)) => name == profile,
            (Profile::Beginning(beginning), Some(profile)) => begins(profile, beginning),
            (Profile::Policy, None) => true,
            (Profile::Policy, Some(_)) | (Profile::Named(_) | Profile::Beginning(_), None) => false,
        };
        group_fits && profile_fits
    }

    /// Tells whether some path matches both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let groups = match (&self.group, &other.group) {
            (Group::Named(one), Group::Named(two)) => one == two,
            (Group::Any, _) | (_, Group::Any) => true,
        };
        let profiles = match (&self.profile, &other.profile) {
            (Profile::Policy, Profile::Policy) => true,
            (Profile::Policy, _) | (_, Profile::Policy) => false,
            (Profile::Named(one), Profile::Named(two)) => one == two,
            (Profile::Named(name), Profile::Beginning(beginning))
            | (Profile::Beginning(beginning), Profile::Named(name)) => begins(name, beginning),
            (Profile::Beginning(one), Profile::Beginning(two)) => {
                begins(one, two) || begins(two, one)
            }
        };
        groups && profiles
    }

    fn is_policy(&self) -> bool {
        self.profile == Profile::Policy
    }
}

fn begins(name: &ProfileName, beginning: &ProfileName) -> bool {
    name.as_str().starts_with(beginning.as_str())
}

impl FromStr for Pattern {
    type Err = FenceError;

    fn from_str(text: &str) -> Result<Self, FenceError> {
        let refused = || FenceError::Pattern(text.to_owned());
        let (group, last) = text.split_once('/').ok_or_else(refused)?;
        let group = match group {
            "*" => Group::Any,
            name => Group::Named(GroupName::parse(name).map_err(|_| refused())?),
        };
        let name = |text| ProfileName::parse(text).map_err(|_| refused());
        let profile = match last.strip_suffix('*') {
            Some(beginning) => Profile::Beginning(name(beginning)?),
            None if last == POLICY && group != Group::Any => Profile::Policy,
            None => Profile::Named(name(last)?),
        };
        Ok(Self { group, profile })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Group::Any => f.write_str("*/")?,
            Group::Named(name) => write!(f, "{name}/")?,
        }
        match &self.profile {
            Profile::Named(name) => write!(f, "{name}"),
            Profile::Beginning(beginning) => write!(f, "{beginning}*"),
            Profile::Policy => f.write_str(POLICY),
        }
    }
}

/// What a role's name says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleKind {
    /// One of TUF's four.
    TopLevel,
    /// The owners of this group.
    Owners(GroupName),
    /// A team.
    Team,
    /// A part of a team, such as its CI.
    Part {
        /// The team, which alone delegates to it.
        team: String,
    },
}

/// Reads a role's name.
///
/// # Errors
/// When no role may have it.
pub fn role_kind(name: &str) -> Result<RoleKind, FenceError> {
    if TOP_LEVEL.contains(&name) {
        return Ok(RoleKind::TopLevel);
    }
    let role = RoleName::parse(name)?;
    Ok(match (role.owned_group(), role.parent()) {
        (Some(group), _) => RoleKind::Owners(group),
        (None, Some(team)) => RoleKind::Part { team: team.to_string() },
        (None, None) => RoleKind::Team,
    })
}

/// Checks one delegation: its names, and that policies go to owners and nothing else does.
///
/// # Errors
/// When it may not be made.
pub fn check_delegation(
    delegator: &str,
    role: &str,
    patterns: &[Pattern],
) -> Result<(), FenceError> {
    let by_targets = delegator == "targets";
    let allowed = match role_kind(role)? {
        RoleKind::TopLevel => false,
        RoleKind::Owners(_) | RoleKind::Team => by_targets,
        RoleKind::Part { team } => delegator == team,
    };
    if !allowed {
        let (delegator, role) = (delegator.to_owned(), role.to_owned());
        return Err(FenceError::Delegator { delegator, role });
    }
    if let RoleKind::Owners(group) = role_kind(role)? {
        if patterns != [Pattern::policy(group.clone())] {
            return Err(FenceError::Owners { group: group.to_string() });
        }
        return Ok(());
    }
    match patterns.iter().find(|pattern| pattern.is_policy()) {
        None => Ok(()),
        Some(pattern) => {
            Err(FenceError::Policy { role: role.to_owned(), pattern: pattern.to_string() })
        }
    }
}

/// Checks that no path could be claimed through two of one role's delegations.
///
/// # Errors
/// Names the first two that overlap.
pub fn check_overlaps<'a>(
    delegations: impl IntoIterator<Item = (&'a str, &'a [Pattern])>,
) -> Result<(), FenceError> {
    let mut earlier: Vec<(&str, &Pattern)> = Vec::new();
    for (role, patterns) in delegations {
        let known = earlier.len();
        for pattern in patterns {
            // Two patterns of one delegation may overlap: they lead to the same role.
            if let Some((first_role, first)) =
                earlier.iter().take(known).find(|(_, other)| other.overlaps(pattern))
            {
                return Err(FenceError::Overlap {
                    first_role: (*first_role).to_owned(),
                    first: first.to_string(),
                    second_role: role.to_owned(),
                    second: pattern.to_string(),
                });
            }
            earlier.push((role, pattern));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_pattern_is_a_group_and_the_beginning_of_a_profile() {
        for text in ["eu-prod/webshop", "*/monitoring", "eu-prod/web*", "*/web-*", "eu/_policy"] {
            assert_eq!(pattern(text).to_string(), text);
        }
        for text in [
            "",
            "a",
            "a/",
            "/a",
            "a/*",
            "*/*",
            "*/_policy",
            "a/_*",
            "a/_policy*",
            "a/_pol",
            "a/b/c",
            "a/b**",
            "a/*b",
            "a*/b",
            "a/b?",
            "a/[b]",
            "**/b",
            "A/b",
            "a/B",
            "a/-b",
            "-a/b",
            "../b",
            "a/..",
            "a/b ",
            "a/b\n",
            "a\\b",
            "ä/b",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
        assert!(format!("a/{}", "b".repeat(40)).parse::<Pattern>().is_ok());
        assert!(format!("a/{}", "b".repeat(41)).parse::<Pattern>().is_err());
    }

    #[test]
    fn a_pattern_matches_what_it_says() {
        for (text, path, expected) in [
            ("eu/web", "eu/web", true),
            ("eu/web", "us/web", false),
            ("eu/web", "eu/web2", false),
            ("*/web", "us/web", true),
            ("eu/web*", "eu/web", true),
            ("eu/web*", "eu/webshop", true),
            ("eu/web*", "eu/we", false),
            ("eu/_policy", "eu/_policy", true),
            ("eu/_policy", "us/_policy", false),
            ("eu/p*", "eu/_policy", false),
        ] {
            let path: TargetPath = path.parse().expect(path);
            assert_eq!(pattern(text).matches(&path), expected, "{text} {path}");
        }
    }

    #[test]
    fn role_names_say_who_delegates_and_what() {
        let check = |delegator: &str, role: &str, patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|text| pattern(text)).collect();
            check_delegation(delegator, role, &patterns)
        };
        assert_eq!(check("targets", "shop", &["eu/web*", "*/shop"]), Ok(()));
        assert_eq!(check("targets", "owners.eu", &["eu/_policy"]), Ok(()));
        assert_eq!(check("shop", "shop.ci", &["eu/webshop"]), Ok(()));
        for (delegator, role, patterns) in [
            ("targets", "root", &["eu/web"][..]),
            ("targets", "targets", &["eu/web"]),
            ("targets", "owners", &["eu/web"]),
            ("targets", "owners.eu", &["us/_policy"]),
            ("targets", "owners.eu", &["eu/_policy", "eu/web"]),
            ("targets", "owners.eu", &[]),
            ("targets", "shop", &["eu/_policy"]),
            ("targets", "shop.ci", &["eu/web"]),
            ("shop", "shop.ci", &["eu/_policy"]),
            ("shop", "other.ci", &["eu/web"]),
            ("shop", "other", &["eu/web"]),
            ("owners.eu", "owners.us", &["us/_policy"]),
            ("targets", "../root", &["eu/web"]),
            ("targets", "1.root", &["eu/web"]),
        ] {
            assert!(check(delegator, role, patterns).is_err(), "{delegator} {role}");
        }
    }

    #[test]
    fn two_roles_may_not_share_a_path() {
        let (one, two) = ([pattern("eu/web*")], [pattern("*/webshop")]);
        let error = check_overlaps([("a", &one[..]), ("b", &two[..])]).expect_err("overlap");
        assert_eq!(error.to_string(), "`eu/web*` of role `a` and `*/webshop` of role `b` overlap");
        let apart = [pattern("eu/api"), pattern("eu/api*")];
        assert_eq!(check_overlaps([("a", &one[..]), ("b", &apart[..])]), Ok(()));
    }

    proptest! {
        /// What two patterns both match is what `overlaps` tells, over every short path.
        #[test]
        fn overlap_means_a_common_path(one in "[ab*]/[ab]{1,2}[*]?", two in "[ab*]/[ab]{1,2}[*]?") {
            let (one, two) = (pattern(&one), pattern(&two));
            let names = ["a", "b", "aa", "ab", "ba", "bb", "aaa", "aba", "baa", "bba"];
            let common = ["a", "b"].iter().any(|group| names.iter().any(|profile| {
                let path = TargetPath::parse(&format!("{group}/{profile}")).expect("a path");
                one.matches(&path) && two.matches(&path)
            }));
            prop_assert_eq!(one.overlaps(&two), common);
        }
    }
}
