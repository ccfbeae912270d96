//! What the name and the text of a unit say to us: pure.
//!
//! systemd reads the file itself. We only look for what decides whether the unit is ours to
//! install, whether it is wanted, and how a change of it is to be carried out.

use std::fmt;

use shared::id::ProfileName;

/// Longest name, as systemd has it.
const MAX_NAME: usize = 255;

/// The kinds of units that a profile may bring.
///
/// Mounts, swaps, devices and scopes are named after something of the host's, never after a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Started first, so that nobody who calls is turned away.
    Slice,
    Socket,
    Timer,
    Path,
    Service,
    Target,
}

impl Kind {
    const ALL: [(&'static str, Self); 6] = [
        ("path", Self::Path),
        ("service", Self::Service),
        ("slice", Self::Slice),
        ("socket", Self::Socket),
        ("target", Self::Target),
        ("timer", Self::Timer),
    ];
}

/// The name of a unit that belongs to a profile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnitName {
    text: String,
    kind: Kind,
}

/// Why a name is none that the profile may use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// systemd would not take it, or it is of a kind that no profile may bring.
    #[error("`{0}` is no service, socket, timer, path, target or slice")]
    Kind(String),
    /// It is somebody else's.
    #[error(
        "`{name}` is not the profile's: name it `{profile}.…`, `{profile}_….…` or `{profile}@….…`"
    )]
    Foreign {
        /// The name.
        name: String,
        /// The profile.
        profile: ProfileName,
    },
}

impl UnitName {
    /// Takes a name that `profile` may use: `<profile>.*`, `<profile>_*` or `<profile>@*`.
    ///
    /// The names of profiles never hold `_`, `@` or `.`, so no profile can take another's.
    pub(crate) fn parse(text: &str, profile: &ProfileName) -> Result<Self, NameError> {
        let no_unit = || NameError::Kind(text.chars().take(MAX_NAME).collect());
        let (prefix, suffix) = text.rsplit_once('.').ok_or_else(no_unit)?;
        let kind = Kind::ALL.into_iter().find(|(name, _)| *name == suffix);
        let (_, kind) = kind.ok_or_else(no_unit)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
        if text.len() > MAX_NAME || !prefix.bytes().all(legal) {
            return Err(no_unit());
        }
        let rest = prefix.strip_prefix(profile.as_str());
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '@'])) {
            let (name, profile) = (text.to_owned(), profile.clone());
            return Err(NameError::Foreign { name, profile });
        }
        Ok(Self { text: text.to_owned(), kind })
    }

    /// Returns the whole name.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns its kind.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether only its instances can be started.
    pub(crate) fn is_template(&self) -> bool {
        self.text
            .split_once('@')
            .is_some_and(|(_, rest)| rest.rsplit_once('.').is_some_and(|(i, _)| i.is_empty()))
    }

    /// Returns the template of an instance.
    pub(crate) fn template(&self) -> Option<Self> {
        let (prefix, rest) = self.text.split_once('@')?;
        let (instance, suffix) = rest.rsplit_once('.')?;
        let text = format!("{prefix}@.{suffix}");
        (!instance.is_empty()).then_some(Self { text, kind: self.kind })
    }

    /// Returns the instance of this template with that name.
    fn instance(&self, instance: &str, profile: &ProfileName) -> Option<Self> {
        let (prefix, suffix) = self.text.split_once("@.")?;
        Self::parse(&format!("{prefix}@{instance}.{suffix}"), profile).ok()
    }

    /// Returns the unit of another kind with the same first name.
    pub(crate) fn sibling(&self, kind: Kind) -> Self {
        let prefix = self.text.rsplit_once('.').map_or("", |(prefix, _)| prefix);
        let suffix = Kind::ALL.into_iter().find(|(_, it)| *it == kind).map_or("", |(name, _)| name);
        Self { text: format!("{prefix}.{suffix}"), kind }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How a changed unit that is active gets its new definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnChange {
    /// Stopped by its old definition, started by its new one.
    StopAndStart,
    /// Restarted, all by its new definition: `X-StopIfChanged=false`.
    Restart,
    /// Reloaded: `X-ReloadIfChanged=true`.
    Reload,
    /// Left alone until somebody else restarts it: `X-RestartIfChanged=false`.
    Nothing,
}

/// What the text of a unit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitText {
    /// The units that it wants to be started: itself, or its default instance.
    pub(crate) wanted: Option<UnitName>,
    /// How a change of it is carried out.
    pub(crate) on_change: OnChange,
    /// Whether it does one thing and is done, so that it is not missed when it is not active.
    pub(crate) is_oneshot: bool,
    /// The service that a socket, timer or path starts.
    pub(crate) triggers: Option<String>,
}

