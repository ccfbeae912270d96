//! `registry group list` and `show`: which groups there are, what is decided and in force for them.

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::json;
use shared::{
    api::{Fence, GroupDetail, GroupSummary, ManifestSummary},
    human,
    id::{GroupName, ProfileName, RoleName, TargetPath},
    policy::Policy,
    problem::{Kind, Problem},
    trust::{PublicKey, writer::Delegation},
    version::SoftwareVersion,
};

use super::super::{Context, near, shown};
use crate::{policy_edit, roles, table, trusted_realm::TrustedRealm};

/// Lists the groups: what is signed as this signer trusts it, and what the registry counts.
pub(crate) async fn list(context: &Context<'_>) -> Result<(), Problem> {
    let (realm, client) = roles::open(&context.settings).await?;
    let counted = client.pages::<GroupSummary>("groups", &[], usize::MAX).await;
    // A mirror has the signed files, and no hosts.
    let counted = counted.map(|page| page.items).unwrap_or_default();
    let mut rows = Vec::new();
    let mut json = Vec::new();
    for (group, delegation) in owned(&realm)? {
        let version = realm.trusted().pinned_version(&delegation.role);
        let keys: Vec<String> = delegation.ring.keys.iter().map(PublicKey::to_hex).collect();
        let counted = counted.iter().find(|it| it.counts.group == group);
        let profiles: Vec<&str> =
            counted.iter().flat_map(|it| &it.profiles).map(ProfileName::as_str).collect();
        let signed = version.map_or_else(|| "no policy yet".to_owned(), |v| v.to_string());
        rows.push([
            group.to_string(),
            counted.map_or_else(|| "–".to_owned(), |it| it.counts.hosts.to_string()),
            counted.map_or_else(String::new, |it| shown::settled(&it.counts)),
            profiles.join(" "),
            signed,
            format!("{} of {}", delegation.ring.threshold, keys.len()),
        ]);
        json.push(json!({
            "group": group,
            "role": delegation.role,
            "version": version,
            "threshold": delegation.ring.threshold,
            "keys": keys,
            "hosts": counted.map(|it| it.counts.hosts),
            "states": counted.map(|it| &it.counts.states),
            "profiles": profiles,
        }));
    }
    let text = if rows.is_empty() {
        context.output.say("There are no groups yet. Next: registry group create GROUP");
        String::new()
    } else {
        let heading = ["GROUP", "HOSTS", "CONVERGED", "PROFILES", "ROLE VERSION", "OWNERS"];
        table::render(heading, &rows)
    };
    context.output.data(&text, &json!({"schema": "groups.v1", "groups": json}))
}

/// Shows a group, or its policy alone as it is read back by `group edit`.
pub(crate) async fn show(
    group: &GroupName,
    policy_alone: bool,
    context: &Context<'_>,
) -> Result<(), Problem> {
    let (realm, client) = roles::open(&context.settings).await?;
    let path = TargetPath::Policy(group.clone());
    let owned = owned(&realm)?;
    let Some((_, owners)) = owned.iter().find(|(name, _)| name == group) else {
        let names = owned.iter().map(|(name, _)| name.as_str());
        return Err(near::no("no_group", "group", group.as_str(), names, "registry group list"));
    };
    let Some(verified) = realm.target(&path).await? else {
        let what = format!("group `{group}` has no policy yet");
        return Err(Problem::new(Kind::Usage, "no_policy", what)
            .leaves("nothing changed")
            .next(format!("its owners: registry group set {group} …")));
    };
    let policy = Policy::parse(verified.get(), SoftwareVersion::current()).map_err(|error| {
        Problem::from_error(Kind::Trust, "policy", &error).leaves("nothing changed")
    })?;
    if policy_alone {
        let pretty = serde_json::to_string_pretty(&policy).unwrap_or_default();
        let json = json!({"schema": "policy.v1", "policy": policy});
        return context.output.data(&format!("{pretty}\n"), &json);
    }
    let detail = client.get::<GroupDetail>(&format!("groups/{group}"), &[]).await;
    if let Err(problem) = &detail {
        let line = format!("Hosts and manifests are not told here: {}", problem.what);
        context.output.say(&human::plain(&line));
    }
    let detail = detail.ok();
    let text = render(&policy, owners, detail.as_ref(), Timestamp::now());
    let json = json!({
        "schema": "group-show.v1",
        "group": group,
        "policy": policy,
        "role": verified.role(),
        "role_version": verified.role_version(),
        "owners": owners.ring.keys.iter().map(PublicKey::to_hex).collect::<Vec<_>>(),
        "threshold": owners.ring.threshold,
        "hosts": detail.as_ref().map(|it| &it.summary.counts),
        "manifests": detail.as_ref().map(|it| &it.manifests),
        "may_sign": detail.as_ref().map(|it| &it.may_sign),
    });
    context.output.data(&text, &json)
}

