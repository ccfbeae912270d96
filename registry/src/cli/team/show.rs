//! `registry team show`: one team, as this signer trusts it.

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::json;
use shared::{
    human,
    id::TeamName,
    problem::Problem,
    trust::{
        PublicKey,
        fence::Pattern,
        writer::{Delegation, Targets},
    },
};

use super::super::{Context, near};
use crate::{keys::Listed, roles, signer};

/// Prints a team: its fence, its keys, what it has published.
pub(crate) async fn show(team: &TeamName, context: &Context<'_>) -> Result<(), Problem> {
    let (realm, _) = roles::open(&context.settings).await?;
    let targets = realm.trusted().targets().map_err(|error| roles::problem(&error))?;
    let teams = targets.delegations.iter().filter(|it| TeamName::parse(&it.role).is_ok());
    let Some(found) = teams.clone().find(|it| it.role == team.as_str()) else {
        let names = teams.map(|it| it.role.as_str());
        return Err(near::no("no_team", "team", team.as_str(), names, "registry team list"));
    };
    let signed = realm.role(team.as_str()).await?;
    let own = signer::keys(&context.settings).list().map_err(|error| signer::problem(&error))?;
    let text = render(found, signed.as_ref(), &own, Timestamp::now());
    let published = signed.as_ref().map(|signed| {
        let target = |(path, it): (&String, &shared::trust::writer::Target)| {
            (path.clone(), serde_json::Value::from(it.sha256.to_hex()))
        };
        json!({
            "version": signed.header.version,
            "expires": signed.header.expires,
            "targets": signed.targets.iter().map(target).collect::<serde_json::Map<_, _>>(),
            "roles": signed.delegations.iter().map(|it| it.role.as_str()).collect::<Vec<_>>(),
        })
    });
    let json = json!({
        "schema": "team-show.v1",
        "team": team,
        "patterns": found.patterns.iter().map(Pattern::to_string).collect::<Vec<_>>(),
        "threshold": found.ring.threshold,
        "keys": found.ring.keys.iter().map(PublicKey::to_hex).collect::<Vec<_>>(),
        "published": published,
    });
    context.output.data(&text, &json)
}

fn render(team: &Delegation, signed: Option<&Targets>, own: &[Listed], now: Timestamp) -> String {
    let mut text = format!("{}\n", team.role.bold());
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<13}{value}\n"));
    let patterns: Vec<String> = team.patterns.iter().map(Pattern::to_string).collect();
    line("May publish", &patterns.join(" "));
    line("Signed by", &format!("{} of these keys", team.ring.threshold));
    for key in &team.ring.keys {
        let yours = own.iter().find(|own| own.public == *key);
        let yours = yours.map(|own| format!("  yours: {}", own.name)).unwrap_or_default();
        line("", &format!("{}  {}{yours}", key.key_id().short(), key.to_hex()));
    }
    let Some(signed) = signed else {
        line("Published", "nothing yet");
        return text;
    };
    let left = Timestamp::from(signed.header.expires).duration_since(now);
    let ends = if left.is_negative() {
        "expired: hosts take nothing new of it".red().bold().to_string()
    } else {
        format!("valid for {}", human::span(left))
    };
    line("Published", &format!("version {}, {ends}", signed.header.version));
    for (path, target) in &signed.targets {
        line(
            "",
            &format!("{path}  {}", target.sha256.to_hex().chars().take(16).collect::<String>()),
        );
    }
    for role in &signed.delegations {
        let patterns: Vec<String> = role.patterns.iter().map(Pattern::to_string).collect();
        line("", &format!("role {} may publish {}", role.role, patterns.join(" ")));
    }
    text
}