impl UnitText {
    /// Reads what we look for; systemd reads the rest.
    pub(crate) fn read(name: &UnitName, text: &str, profile: &ProfileName) -> Self {
        let settings = settings(text);
        let last = |sections: &[&str], key: &str| {
            let found = settings.iter().rev().find(|it| sections.contains(&it.0) && it.1 == key);
            found.map(|it| it.2.as_str())
        };
        // NixOS writes them to `[Service]`; `[Unit]` fits all kinds.
        let is = |key, default| {
            last(&["Unit", "Service", "Socket", "Timer", "Path"], key).map_or(default, is_true)
        };
        let asked = ["WantedBy", "RequiredBy", "UpheldBy"].into_iter().any(|key| {
            // An empty value takes back what was said before.
            last(&["Install"], key).is_some_and(|value| !value.is_empty())
        });
        let wanted = if name.is_template() {
            let instance = last(&["Install"], "DefaultInstance").unwrap_or_default();
            name.instance(instance, profile).filter(|it| !it.is_template())
        } else {
            Some(name.clone())
        };
        let on_change = match name.kind() {
            // Grouping alone, which the reload of the manager takes care of.
            Kind::Slice | Kind::Target => OnChange::Nothing,
            _ if is("X-ReloadIfChanged", false) => OnChange::Reload,
            _ if !is("X-RestartIfChanged", true) => OnChange::Nothing,
            Kind::Service if !is("X-StopIfChanged", true) => OnChange::Restart,
            Kind::Service | Kind::Socket | Kind::Timer | Kind::Path => OnChange::StopAndStart,
        };
        let triggers = match name.kind() {
            Kind::Socket => last(&["Socket"], "Service"),
            Kind::Timer => last(&["Timer"], "Unit"),
            Kind::Path => last(&["Path"], "Unit"),
            Kind::Slice | Kind::Service | Kind::Target => {
                return Self {
                    wanted: wanted.filter(|_| asked),
                    on_change,
                    is_oneshot: last(&["Service"], "Type") == Some("oneshot"),
                    triggers: None,
                };
            }
        };
        let own = name.sibling(Kind::Service).text;
        let triggers = Some(triggers.map_or(own, ToOwned::to_owned));
        Self { wanted: wanted.filter(|_| asked), on_change, is_oneshot: false, triggers }
    }
}

/// Returns section, key and value of each setting.
fn settings(text: &str) -> Vec<(&str, &str, String)> {
    let mut settings: Vec<(&str, &str, String)> = Vec::new();
    let (mut section, mut goes_on) = ("", false);
    for line in text.lines().map(str::trim) {
        // Comments are left out even between the lines of one value.
        if line.starts_with(['#', ';']) || (line.is_empty() && !goes_on) {
            continue;
        }
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        if std::mem::replace(&mut goes_on, more) {
            if let Some((.., value)) = settings.last_mut() {
                value.push(' ');
                value.push_str(part.trim());
            }
        } else if let Some(name) = line.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = part.split_once('=') {
            settings.push((section, key.trim(), value.trim().to_owned()));
        } else {
            // No setting; what it continues is none either.
            settings.push((section, "", String::new()));
        }
    }
    settings
}

