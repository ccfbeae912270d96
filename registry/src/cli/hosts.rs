//! `registry hosts`: what each host last said of itself.

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::json;
use shared::{
    api::{HostCounts, HostSummary, Page},
    human,
    id::GroupName,
    problem::Problem,
    report::ProfileReport,
    state_word::StateWord,
    time::Time,
};

use super::Context;
use crate::{client::Client, table};

const HEADING: [&str; 7] = ["HOST", "PROFILE", "STATE", "VERSION", "SINCE", "SEEN", "WHY"];
/// How many hosts are asked for at once.
const PAGE: u32 = 500;

/// List hosts and the state of their profiles, as they last reported it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only hosts of this group
    group: Option<GroupName>,
    /// Only profiles in one of these states; with `!` in front, in none of them
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<Filter>,
    /// Only how many hosts there are in each state
    #[arg(long, conflicts_with = "state")]
    counts: bool,
}

/// A state, or `!` and a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    Is(StateWord),
    IsNot(StateWord),
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, filter): (_, fn(StateWord) -> Self) = match text.strip_prefix('!') {
            Some(word) => (word, Self::IsNot),
            None => (text, Self::Is),
        };
        let known = StateWord::ALL.into_iter().find(|state| state.word() == word);
        known.map(filter).ok_or_else(|| {
            let words: Vec<&str> = StateWord::ALL.iter().map(|state| state.word()).collect();
            format!("expected one of {}", words.join(", "))
        })
    }
}

/// One line: a profile of a host, or a host without any.
#[derive(Debug)]
struct Line<'a> {
    host: &'a HostSummary,
    profile: Option<&'a ProfileReport>,
}

impl Line<'_> {
    /// The registry's `stale` outranks whatever an old report says.
    fn state(&self) -> StateWord {
        match self.profile {
            Some(profile) if self.host.state != StateWord::Stale => profile.state,
            Some(_) | None => self.host.state,
        }
    }
}

/// Prints the list.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let realm = crate::trusted_realm::realm_name(&context.settings)?;
    let client = Client::new(&context.settings.registry.value, realm.as_str())?;
    if args.counts {
        return count(&client, args.group.as_ref(), context).await;
    }
    let hosts = all(&client, args.group.as_ref()).await?;
    let lines: Vec<Line<'_>> = hosts.iter().flat_map(lines).collect();
    let shown: Vec<&Line<'_>> =
        lines.iter().filter(|line| keeps(&args.state, line.state())).collect();
    let now = Timestamp::now();
    let rows: Vec<[String; 7]> = shown.iter().map(|line| row(line, now)).collect();
    let mut text = table::render(HEADING, &rows);
    if lines.is_empty() {
        text = String::new();
        context.output.say("No host has enrolled yet.");
        context.output.say("Next: registry host enroll-token --group GROUP");
    } else if shown.len() < lines.len() {
        context.output.say(&format!("{} of {} shown", shown.len(), lines.len()));
    }
    let json: Vec<_> = shown
        .iter()
        .map(|line| {
            json!({
                "host": line.host.name,
                "id": line.host.host,
                "state": line.state(),
                "reported_at": line.host.reported_at,
                "profile": line.profile,
            })
        })
        .collect();
    context.output.data(&text, &json!({"schema": "hosts.v1", "hosts": json}))
}

/// Prints how many hosts there are in each state, the one that needs somebody's eye first at the top.
async fn count(
    client: &Client,
    group: Option<&GroupName>,
    context: &Context<'_>,
) -> Result<(), Problem> {
    let query: Vec<_> = group.map(|group| ("group", group.to_string())).into_iter().collect();
    let counts: HostCounts = client.list("counts", &query).await?;
    let rows = counts.states.iter().filter(|(_, hosts)| **hosts > 0);
    let rows: Vec<_> = rows.map(|(state, hosts)| [coloured(*state), hosts.to_string()]).collect();
    let mut text = table::render(["STATE", "HOSTS"], &rows);
    if counts.hosts == 0 {
        text = String::new();
        context.output.say("There is no such host.");
    }
    let json = json!({
        "schema": "host-counts.v1",
        "hosts": counts.hosts,
        "states": counts.states,
        "as_of": counts.as_of,
    });
    context.output.data(&text, &json)
}

