//! `registry status`: the fleet at a glance.

use std::collections::BTreeMap;

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use shared::{
    api::{Fleet, Freshness, GroupCounts, HostSummary, StreamEvent},
    human,
    problem::Problem,
    state_word::StateWord,
};

use super::{
    Context, shown,
    watch::{self, Effect, View},
};
use crate::{client::Client, output::joined, table};

/// Groups that are listed; `registry group list` has all.
const GROUPS: usize = 30;

/// Show the fleet at a glance: hosts by state and group, who needs attention, how fresh all of it is
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stay, and tell what changes
    #[arg(long)]
    watch: bool,
}

/// Prints the status.
pub(crate) async fn run(args: &Args, context: &Context<'_>) -> Result<(), Problem> {
    let client = Client::of(&context.settings)?;
    let mut glance = Glance { client: client.clone(), fleet: None };
    if args.watch {
        return watch::watch(&client, Vec::new(), glance, context).await;
    }
    glance.ask().await?;
    context.output.data(&glance.text(Timestamp::now()), &glance.json())
}

/// The fleet as it was last told.
struct Glance {
    client: Client,
    fleet: Option<Fleet>,
}

impl View for Glance {
    async fn ask(&mut self) -> Result<(), Problem> {
        self.fleet = Some(self.client.get("fleet", &[]).await?);
        Ok(())
    }

    fn apply(&mut self, event: &StreamEvent) -> Effect {
        let is_news = event.host.is_some() || event.publication.is_some() || event.entry.is_some();
        if is_news { Effect::Ask } else { Effect::None }
    }

    fn text(&self, now: Timestamp) -> String {
        self.fleet.as_ref().map(|fleet| render(fleet, now)).unwrap_or_default()
    }

    fn json(&self) -> Value {
        joined(&self.fleet, json!({"schema": "status.v1"}))
    }
}

/// Writes the whole screen.
fn render(fleet: &Fleet, now: Timestamp) -> String {
    let hosts = shown::count(fleet.hosts, "host");
    let mut text = format!("{} · {hosts} · as of {}\n", fleet.realm.as_str().bold(), fleet.as_of);
    let states = known(&fleet.states).map(|(state, hosts)| {
        let text = format!("{}{} {hosts} {state}", state.glyph(), state.letter());
        shown::coloured(state, &text)
    });
    let states: Vec<String> = states.collect();
    if !states.is_empty() {
        text.push_str(&format!("{}\n", states.join("  ")));
    }
    text.push_str(&groups(&fleet.groups));
    text.push_str(&attention(fleet, now));
    text.push('\n');
    text.push_str(&freshness(&fleet.freshness, now));
    text
}

/// Returns the states that any host is in, the worst first.
fn known(states: &BTreeMap<StateWord, u64>) -> impl Iterator<Item = (StateWord, u64)> {
    states.iter().filter(|(_, hosts)| **hosts > 0).map(|(state, hosts)| (*state, *hosts))
}

fn groups(groups: &[GroupCounts]) -> String {
    if groups.is_empty() {
        return "\nNo group has hosts yet. Next: registry host enroll-token --group GROUP\n"
            .to_owned();
    }
    let row = |it: &GroupCounts| {
        let others = shown::states(&it.states, |state| state != StateWord::Converged);
        [it.group.to_string(), it.hosts.to_string(), shown::settled(it), others]
    };
    let rows: Vec<[String; 4]> = groups.iter().take(GROUPS).map(row).collect();
    let table = table::render(["GROUP", "HOSTS", "CONVERGED", "OTHERWISE"], &rows);
    let hidden = groups.len() - rows.len();
    let more = match hidden {
        0 => String::new(),
        hidden => format!("and {hidden} more: registry group list\n"),
    };
    format!("\n{table}{more}")
}

/// Lists the hosts that need somebody's eye first, each with the next command.
fn attention(fleet: &Fleet, now: Timestamp) -> String {
    if fleet.needs_attention.is_empty() {
        return String::new();
    }
    let row = |host: &HostSummary| {
        let reason = host.reason.as_ref().map(|reason| shown::brief(&reason.text));
        [
            host.name.to_string(),
            shown::state(host.state),
            host.since.map_or_else(String::new, |since| shown::span(since, now)),
            shown::seen(host, now),
            format!("{}  → registry host {} --why", reason.unwrap_or_default(), host.name),
        ]
    };
    let rows: Vec<[String; 5]> = fleet.needs_attention.iter().map(row).collect();
    let table = table::render(["HOST", "STATE", "SINCE", "SEEN", "REASON"], &rows);
    // The same four states that the registry looks for.
    let needing =
        [StateWord::Untrusted, StateWord::Failed, StateWord::RolledBack, StateWord::Stale];
    let all: u64 = known(&fleet.states)
        .filter_map(|(state, hosts)| needing.contains(&state).then_some(hosts))
        .sum();
    let hidden = all.saturating_sub(rows.len() as u64);
    let more = match hidden {
        0 => String::new(),
        hidden => {
            let states = needing.map(|state| state.to_string()).join(",");
            format!("and {hidden} more: registry hosts --state {states} --sort state\n")
        }
    };
    format!("\n{}\n{table}{more}", format!("Needs attention: {all}").bold())
}

