//! `agent plan`: what the next round would change, without changing it.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use shared::closure::ClosureIndex;
use shared::human;
use shared::id::{GroupName, ProfileName};
use shared::nix::StorePath;
use shared::problem::{Kind, Problem};
use shared::report::Reason;
use shared::time::Time;
use shared::version::VersionNumber;
use shared::window::Opening;
use store::local::LocalStore;
use store::substitute;

use crate::cli::{Context, Host};
use crate::client::ClosureSource;
use crate::converge::{Closures as _, Order};
use crate::rounds::Rounds;
use crate::state::{Desired, Profile, Wanted, closed};
use crate::windows;

/// Show what the next round would change; ends with 1 if it would change something.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The profiles; all if none are given.
    #[arg(value_name = "PROFILE")]
    profiles: Vec<ProfileName>,
}

#[derive(Serialize)]
struct Planned {
    schema: &'static str,
    profiles: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    group: GroupName,
    profile: ProfileName,
    /// `switch`, `stop` or `keep`.
    action: &'static str,
    reason: Option<Reason>,
    /// When a window opens for it, if none is open.
    until: Option<Time>,
    from: Option<StorePath>,
    to: Option<StorePath>,
    version: Option<VersionNumber>,
    /// Paths of the closure, and those of them that are missing here.
    paths: Option<usize>,
    missing: Option<usize>,
    /// Bytes of the missing paths, unpacked.
    nar_size: Option<u64>,
}

/// Prints the plan.
pub(crate) async fn run(args: PlanArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    let mut rounds = Rounds::new(&host.settings)?;
    let observer: substitute::Observer = Arc::new(|_| ());
    let round = rounds
        .round(Duration::ZERO, &|_| Arc::clone(&observer))
        .await
        .map_err(|error| error.problem())?;
    let (known, closures) = (host.profiles()?, rounds.client().closures());
    let mut rows = Vec::new();
    for order in &round.orders {
        if args.profiles.is_empty() || args.profiles.contains(&order.profile) {
            let running = known.iter().find(|profile| profile.name == order.profile);
            rows.push(plan(&host, order, running, &closures).await?);
        }
    }
    let changes = rows.iter().filter(|row| row.action != "keep").count();
    if context.output.is_json() {
        context.output.json(&Planned { schema: "plan.v1", profiles: rows })?;
    } else {
        for row in &rows {
            context.output.data(&line(row))?;
        }
    }
    if let Some(trouble) = &round.trouble {
        return Err(trouble.problem());
    }
    match changes {
        0 => Ok(()),
        changes => {
            let what = format!("{} would change", human::count(changes, "profile"));
            Err(Problem::new(Kind::Negative, "would_change", what)
                .leaves("nothing changed")
                .next("agent once"))
        }
    }
}

async fn plan(
    host: &Host,
    order: &Order,
    known: Option<&Profile>,
    closures: &ClosureSource,
) -> Result<Row, Problem> {
    let running = known.and_then(|profile| profile.running.as_ref());
    let refused = |wanted: &Wanted| {
        known.and_then(|profile| profile.refused.as_ref()).filter(|r| wanted.version <= r.version)
    };
    let mut row = Row {
        group: order.group.clone(),
        profile: order.profile.clone(),
        action: "keep",
        reason: None,
        until: None,
        from: running.map(|running| running.path.clone()),
        to: None,
        version: None,
        paths: None,
        missing: None,
        nar_size: None,
    };
    let tell = |reason: &crate::state::Reason| {
        Some(Reason { code: reason.code.to_string(), text: reason.text.clone() })
    };
    match &order.desired {
        Desired::Run { wanted } => {
            row.version = Some(wanted.version.version);
            row.to = Some(wanted.path.clone());
            if running.is_some_and(|running| running.satisfies(wanted)) {
                return Ok(row);
            }
            if let Some(refused) = refused(wanted) {
                row.reason = tell(&refused.reason);
                return Ok(row);
            }
            row.action = "switch";
            match closures.closure(wanted.closure).await {
                Ok((index, _)) => count(host, index, &mut row).await?,
                Err(reason) => row.reason = tell(&reason),
            }
        }
        Desired::Stop { reason, .. } => {
            row.action = if running.is_some() { "stop" } else { "keep" };
            row.reason = tell(reason);
        }
        Desired::Keep { reason, .. } | Desired::Freeze { reason } => row.reason = tell(reason),
    }
    let windows = order.windows.as_deref().unwrap_or_default();
    if row.action != "keep"
        && let Opening::Closed { until } = windows::look(windows, Timestamp::now()).switch
    {
        row.until = until.map(Time::from);
        row.reason = row.reason.or_else(|| tell(&closed("switch", until)));
    }
    Ok(row)
}

