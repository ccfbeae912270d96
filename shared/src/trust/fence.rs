//! Which target paths a role may hold.
//!
//! A pattern is `G/P`: G a group or `*`, P a profile, or the beginning of one followed by `*`.
//! There is no bare `*` for P, and `*` stands for letters of names only, so that no wildcard ever
//! reaches `_policy`, which is delegated by its literal path alone.

use std::fmt;
use std::str::FromStr;

/// The last part of a policy's target path.
pub const POLICY: &str = "_policy";

const TOP_LEVEL: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];
const MAX_NAME: usize = 40;

/// Why a pattern, a path or a delegation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Not of the form `G/P`.
    #[error(
        "`{0}` is not a pattern: want `GROUP/PROFILE`, where GROUP may be `*` and PROFILE may end in `*`"
    )]
    Pattern(String),
    /// Not a group and a profile, or a group and `_policy`.
    #[error("`{0}` is not a target path: want `GROUP/PROFILE`")]
    Path(String),
    /// No name that a role may have.
    #[error("`{0}` is not a role name: want `TEAM`, `TEAM.NAME` or `owners.GROUP`")]
    Role(String),
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

/// Tells whether `text` is a name: `[a-z0-9][a-z0-9-]{0,39}`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.is_empty()
        && !text.starts_with('-')
}

/// Checks that `path` is `<group>/<profile>` or `<group>/_policy`.
///
/// # Errors
/// When it is not.
pub fn check_path(path: &str) -> Result<(), FenceError> {
    match path.split_once('/') {
        Some((group, last)) if is_name(group) && (is_name(last) || last == POLICY) => Ok(()),
        Some(_) | None => Err(FenceError::Path(path.to_owned())),
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Any,
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Profile {
    Named(String),
    Beginning(String),
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
    ///
    /// # Errors
    /// When `group` is no name.
    pub fn policy(group: &str) -> Result<Self, FenceError> {
        format!("{group}/{POLICY}").parse()
    }

    /// Tells whether a role with this pattern may hold `path`.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some((group, last)) = path.split_once('/') else { return false };
        let group_fits = match &self.group {
            Group::Any => is_name(group),
            Group::Named(name) => name == group,
        };
        let profile_fits = match &self.profile {
            Profile::Named(name) => name == last,
            Profile::Beginning(beginning) => is_name(last) && last.starts_with(beginning.as_str()),
            Profile::Policy => last == POLICY,
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
            | (Profile::Beginning(beginning), Profile::Named(name)) => {
                name.starts_with(beginning.as_str())
            }
            (Profile::Beginning(one), Profile::Beginning(two)) => {
                one.starts_with(two.as_str()) || two.starts_with(one.as_str())
            }
        };
        groups && profiles
    }

    fn is_policy(&self) -> bool {
        self.profile == Profile::Policy
    }
}

impl FromStr for Pattern {
    type Err = FenceError;

    fn from_str(text: &str) -> Result<Self, FenceError> {
        let refused = || FenceError::Pattern(text.to_owned());
        let (group, last) = text.split_once('/').ok_or_else(refused)?;
        let group = match group {
            "*" => Group::Any,
            name if is_name(name) => Group::Named(name.to_owned()),
            _ => return Err(refused()),
        };
        let profile = match last.strip_suffix('*') {
            Some(beginning) if is_name(beginning) => Profile::Beginning(beginning.to_owned()),
            None if last == POLICY && group != Group::Any => Profile::Policy,
            None if is_name(last) => Profile::Named(last.to_owned()),
            Some(_) | None => return Err(refused()),
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
            Profile::Named(name) => f.write_str(name),
            Profile::Beginning(beginning) => write!(f, "{beginning}*"),
            Profile::Policy => f.write_str(POLICY),
        }
    }
}

/// What a role's name says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleKind<'a> {
    /// One of TUF's four.
    TopLevel,
    /// The owners of this group.
    Owners(&'a str),
    /// A team.
    Team(&'a str),
    /// A part of a team, such as its CI.
    Part {
        /// The team, which alone delegates to it.
        team: &'a str,
    },
}

/// Reads a role's name.
///
/// # Errors
/// When no role may have it.
pub fn role_kind(name: &str) -> Result<RoleKind<'_>, FenceError> {
    let is_team = |text: &str| is_name(text) && text != "owners" && !TOP_LEVEL.contains(&text);
    match name.split_once('.') {
        None if TOP_LEVEL.contains(&name) => Ok(RoleKind::TopLevel),
        None if is_team(name) => Ok(RoleKind::Team(name)),
        Some(("owners", group)) if is_name(group) => Ok(RoleKind::Owners(group)),
        Some((team, part)) if is_team(team) && is_name(part) => Ok(RoleKind::Part { team }),
        Some(_) | None => Err(FenceError::Role(name.to_owned())),
    }
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
        RoleKind::Owners(_) | RoleKind::Team(_) => by_targets,
        RoleKind::Part { team } => delegator == team,
    };
    if !allowed {
        let (delegator, role) = (delegator.to_owned(), role.to_owned());
        return Err(FenceError::Delegator { delegator, role });
    }
    if let RoleKind::Owners(group) = role_kind(role)? {
        if patterns != [Pattern::policy(group)?] {
            return Err(FenceError::Owners { group: group.to_owned() });
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
            ("*/web", "us/x/web", false),
            ("eu/web*", "eu/web", true),
            ("eu/web*", "eu/webshop", true),
            ("eu/web*", "eu/we", false),
            ("eu/web*", "eu/web/x", false),
            ("eu/web*", "eu/web_x", false),
            ("eu/_policy", "eu/_policy", true),
            ("eu/_policy", "us/_policy", false),
            ("eu/p*", "eu/_policy", false),
        ] {
            assert_eq!(pattern(text).matches(path), expected, "{text} {path}");
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
                let path = format!("{group}/{profile}");
                one.matches(&path) && two.matches(&path)
            }));
            prop_assert_eq!(one.overlaps(&two), common);
        }
    }
}
