//! Names: each kind of name is its own type, checked once when it is made.
//!
//! Every name is safe as a path segment and as part of a unit's name: `[a-z0-9][a-z0-9-]{0,39}`.

use std::fmt;

use data_encoding::HEXLOWER;

use crate::nix::Sha256;

/// Longest name in bytes.
pub const MAX_NAME_LEN: usize = 40;

/// What a policy is called where a manifest has its profile.
pub const POLICY: &str = "_policy";

/// TUF's four top-level roles, whose names no team may have.
const TOP_LEVEL: [&str; 4] = ["root", "targets", "snapshot", "timestamp"];

/// First segment of the role that signs a group's policy.
const OWNERS: &str = "owners";

/// Why a text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid {kind}: {rule}", shown(.text))]
pub struct IdError {
    /// What was wanted.
    pub kind: &'static str,
    /// What came.
    pub text: String,
    /// What it should look like.
    pub rule: &'static str,
}

const NAME_RULE: &str = "at most 40 of `a-z`, `0-9` and `-`, not beginning with `-`";

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME_LEN).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-')
}

/// Makes a type for a checked text, with everything that a name needs.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $valid:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the text.
            ///
            /// # Errors
            ///
            /// If it is not of this form.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    return Ok(Self(text.into()));
                }
                Err(IdError { kind: $kind, text: text.to_owned(), rule: $rule })
            }

            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl_text!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