/// Says how fresh what the registry serves and knows is.
fn freshness(fresh: &Freshness, now: Timestamp) -> String {
    let left = Timestamp::from(fresh.expires).duration_since(now);
    let signed = human::ago(fresh.signed_at.into(), now);
    let ends = if left.is_negative() {
        "expired, so no host changes anything".red().bold().to_string()
    } else {
        format!("good for {}", human::span(left))
    };
    let mut text = format!(
        "Signed   timestamp {} {signed}, {ends}; snapshot {}, root {}\n",
        fresh.timestamp, fresh.snapshot, fresh.root
    );
    let oldest = fresh.oldest_report.map(|at| human::ago(at.into(), now));
    text.push_str(&match oldest {
        Some(oldest) => format!("Reports  the oldest that counts came {oldest}\n"),
        None => "Reports  none yet\n".to_owned(),
    });
    if let Some(ahead) = fresh.seen_ahead {
        let said =
            format!("a host has seen timestamp {ahead}: these files may be of an old backup");
        text.push_str(&format!("Behind   {}  → registry recover\n", said.red().bold()));
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::cli::examples;

    fn fleet(hosts: u64, ahead: Option<u64>) -> Fleet {
        let states = json!({"converged": 19, "rolled_back": 1, "stale": 2, "switching": 2});
        let states = if hosts == 0 { json!({}) } else { states };
        let group = |name: &str| json!({"group": name, "hosts": hosts, "states": states});
        examples::answer(json!({
            "realm": "main", "hosts": hosts, "states": states,
            "groups": if hosts == 0 { vec![] } else { vec![group("db"), group("web")] },
            "needs_attention": if hosts == 0 { vec![] } else { examples::hosts()[..2].to_vec() },
            "freshness": {
                "root": 3, "snapshot": 41, "timestamp": 812,
                "signed_at": "2026-03-01T13:20:00Z", "expires": "2026-03-04T13:20:00Z",
                "oldest_report": (hosts > 0).then_some("2026-03-01T14:07:21Z"), "seen_ahead": ahead,
            },
            "as_of": "2026-03-01T14:08:20Z",
        }))
    }

    fn plain(fleet: &Fleet) -> String {
        anstream::adapter::strip_str(&render(fleet, examples::now())).to_string()
    }

    #[test]
    fn a_fleet_is_told_at_a_glance() {
        expect![[r#"
            main · 24 hosts · as of 2026-03-01T14:08:20Z
            ↩R 1 rolled_back  ?U 2 stale  ↻S 2 switching  ✓= 19 converged

            GROUP  HOSTS  CONVERGED  OTHERWISE
            db     24     19 (79 %)  1 rolled_back, 2 stale, 2 switching
            web    24     19 (79 %)  1 rolled_back, 2 stale, 2 switching

            Needs attention: 3
            HOST    STATE           SINCE  SEEN    REASON
            web-21  ?U stale        3h     3h ago  no report since 2026-03-01T11:08:20Z  → registry host web-21 --why
            web-17  ↩R rolled_back  4m     9s ago  http-8080: answered 502  [31m3 times   → registry host web-17 --why
            and 1 more: registry hosts --state untrusted,failed,rolled_back,stale --sort state

            Signed   timestamp 812 48m 20s ago, good for 2d 23h; snapshot 41, root 3
            Reports  the oldest that counts came 59s ago
        "#]].assert_eq(&plain(&fleet(24, None)));
    }

    #[test]
    fn an_empty_realm_says_what_to_do_first_and_an_old_backup_is_told() {
        expect![[r#"
            main · 0 hosts · as of 2026-03-01T14:08:20Z

            No group has hosts yet. Next: registry host enroll-token --group GROUP

            Signed   timestamp 812 48m 20s ago, good for 2d 23h; snapshot 41, root 3
            Reports  none yet
            Behind   a host has seen timestamp 900: these files may be of an old backup  → registry recover
        "#]].assert_eq(&plain(&fleet(0, Some(900))));
    }
}
