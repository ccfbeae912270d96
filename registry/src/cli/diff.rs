//! `registry diff`: what changes from one version of a manifest to another, for all or for one host.

use std::str::FromStr;

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use shared::{
    api::{EntryDiff, GroupDetail, HostDetail, ManifestDetail, ManifestDiff, Publication, Root},
    human,
    id::{GroupName, LabelName, LabelValue, ProfileName, TargetPath},
    problem::{Kind, Problem},
    version::VersionNumber,
};

use super::{Context, near};
use crate::{client::Client, output::joined};

/// Packages that are listed for one kind of hosts.
const PACKAGES: usize = 60;
/// Kinds of hosts that are told in full.
const KINDS: usize = 10;
/// Members of a manifest that differ with every version, or that are told otherwise.
const TOLD_OTHERWISE: [&str; 9] =
    ["format", "realm", "group", "profile", "epoch", "version", "note", "entries", "shards"];

/// Show what changes from one version of a manifest to another
///
/// Without versions: from the version before to the one in force; with `--host`, from what that host
/// runs to the one in force. Ends with 0 if nothing differs, with 1 if something does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group, or the manifest `GROUP/PROFILE`
    #[arg(value_name = "GROUP", required_unless_present = "host")]
    place: Option<Place>,
    /// The version before
    #[arg(value_name = "A", requires = "place", value_parser = version)]
    from: Option<VersionNumber>,
    /// The version after
    #[arg(value_name = "B", value_parser = version)]
    to: Option<VersionNumber>,
    /// What changes for this host
    #[arg(long, value_name = "HOST")]
    host: Option<shared::id::HostName>,
}

/// A group, or one of its manifests.
#[derive(Debug, Clone)]
struct Place {
    group: GroupName,
    profile: Option<ProfileName>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains('/') {
            let group = GroupName::parse(text).map_err(|error| error.to_string())?;
            return Ok(Self { group, profile: None });
        }
        let path: TargetPath = text.parse().map_err(|error| format!("{error}"))?;
        match path {
            TargetPath::Manifest(group, profile) => Ok(Self { group, profile: Some(profile) }),
            TargetPath::Policy(_) => Err("policies are compared by `registry history`".to_owned()),
        }
    }
}

/// Reads a version as people write it.
fn version(text: &str) -> Result<VersionNumber, String> {
    let number = text.strip_prefix('#').unwrap_or(text).parse().ok().and_then(VersionNumber::new);
    number.ok_or_else(|| "a version is a whole number from 1 on".to_owned())
}

/// What is to be compared.
#[derive(Debug)]
struct Wanted {
    group: GroupName,
    profile: ProfileName,
    from: Option<VersionNumber>,
    to: Option<VersionNumber>,
}

/// What came of one comparison.
#[derive(Debug)]
struct Compared {
    diff: ManifestDiff,
    /// How the version after was published.
    published: Option<Publication>,
    /// What else than packages differs.
    settings: Vec<Setting>,
    /// How hosts take the version after.
    activation: Option<String>,
}

/// A member of the manifest that differs.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    name: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl Compared {
    fn differs(&self) -> bool {
        !self.diff.changes.is_empty() || !self.settings.is_empty()
    }
}

/// Prints what differs.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let client = Client::of(&context.settings)?;
    let mut compared = Vec::new();
    for wanted in wanted(&args, &client, context).await? {
        compared.push(compare(&client, wanted, &args).await?);
    }
    let now = Timestamp::now();
    let text: Vec<String> = compared.iter().map(|one| render(one, now)).collect();
    let differs = compared.iter().any(Compared::differs);
    let json: Vec<Value> = compared.iter().map(json).collect();
    let json = json!({"schema": "manifest-diff.v1", "differs": differs, "manifests": json});
    context.output.data(&text.join("\n"), &json)?;
    if !differs {
        return Ok(());
    }
    Err(Problem::new(Kind::Negative, "differs", "they differ").leaves("nothing changed"))
}