/// Makes text of a type that has `parse` and `Display`, in serde and elsewhere.
macro_rules! impl_text {
    ($name:ident) => {
        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

checked_text!(
    /// A trust domain: one TUF repository, one root of trust.
    RealmName, "realm name", is_name, NAME_RULE
);
checked_text!(
    /// A set of hosts that take the same desired state.
    GroupName, "group name", is_name, NAME_RULE
);
checked_text!(
    /// A named slot on a host with Nix generations.
    ProfileName, "profile name", is_name, NAME_RULE
);
checked_text!(
    /// What a host calls itself.
    HostName, "host name", is_name, NAME_RULE
);
checked_text!(
    /// What a health check is called.
    CheckName, "check name", is_name, NAME_RULE
);
checked_text!(
    /// Whose a read token is.
    TokenName, "token name", is_name, NAME_RULE
);
checked_text!(
    /// The key of a label, such as `region`.
    LabelName, "label name", is_name, NAME_RULE
);
checked_text!(
    /// The value of a label, such as `eu`.
    LabelValue, "label value", is_label_value, "1 to 63 of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`"
);
checked_text!(
    /// A team: a delegated targets role that is neither a sub-role nor an owner.
    TeamName, "team name", is_team, "a name that is no top-level role and not `owners`"
);
checked_text!(
    /// A delegated targets role: `<team>`, `<team>.<name>` or `owners.<group>`.
    RoleName, "role name", is_role, "`<team>`, `<team>.<name>` or `owners.<group>`"
);
checked_text!(
    /// A Nix system, such as `x86_64-linux`.
    System, "system", is_system, "`<cpu>-<kernel>` of `a-z`, `0-9` and `_`"
);
checked_text!(
    /// A system user that a profile's services run as.
    UserName, "user name", is_user, "1 to 31 of `a-z`, `0-9`, `_` and `-`, not beginning with a digit or `-`"
);

impl ProfileName {
    /// Returns the name of the profile that holds the host's own operating system.
    #[must_use]
    pub fn system() -> Self {
        Self("system".into())
    }

    /// Tells whether this is the profile of the host's own operating system.
    #[must_use]
    pub fn is_system(&self) -> bool {
        &*self.0 == "system"
    }
}

impl RoleName {
    /// Returns the role that signs the policy of a group.
    #[must_use]
    pub fn owners(group: &GroupName) -> Self {
        Self(format!("{OWNERS}.{group}").into())
    }

    /// Returns the group whose policy this role signs, if it is such a role.
    #[must_use]
    pub fn owned_group(&self) -> Option<GroupName> {
        let (first, group) = self.0.split_once('.')?;
        if first == OWNERS { GroupName::parse(group).ok() } else { None }
    }

    /// Returns the team that this role is, or is a sub-role of.
    #[must_use]
    pub fn team(&self) -> Option<TeamName> {
        TeamName::parse(self.0.split_once('.').map_or(&*self.0, |(team, _)| team)).ok()
    }

    /// Returns the team that delegated to this role, if it is a sub-role.
    #[must_use]
    pub fn parent(&self) -> Option<TeamName> {
        self.0.split_once('.').and_then(|(team, _)| TeamName::parse(team).ok())
    }
}

impl From<TeamName> for RoleName {
    fn from(team: TeamName) -> Self {
        Self(team.0)
    }
}

fn is_team(text: &str) -> bool {
    is_name(text) && !TOP_LEVEL.contains(&text) && text != OWNERS
}

fn is_role(text: &str) -> bool {
    match text.split_once('.') {
        None => is_team(text),
        Some((first, second)) => (first == OWNERS || is_team(first)) && is_name(second),
    }
}

fn is_label_value(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_system(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        !part.is_empty() && part.bytes().all(allowed)
    };
    text.len() <= MAX_NAME_LEN
        && text.split_once('-').is_some_and(|(cpu, kernel)| part(cpu) && part(kernel))
}

fn is_user(text: &str) -> bool {
    let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let rest = |byte: u8| first(byte) || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 31 && text.bytes().next().is_some_and(first) && text.bytes().all(rest)
}

/// A TUF target path of ours: exactly two segments.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetPath {
    /// `<group>/<profile>`: a manifest.
    Manifest(GroupName, ProfileName),
    /// `<group>/_policy`.
    Policy(GroupName),
}

impl TargetPath {
    /// Parses `<group>/<profile>` or `<group>/_policy`.
    ///
    /// # Errors
    ///
    /// If the text has not exactly two segments that are names.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let parsed = text.split_once('/').and_then(|(group, last)| {
            let group = GroupName::parse(group).ok()?;
            if last == POLICY {
                return Some(Self::Policy(group));
            }
            Some(Self::Manifest(group, ProfileName::parse(last).ok()?))
        });
        let error = || IdError {
            kind: "target path",
            text: text.to_owned(),
            rule: "`<group>/<profile>` or `<group>/_policy`",
        };
        parsed.ok_or_else(error)
    }

    /// Returns the group.
    #[must_use]
    pub const fn group(&self) -> &GroupName {
        match self {
            Self::Manifest(group, _) | Self::Policy(group) => group,
        }
    }

    /// Returns the profile, if this is a manifest.
    #[must_use]
    pub const fn profile(&self) -> Option<&ProfileName> {
        match self {
            Self::Manifest(_, profile) => Some(profile),
            Self::Policy(_) => None,
        }
    }

    /// Returns where the file with this digest is below `targets/`.
    #[must_use]
    pub fn file_name(&self, digest: &Sha256) -> String {
        let last = self.profile().map_or(POLICY, ProfileName::as_str);
        format!("{}/{}.{last}", self.group(), digest.to_hex())
    }
}

impl fmt::Display for TargetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.profile().map_or(POLICY, ProfileName::as_str);
        f.pad(&format!("{}/{last}", self.group()))
    }
}

impl_text!(TargetPath);

/// Makes a type for 32 bytes that are written as 64 hexadecimal digits.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Parses 64 lower-case hexadecimal digits.
            ///
            /// # Errors
            ///
            /// If it is anything else.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|b| b.try_into().ok());
                let rule = "64 lower-case hexadecimal digits";
                bytes.map(Self).ok_or_else(|| IdError { kind: $kind, text: text.to_owned(), rule })
            }
        }

        impl_text!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&HEXLOWER.encode(&self.0))
            }
        }
    };
}