/// systemd's own words for yes.
fn is_true(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<UnitName, NameError> {
        UnitName::parse(text, &"web".parse().unwrap())
    }

    #[test]
    fn a_profile_has_the_units_that_bear_its_name_and_no_others() {
        for own in ["web.service", "web_db.socket", "web@.service", "web@a-b.timer", "web_.path"] {
            assert_eq!(name(own).unwrap().as_str(), own);
        }
        for foreign in [
            "db.service",
            "web-shop.service",
            "web-.slice",
            "webshop.service",
            "wEb.service",
            "multi-user.target",
            ".service",
            "user@0.service",
        ] {
            assert!(matches!(name(foreign), Err(NameError::Foreign { .. })), "{foreign}");
        }
        let long = format!("web_{}.service", "x".repeat(300));
        for wrong in [
            "web",
            "web.mount",
            "web.swap",
            "web.scope",
            "web.service.d",
            "web.conf",
            "web/../x.service",
            "web_ü.service",
            "web_ x.service",
            "",
            &long,
        ] {
            assert!(matches!(name(wrong), Err(NameError::Kind(_))), "{wrong}");
        }
    }

    #[test]
    fn templates_and_instances_are_told_apart() {
        let template = name("web@.service").unwrap();
        let instance = name("web@a@b.c.service").unwrap();
        assert!(template.is_template() && template.template().is_none());
        assert!(!instance.is_template());
        assert_eq!(instance.template(), Some(template));
        assert_eq!(name("web.service").unwrap().template(), None);
    }

    fn read(unit: &str, text: &str) -> UnitText {
        UnitText::read(&name(unit).unwrap(), text, &"web".parse().unwrap())
    }

    #[test]
    fn a_unit_is_wanted_if_its_install_section_says_by_whom() {
        let wanted = |unit, text: &str| read(unit, text).wanted.map(|it| it.text);
        let by = "[Install]\nWantedBy=multi-user.target\n";
        assert_eq!(wanted("web.service", by).as_deref(), Some("web.service"));
        assert_eq!(wanted("web.service", "[Unit]\nWantedBy=multi-user.target"), None);
        assert_eq!(wanted("web.service", &format!("{by}WantedBy=\n")), None);
        assert_eq!(wanted("web@.service", by), None);
        let default = format!("{by}DefaultInstance=one");
        assert_eq!(wanted("web@.service", &default).as_deref(), Some("web@one.service"));
        let hostile = format!("{by}DefaultInstance=../../x");
        assert_eq!(wanted("web@.service", &hostile), None);
        let long = "[Install]\n# comment\n WantedBy = \\\n; comment\n  multi-user.target\n";
        assert_eq!(wanted("web.service", long).as_deref(), Some("web.service"));
    }

    #[test]
    fn nixos_words_say_how_a_change_is_carried_out() {
        let on_change = |unit, line: &str| read(unit, &format!("[Service]\n{line}\n")).on_change;
        let service = "web.service";
        assert_eq!(on_change(service, ""), OnChange::StopAndStart);
        assert_eq!(on_change(service, "X-StopIfChanged=false"), OnChange::Restart);
        assert_eq!(on_change(service, "X-RestartIfChanged=no"), OnChange::Nothing);
        assert_eq!(on_change(service, "X-ReloadIfChanged=true"), OnChange::Reload);
        let both = "X-RestartIfChanged=false\nX-ReloadIfChanged=true";
        assert_eq!(on_change(service, both), OnChange::Reload);
        assert_eq!(read(service, "[Unit]\nX-RestartIfChanged=0").on_change, OnChange::Nothing);
        assert_eq!(on_change("web.socket", "X-StopIfChanged=false"), OnChange::StopAndStart);
        assert_eq!(on_change("web.target", ""), OnChange::Nothing);
    }

    #[test]
    fn a_socket_knows_its_service() {
        let triggers = |unit, text: &str| read(unit, text).triggers;
        assert_eq!(triggers("web.socket", "").as_deref(), Some("web.service"));
        let other = "[Socket]\nService=web_other.service";
        assert_eq!(triggers("web.socket", other).as_deref(), Some("web_other.service"));
        assert_eq!(triggers("web.service", other), None);
        assert!(read("web.service", "[Service]\nType=oneshot").is_oneshot);
    }
}