/// Finds out what is to be compared.
async fn wanted(
    args: &Args,
    client: &Client,
    context: &Context<'_>,
) -> Result<Vec<Wanted>, Problem> {
    let profiles = match &args.place {
        Some(place) => profiles(place, args.from.is_some(), client).await?,
        None => Vec::new(),
    };
    let (Some(host), None) = (&args.host, args.from) else {
        let wanted = |(group, profile)| Wanted { group, profile, from: args.from, to: args.to };
        return Ok(profiles.into_iter().map(wanted).collect());
    };
    let detail: HostDetail = match client.get(&format!("hosts/{host}"), &[]).await {
        Ok(detail) => detail,
        Err(problem) => return Err(near::host_problem(client, host.as_str(), problem).await),
    };
    let mut found = Vec::new();
    for one in detail.summary.profiles {
        let place = (one.group.clone(), one.profile.clone());
        if args.place.is_some() && !profiles.contains(&place) {
            continue;
        }
        let from = one.running.as_ref().and_then(|running| running.version);
        match (from, &one.wanted) {
            (Some(_), _) => {
                found.push(Wanted { group: place.0, profile: place.1, from, to: args.to });
            }
            (None, Some(wanted)) => context.output.say(&format!(
                "{host} runs nothing of {}/{} yet; it wants #{}: registry host {host} --why",
                place.0, place.1, wanted.version
            )),
            (None, None) => {}
        }
    }
    if found.is_empty() {
        context.output.say(&format!("{host} runs nothing that could be compared."));
    }
    Ok(found)
}

/// Returns the manifests that are meant.
async fn profiles(
    place: &Place,
    must_be_one: bool,
    client: &Client,
) -> Result<Vec<(GroupName, ProfileName)>, Problem> {
    let Place { group, profile } = place;
    let detail: GroupDetail = match client.get(&format!("groups/{group}"), &[]).await {
        Ok(detail) => detail,
        Err(problem) => return Err(near::group_problem(client, group, problem).await),
    };
    let known = detail.summary.profiles;
    let list = format!("registry group show {group}");
    if let Some(profile) = profile {
        if !known.contains(profile) {
            let names = known.iter().map(ProfileName::as_str);
            return Err(near::no("no_profile", "profile", profile.as_str(), names, &list));
        }
        return Ok(vec![(group.clone(), profile.clone())]);
    }
    if known.is_empty() {
        let what = format!("nothing is in force for group `{group}`");
        return Err(Problem::new(Kind::Usage, "no_manifest", what)
            .leaves("nothing changed")
            .next(format!("registry publish manifest {group}/PROFILE PATH")));
    }
    if must_be_one && known.len() > 1 {
        let names: Vec<String> = known.iter().map(|it| format!("`{group}/{it}`")).collect();
        let what = format!("group `{group}` has several profiles, each with versions of its own");
        return Err(Problem::new(Kind::Usage, "several_profiles", what)
            .leaves("nothing changed")
            .fix(format!("say which: {}", names.join(", "))));
    }
    Ok(known.into_iter().map(|profile| (group.clone(), profile)).collect())
}

async fn compare(client: &Client, wanted: Wanted, args: &Args) -> Result<Compared, Problem> {
    let Wanted { group, profile, from, to } = wanted;
    let asked = [
        ("profile", Some(profile.to_string())),
        ("from", from.map(|it| it.to_string())),
        ("to", to.map(|it| it.to_string())),
        ("host", args.host.as_ref().map(ToString::to_string)),
    ];
    let asked: Vec<_> =
        asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let next = format!("registry history {group}/{profile}");
    let diff = client.get::<ManifestDiff>(&format!("groups/{group}/diff"), &asked).await;
    let diff = diff.map_err(|problem| match problem.code.as_str() {
        // The group and the profile are there: it is a version that is not.
        "not_found" => Problem { kind: Kind::Usage, ..problem }.next(next),
        _ => problem,
    })?;
    let mut manifests = Vec::new();
    for it in [diff.from.as_ref(), Some(&diff.to)] {
        let Some(it) = it else {
            manifests.push(None);
            continue;
        };
        let path = format!("groups/{group}/manifests/{profile}/{}", it.version);
        let epoch = [("epoch", it.epoch.to_string())];
        manifests.push(Some(client.get::<ManifestDetail>(&path, &epoch).await?));
    }
    let after = manifests.pop().flatten();
    let before = manifests.pop().flatten();
    let content = |it: &Option<ManifestDetail>| it.as_ref().and_then(|it| it.manifest.clone());
    let (old, new) = (content(&before), content(&after));
    Ok(Compared {
        settings: settings(old.as_ref(), new.as_ref()),
        activation: new.as_ref().and_then(activation),
        published: after.map(|after| after.summary.publication),
        diff,
    })
}