/// Returns the groups that have owners.
pub(super) fn owned(realm: &TrustedRealm) -> Result<Vec<(GroupName, Delegation)>, Problem> {
    let targets = realm.trusted().targets().map_err(|error| roles::problem(&error))?;
    let group = |it: Delegation| Some((RoleName::parse(&it.role).ok()?.owned_group()?, it));
    Ok(targets.delegations.into_iter().filter_map(group).collect())
}

fn render(
    policy: &Policy,
    owners: &Delegation,
    detail: Option<&GroupDetail>,
    now: Timestamp,
) -> String {
    let counts = detail.map(|it| &it.summary.counts);
    let hosts = counts.map(|it| {
        let states = shown::states(&it.states, |_| true);
        format!(" · {} · {states}", shown::count(it.hosts, "host"))
    });
    let hosts = hosts.unwrap_or_default();
    let hosts = hosts.trim_end_matches([' ', '·']);
    let mut text = format!("{}{hosts}\n", policy.group.as_str().bold());
    let short = |key: &PublicKey| key.key_id().short().to_owned();
    let keys: Vec<String> = owners.ring.keys.iter().map(short).collect();
    let signers = format!("{} of {} owners: {}", owners.ring.threshold, keys.len(), keys.join(" "));
    text.push_str(&format!("\nPolicy {}, signed by {signers}\n", policy.version));
    for line in policy_edit::changes(None, policy) {
        text.push_str(&format!("  {}\n", human::plain(line.trim_start_matches("+ "))));
    }
    let Some(detail) = detail else { return text };
    let fences: Vec<[String; 3]> = detail.may_sign.iter().map(fence).collect();
    if !detail.manifests.is_empty() {
        let rows: Vec<[String; 6]> = detail.manifests.iter().map(|it| manifest(it, now)).collect();
        let heading = ["IN FORCE", "VERSION", "PUBLISHED", "ROLE", "KEYS", "NOTE"];
        text.push_str(&format!("\n{}", table::render(heading, &rows)));
    }
    if !fences.is_empty() {
        text.push_str(&format!("\n{}", table::render(["ROLE", "MAY SIGN", "SIGNATURES"], &fences)));
    }
    text
}

fn manifest(it: &ManifestSummary, now: Timestamp) -> [String; 6] {
    let published = &it.publication;
    let keys: Vec<String> =
        published.signers.iter().map(|id| id.chars().take(8).collect()).collect();
    [
        published.target.to_string(),
        format!("#{}", published.version),
        human::ago(published.published_at.into(), now),
        format!("{} {}", published.role, published.role_version),
        keys.join(" "),
        shown::brief(&published.note),
    ]
}

fn fence(it: &Fence) -> [String; 3] {
    [it.role.clone(), it.patterns.join(" "), it.threshold.to_string()]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::cli::examples::{answer, now};

    #[test]
    fn a_group_is_told_with_its_policy_what_is_in_force_and_who_may_sign() {
        let mut policy = policy_edit::empty(
            "main".parse().unwrap(),
            "web".parse().unwrap(),
            shared::version::VersionNumber::FIRST,
        );
        policy
            .caches
            .push(shared::policy::Cache { url: "https://a.example".to_owned(), priority: 40 });
        let key = PublicKey::from_hex(&"0".repeat(64).replacen('0', "1", 1)).ok();
        let owners = Delegation {
            role: "owners.web".to_owned(),
            ring: shared::trust::writer::Keyring { keys: key.into_iter().collect(), threshold: 1 },
            patterns: Vec::new(),
        };
        let detail: GroupDetail = answer(json!({
            "group": "web", "hosts": 24, "states": {"converged": 22, "stale": 2},
            "policy": 3, "profiles": ["app"], "rules": null,
            "manifests": [{
                "target": "web/app", "epoch": 0, "version": 42, "digest": "2".repeat(64),
                "role": "platform", "role_version": 7, "signers": ["9f3c2a11".repeat(8)],
                "published_at": "2026-03-01T14:02:11Z", "note": "security\u{1b}[2J",
                "in_force": true, "take": "yes", "files": {"target": "t", "role": "r"},
            }],
            "may_sign": [{"role": "platform", "patterns": ["web/app"], "threshold": 1}],
            "as_of": "2026-03-01T14:08:20Z",
        }));
        let text = render(&policy, &owners, Some(&detail), now());
        expect![[r#"
            web · 24 hosts · 2 stale, 22 converged

            Policy 1, signed by 1 of 1 owners: 325f6eff
              cache https://a.example with priority 40

            IN FORCE  VERSION  PUBLISHED  ROLE        KEYS      NOTE
            web/app   #42      6m 9s ago  platform 7  9f3c2a11  security [2J

            ROLE      MAY SIGN  SIGNATURES
            platform  web/app   1
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&text).to_string());
        assert!(render(&policy, &owners, None, now()).contains("https://a.example"));
    }
}