/// Counts what is missing here; a store that does not exist yet has nothing.
async fn count(host: &Host, index: ClosureIndex, row: &mut Row) -> Result<(), Problem> {
    let root = host.settings.store.root.clone();
    let (paths, nar_size) = (index.len(), index.nar_size());
    let planned = tokio::task::spawn_blocking(move || {
        let store = LocalStore::open_for_reading(&root).ok()?;
        substitute::plan(&store, &[index]).ok()
    });
    let planned =
        planned.await.map_err(|error| Problem::from_error(Kind::Runtime, "worker", &error))?;
    row.paths = Some(paths);
    row.missing = Some(planned.as_ref().map_or(paths, |plan| plan.missing.len()));
    row.nar_size = Some(planned.map_or(nar_size, |plan| plan.nar_size));
    Ok(())
}

fn line(row: &Row) -> String {
    let path = |path: &Option<StorePath>| {
        path.as_ref().map_or("nothing".to_owned(), |path| path.name().to_owned())
    };
    let version = row.version.map_or(String::new(), |version| format!(" #{version}"));
    let mut text = match row.action {
        "switch" => {
            format!("{}  switch{version}  {} → {}", row.profile, path(&row.from), path(&row.to))
        }
        "stop" => format!("{}  stop  {} → nothing", row.profile, path(&row.from)),
        _ => format!("{}  keep{version}  {}", row.profile, path(&row.from)),
    };
    if let (Some(missing), Some(paths), Some(size)) = (row.missing, row.paths, row.nar_size) {
        text.push_str(&format!("  {missing} of {paths} paths missing, {}", human::size(size)));
    }
    if let Some(reason) = &row.reason {
        text.push_str(&format!("  {} [{}]", reason.text, reason.code));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn shows_for_each_profile_what_would_change_and_what_is_in_the_way() {
        let path = |digit: char, name: &str| {
            let hash = "c6kzph7l0dcbfmjap64f0czdafn3b7x";
            Some(StorePath::from_base_name(&format!("{digit}{hash}-{name}")).unwrap())
        };
        let row = |profile: &str, action| Row {
            group: "eu-prod".parse().unwrap(),
            profile: profile.parse().unwrap(),
            action,
            reason: None,
            until: None,
            from: path('1', "webshop-2.9"),
            to: None,
            version: VersionNumber::new(42),
            paths: None,
            missing: None,
            nar_size: None,
        };
        let reason =
            |code: &str, text: &str| Some(Reason { code: code.to_owned(), text: text.to_owned() });
        let rows = [
            Row {
                to: path('2', "webshop-3.0"),
                paths: Some(61),
                missing: Some(24),
                nar_size: Some(40_265_318),
                reason: reason(
                    "window_closed",
                    "no window is open to switch until 2026-03-02T01:00:00Z",
                ),
                ..row("webshop", "switch")
            },
            Row { reason: reason("retired", "the team retired it"), ..row("till", "stop") },
            row("door", "keep"),
        ];
        let text: Vec<String> = rows.iter().map(line).collect();
        expect![[r#"
            webshop  switch #42  webshop-2.9 → webshop-3.0  24 of 61 paths missing, 38.3 MiB  no window is open to switch until 2026-03-02T01:00:00Z [window_closed]
            till  stop  webshop-2.9 → nothing  the team retired it [retired]
            door  keep #42  webshop-2.9"#]].assert_eq(&text.join("\n"));
    }
}