/// Returns what of two manifests differs beside their packages; nothing beside the first one.
fn settings(before: Option<&Value>, after: Option<&Value>) -> Vec<Setting> {
    let (Some(Value::Object(before)), Some(Value::Object(after))) = (before, after) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    for name in names.filter(|name| !TOLD_OTHERWISE.contains(&name.as_str())) {
        walk(name, before.get(name), after.get(name), &mut found);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Finds the members that differ, as deep as both sides have members.
fn walk(name: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Setting>) {
    if before == after {
        return;
    }
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (before, after) {
        for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
            walk(&format!("{name}.{key}"), old.get(key), new.get(key), found);
        }
        return;
    }
    let (before, after) = (before.cloned(), after.cloned());
    found.push(Setting { name: name.to_owned(), before, after });
}

/// Says what a host does beside setting its profile: all that is signed of what restarts.
fn activation(manifest: &Value) -> Option<String> {
    let kind = manifest.pointer("/activation/kind")?.as_str()?;
    let what = match kind {
        "none" => "the profile alone changes, and nothing restarts",
        "exec" => "a program of the closure decides what restarts",
        "systemd" => "units that differ restart; which, each host finds out by itself",
        "nixos" => "the system decides what restarts, and whether the machine must reboot",
        _ => return Some(human::plain(kind)),
    };
    Some(format!("{kind}: {what}"))
}

fn render(compared: &Compared, now: Timestamp) -> String {
    let ManifestDiff { group, profile, from, to, host, changes, same, more, .. } = &compared.diff;
    let before =
        from.as_ref().map_or_else(|| "nothing".to_owned(), |it| format!("#{}", it.version));
    let name = format!("{group}/{profile}").bold().to_string();
    let of_host = host.as_ref().map(|host| format!(" for {host}")).unwrap_or_default();
    let mut text = format!("{name}  {before} → #{}{of_host}\n", to.version);
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<10} {value}\n"));
    if let Some(it) = &compared.published {
        let keys: Vec<String> = it.signers.iter().map(|id| id.chars().take(8).collect()).collect();
        let note = if it.note.is_empty() { String::new() } else { format!(" · {}", it.note) };
        let at = human::ago(it.published_at.into(), now);
        let (role, version, keys) = (&it.role, it.role_version, keys.join(" "));
        line(
            "Published",
            &human::plain(&format!("{at} · role {role} {version}, key {keys}{note}")),
        );
    }
    if let Some(activation) = compared.activation.as_ref().filter(|_| compared.differs()) {
        line("Activation", activation);
    }
    for Setting { name, before, after } in &compared.settings {
        let told = |it: &Option<Value>| it.as_ref().map_or_else(|| "–".to_owned(), value);
        line("Setting", &format!("{}: {} → {}", human::plain(name), told(before), told(after)));
    }
    for change in changes.iter().take(KINDS) {
        text.push_str(&entry(change, changes.len() > 1 || *same > 0));
    }
    let hidden = changes.len().saturating_sub(KINDS) as u64 + more;
    if hidden > 0 {
        text.push_str(&format!(
            "and {hidden} more kinds of hosts: --host HOST tells one of them\n"
        ));
    }
    match (changes.is_empty(), same) {
        (true, 0) => text.push_str("Neither is for this host: it keeps what it runs.\n"),
        (true, _) => text.push_str("Every host keeps what it runs.\n"),
        (false, 0) => {}
        (false, 1) => text.push_str("Hosts of 1 more kind keep what they run.\n"),
        (false, same) => {
            text.push_str(&format!("Hosts of {same} more kinds keep what they run.\n"));
        }
    }
    text
}