hex_bytes!(
    /// A raw Ed25519 public key: a host's, or an enrolment key's.
    RawKey, "public key"
);
hex_bytes!(
    /// Who a host is: the SHA-256 of its raw public key.
    HostId, "host id"
);
hex_bytes!(
    /// A SHA-256 that names a file of ours.
    Digest, "digest"
);

impl RawKey {
    /// Returns the id of the host that has this key.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        HostId(Sha256::of(&self.0).0)
    }
}

impl Digest {
    /// Returns the digest of the bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::of(bytes).0)
    }
}

impl From<Sha256> for Digest {
    fn from(hash: Sha256) -> Self {
        Self(hash.0)
    }
}

impl From<Digest> for Sha256 {
    fn from(digest: Digest) -> Self {
        Self(digest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_and_never_begin_with_a_dash() {
        let long = "x".repeat(MAX_NAME_LEN);
        for name in ["a", "0", "eu-prod", "a-", "web--1", long.as_str()] {
            assert_eq!(GroupName::parse(name).unwrap().as_str(), name);
        }
        let longer = "x".repeat(MAX_NAME_LEN + 1);
        for name in ["", "-", "-a", "A", "a_b", "a.b", "a/b", "..", "ä", "a\0", "a\n", &longer] {
            assert!(GroupName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_target_has_exactly_two_segments() {
        let target = TargetPath::parse("eu-prod/webshop").unwrap();
        assert_eq!(target.profile().unwrap().as_str(), "webshop");
        assert_eq!(target.to_string(), "eu-prod/webshop");
        let policy = TargetPath::parse("eu-prod/_policy").unwrap();
        assert_eq!(policy, TargetPath::Policy(GroupName::parse("eu-prod").unwrap()));
        for path in
            ["", "a", "a/", "/a", "a/b/c", "a/_other", "_policy/a", "a//b", "../b", "a/../b", "a/*"]
        {
            assert!(TargetPath::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_target_file_is_named_by_its_digest() {
        let digest = Sha256::of(b"");
        let target = TargetPath::parse("eu-prod/_policy").unwrap();
        assert_eq!(target.file_name(&digest), format!("eu-prod/{}._policy", digest.to_hex()));
    }

    #[test]
    fn role_names_keep_teams_owners_and_top_level_roles_apart() {
        let owners = RoleName::parse("owners.eu-prod").unwrap();
        assert_eq!(owners.owned_group().unwrap().as_str(), "eu-prod");
        assert_eq!(owners.team(), None);
        let ci = RoleName::parse("webshop.ci").unwrap();
        assert_eq!(ci.parent().unwrap().as_str(), "webshop");
        assert_eq!(ci.owned_group(), None);
        assert_eq!(RoleName::parse("webshop").unwrap().parent(), None);
        for name in
            ["root", "targets", "snapshot", "timestamp", "owners", "root.ci", "a.b.c", "a.", ".a"]
        {
            assert!(RoleName::parse(name).is_err(), "{name}");
        }
    }

    #[test]
    fn hexadecimal_is_lower_case_and_whole() {
        let text = "0123456789abcdef".repeat(4);
        assert_eq!(Digest::parse(&text).unwrap().to_string(), text);
        for bad in ["", &text[1..], &text.to_uppercase(), &format!("{text}0")] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_words_have_their_own_alphabets() {
        assert!(System::parse("x86_64-linux").is_ok());
        assert!(System::parse("x86_64").is_err());
        assert!(System::parse("x86-64-linux").is_err());
        assert!(UserName::parse("webshop").is_ok());
        assert!(UserName::parse("0").is_err());
        assert!(LabelValue::parse("EU.west_1").is_ok());
        assert!(LabelValue::parse("").is_err());
    }

    #[test]
    fn an_error_shows_no_control_characters() {
        let error = GroupName::parse("a\u{1b}[31m").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}