async fn all(client: &Client, group: Option<&GroupName>) -> Result<Vec<HostSummary>, Problem> {
    let mut hosts = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("limit", PAGE.to_string())];
        query.extend(group.map(|group| ("group", group.to_string())));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: Page<HostSummary> = client.list("hosts", &query).await?;
        let empty = page.items.is_empty();
        hosts.extend(page.items);
        match page.next_cursor {
            Some(next) if !empty => cursor = Some(next),
            Some(_) | None => return Ok(hosts),
        }
    }
}

fn lines(host: &HostSummary) -> Vec<Line<'_>> {
    if host.profiles.is_empty() {
        return vec![Line { host, profile: None }];
    }
    host.profiles.iter().map(|profile| Line { host, profile: Some(profile) }).collect()
}

fn keeps(filters: &[Filter], state: StateWord) -> bool {
    let wanted = filters.contains(&Filter::Is(state));
    let unwanted = filters.contains(&Filter::IsNot(state));
    let any_wanted = filters.iter().any(|filter| matches!(filter, Filter::Is(_)));
    !unwanted && (wanted || !any_wanted)
}

fn row(line: &Line<'_>, now: Timestamp) -> [String; 7] {
    let host = line.host;
    let state = line.state();
    let stale = state == StateWord::Stale;
    let (reason, next) = match line.profile {
        Some(profile) if !stale => (profile.reason.as_ref(), profile.next.as_ref()),
        Some(_) | None => (host.reason.as_ref(), host.next.as_ref()),
    };
    let since = match line.profile {
        Some(profile) if !stale => Some(profile.since),
        Some(_) | None => host.since,
    };
    // The host's own words, which whoever holds the host may have chosen.
    let why = [
        reason.map(|reason| human::plain(&reason.text)),
        next.map(|next| format!("→ {}", human::plain(next))),
    ];
    [
        host.name.to_string(),
        line.profile.map_or_else(String::new, |p| format!("{}/{}", p.group, p.profile)),
        coloured(state),
        line.profile.map_or_else(String::new, versions),
        since.map_or_else(String::new, |since| human::span(now.duration_since(moment(since)))),
        host.reported_at.map_or_else(|| "never".to_owned(), |time| human::ago(moment(time), now)),
        why.into_iter().flatten().collect::<Vec<_>>().join("  "),
    ]
}

fn moment(time: Time) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or_default()
}

fn versions(profile: &ProfileReport) -> String {
    let running = profile.running.as_ref().and_then(|running| running.version);
    let wanted = profile.wanted.as_ref().map(|wanted| wanted.version);
    match (running, wanted) {
        (Some(running), Some(wanted)) if running == wanted => running.to_string(),
        (Some(running), Some(wanted)) => format!("{running} → {wanted}"),
        (None, Some(wanted)) => format!("– → {wanted}"),
        (Some(running), None) => running.to_string(),
        (None, None) => "–".to_owned(),
    }
}

fn coloured(state: StateWord) -> String {
    let text = format!("{}{} {state}", state.glyph(), state.letter());
    match state {
        StateWord::Untrusted | StateWord::Failed => text.red().bold().to_string(),
        StateWord::RolledBack | StateWord::Stale => text.red().to_string(),
        StateWord::Pinned | StateWord::Held | StateWord::RebootPending => text.yellow().to_string(),
        StateWord::Confirming | StateWord::Switching | StateWord::Fetching | StateWord::Waiting => {
            text.cyan().to_string()
        }
        StateWord::Converged => text.green().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_filter_includes_or_excludes() {
        let filter = |text: &str| -> Vec<Filter> {
            text.split(',').map(|word| word.parse().unwrap()).collect()
        };
        assert!(keeps(&[], StateWord::Failed));
        assert!(keeps(&filter("failed,stale"), StateWord::Stale));
        assert!(!keeps(&filter("failed,stale"), StateWord::Converged));
        assert!(!keeps(&filter("!converged"), StateWord::Converged));
        assert!(keeps(&filter("!converged"), StateWord::Waiting));
        assert!("conv".parse::<Filter>().is_err());
    }
}