/// Writes a value as it stands in the manifest, in one line.
fn value(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    super::shown::brief(&text)
}

/// Writes what changes for the hosts of one kind.
fn entry(change: &EntryDiff, says_whom: bool) -> String {
    let mut text = String::new();
    if says_whom {
        text.push_str(&format!("{}\n", whom(change).bold()));
    }
    let root = |root: &Option<Root>| {
        root.as_ref().map_or_else(|| "nothing".to_owned(), |root| root.path.name().to_owned())
    };
    match (&change.before, &change.after, &change.diff) {
        (Some(_), None, _) => {
            let root = root(&change.before);
            text.push_str(&format!("- {root}: not for them any more; they keep what they run\n"));
        }
        (_, Some(after), None) => text.push_str(&format!(
            "{} → {}, {} paths, {}; --host HOST compares its packages\n",
            root(&change.before),
            after.path.name(),
            after.paths,
            human::size(after.nar_size),
        )),
        (_, _, Some(diff)) => text.push_str(&diff.render(PACKAGES)),
        (None, None, None) => {}
    }
    text
}

/// Says which hosts a change is for.
fn whom(change: &EntryDiff) -> String {
    let label = |(name, value): (&LabelName, &LabelValue)| format!("{name}={value}");
    let labels = change.labels.iter().map(label);
    let mut words: Vec<String> = std::iter::once(change.system.to_string()).chain(labels).collect();
    if !change.hosts.is_empty() {
        let names: Vec<&str> = change.hosts.iter().take(5).map(|host| host.as_str()).collect();
        let more = change.hosts.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        words.push(format!("{}{more}", names.join(", ")));
    }
    words.join(" · ")
}

fn json(compared: &Compared) -> Value {
    let setting = |it: &Setting| json!({"name": it.name, "before": it.before, "after": it.after});
    let settings: Vec<Value> = compared.settings.iter().map(setting).collect();
    let more = json!({
        "differs": compared.differs(),
        "published": compared.published,
        "activation": compared.activation,
        "settings": settings,
    });
    joined(&compared.diff, more)
}

#[cfg(test)]
pub(super) mod tests {
    use expect_test::expect;

    use super::*;
    use crate::cli::examples::{answer, now, path};

    /// A difference of which one kind of hosts sees two packages.
    pub(in crate::cli) fn two_packages() -> Value {
        let package = |name: &str, before: &[&str], after: &[&str], change: &str, size: u64| {
            json!({
                "name": name, "change": change, "before": before, "after": after,
                "size_before": 9_000_000, "size_after": 9_000_000 + size,
            })
        };
        let root = |letter, name| {
            json!({
                "path": path(letter, name), "closure": "0".repeat(64), "paths": 412,
                "nar_size": 2_000_000_000,
            })
        };
        json!({
            "group": "web", "profile": "app",
            "from": {"epoch": 0, "version": 41, "digest": "1".repeat(64)},
            "to": {"epoch": 0, "version": 42, "digest": "2".repeat(64)},
            "host": null, "same": 0, "more": 0, "as_of": "2026-03-01T14:08:20Z",
            "changes": [{
                "system": "x86_64-linux", "hosts": [], "labels": {},
                "before": root('a', "app-2.9"), "after": root('b', "app-3.0"),
                "diff": {
                    "packages": [
                        package("app", &["2.9"], &["3.0"], "changed", 900_000),
                        package("nginx", &["1.27.0"], &["1.27.1"], "changed", 100_000),
                        package("otel-agent", &[], &["0.9"], "added", 200_000),
                    ],
                    "size_before": 2_000_000_000_u64, "size_after": 2_001_200_000_u64,
                    "new_paths": 14, "download": 39_845_888, "download_is_upper_bound": true,
                },
            }],
        })
    }

    fn compared(json: Value) -> Compared {
        let manifest = |kind: &str, url: &str, version: u32| {
            json!({
                "version": version, "note": "x", "entries": [],
                "activation": {"kind": kind, "timeout": 60},
                "health": {"deadline": 60, "checks": {"front": {"http": url}}},
            })
        };
        let (old, new) =
            (manifest("exec", "http://a/", 41), manifest("systemd", "http://a/up", 42));
        Compared {
            diff: answer(json),
            published: Some(answer(json!({
                "target": "web/app", "epoch": 0, "version": 42, "digest": "2".repeat(64),
                "role": "platform", "role_version": 7, "signers": ["9f3c2a11".repeat(8)],
                "published_at": "2026-03-01T14:02:11Z", "note": "security\u{1b}[2J",
            }))),
            settings: settings(Some(&old), Some(&new)),
            activation: activation(&new),
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_difference_tells_packages_settings_and_what_restarts() {
        let compared = compared(two_packages());
        let text = plain(&render(&compared, now()));
        expect![[r#"
            web/app  #41 → #42
            Published  6m 9s ago · role platform 7, key 9f3c2a11 · security [2J
            Activation systemd: units that differ restart; which, each host finds out by itself
            Setting    activation.kind: exec → systemd
            Setting    health.checks.front.http: http://a/ → http://a/up
            ~ app         2.9 → 3.0        +878.9 KiB
            ~ nginx       1.27.0 → 1.27.1  +97.6 KiB
            + otel-agent  0.9              +195.3 KiB
            2 changed, 1 added · closure 1.8 GiB (+1.1 MiB) · a host downloads at most 38.0 MiB in 14 paths
        "#]].assert_eq(&text);
        expect![[r#"
            web/app  #41 > #42
            Published  6m 9s ago - role platform 7, key 9f3c2a11 - security [2J
            Activation systemd: units that differ restart; which, each host finds out by itself
            Setting    activation.kind: exec > systemd
            Setting    health.checks.front.http: http://a/ > http://a/up
            ~ app         2.9 > 3.0        +878.9 KiB
            ~ nginx       1.27.0 > 1.27.1  +97.6 KiB
            + otel-agent  0.9              +195.3 KiB
            2 changed, 1 added - closure 1.8 GiB (+1.1 MiB) - a host downloads at most 38.0 MiB in 14 paths
        "#]].assert_eq(&human::ascii(&text));
        let json = json(&compared);
        assert_eq!((&json["differs"], &json["to"]["version"]), (&true.into(), &42.into()));
        assert_eq!(json["settings"][0]["name"], "activation.kind");
    }

    #[test]
    fn kinds_of_hosts_are_told_apart() {
        let mut json = two_packages();
        let mut other = json["changes"][0].clone();
        other["system"] = "aarch64-linux".into();
        other["hosts"] = json!(["a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7"]);
        other["labels"] = json!({"region": "eu"});
        other["diff"] = Value::Null;
        let mut gone = other.clone();
        gone["after"] = Value::Null;
        json["changes"] = json!([other, gone]);
        json["same"] = 1.into();
        json["more"] = 3.into();
        expect![[r#"
            web/app  #41 → #42
            Published  6m 9s ago · role platform 7, key 9f3c2a11 · security [2J
            Activation systemd: units that differ restart; which, each host finds out by itself
            Setting    activation.kind: exec → systemd
            Setting    health.checks.front.http: http://a/ → http://a/up
            aarch64-linux · region=eu · a-1, a-2, a-3, a-4, a-5 and 2 more
            app-2.9 → app-3.0, 412 paths, 1.8 GiB; --host HOST compares its packages
            aarch64-linux · region=eu · a-1, a-2, a-3, a-4, a-5 and 2 more
            - app-2.9: not for them any more; they keep what they run
            and 3 more kinds of hosts: --host HOST tells one of them
            Hosts of 1 more kind keep what they run.
        "#]]
        .assert_eq(&plain(&render(&compared(json), now())));
    }

    #[test]
    fn a_place_is_a_group_or_a_manifest_and_a_version_may_have_its_sign() {
        assert!("web".parse::<Place>().unwrap().profile.is_none());
        assert_eq!("web/app".parse::<Place>().unwrap().profile.unwrap().as_str(), "app");
        assert!("web/_policy".parse::<Place>().unwrap_err().contains("registry history"));
        assert!("Web".parse::<Place>().is_err());
        assert_eq!(version("#41"), version("41"));
        assert!(version("0").is_err() && version("x").is_err());
    }
}
