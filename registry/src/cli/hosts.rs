//! `registry hosts`: what each host last said of itself.

use std::collections::BTreeSet;

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    api::{HostCounts, HostSummary, StreamEvent},
    human,
    id::{GroupName, LabelName, LabelValue},
    problem::Problem,
    report::ProfileReport,
    state_word::StateWord,
    time::Time,
};

use super::{
    Context,
    host::label,
    near, shown,
    watch::{self, Effect, View},
};
use crate::{client::Client, table};

const HEADING: [&str; 7] = ["HOST", "PROFILE", "STATE", "VERSION", "SINCE", "SEEN", "REASON"];

/// List hosts and the state of their profiles, as they last reported it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// In which order
    #[arg(long, value_name = "ORDER", default_value = "name")]
    sort: Sort,
    /// The most hosts that are shown
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Only how many hosts there are in each state
    #[arg(long, conflicts_with_all = ["state", "label", "begin", "sort", "limit", "watch"])]
    counts: bool,
    /// Stay, and tell what changes
    #[arg(long)]
    watch: bool,
}

/// Which hosts are meant; the registry finds them, so that a large fleet is not sent for a few.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Filter {
    /// Only hosts of this group
    pub(super) group: Option<GroupName>,
    /// Only hosts in one of these states, which is that of their worst profile; with `!` in front,
    /// in none of them
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<Choice>,
    /// Only hosts with this label
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Option<(LabelName, LabelValue)>,
    /// Only hosts whose names begin so
    #[arg(long = "name", id = "begin", value_name = "BEGINNING")]
    begin: Option<String>,
}

/// In which order hosts are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By name
    Name,
    /// The worst state first
    State,
    /// Who has been silent for longest first
    Seen,
}

/// A state, or `!` and a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Is(StateWord),
    IsNot(StateWord),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, choice): (_, fn(StateWord) -> Self) = match text.strip_prefix('!') {
            Some(word) => (word, Self::IsNot),
            None => (text, Self::Is),
        };
        word.parse().map(choice).map_err(|_| {
            let words: Vec<&str> = StateWord::ALL.iter().map(|state| state.word()).collect();
            format!("expected one of {}", words.join(", "))
        })
    }
}

impl Filter {
    /// Returns the states that are meant; none where all are.
    fn states(&self) -> Option<BTreeSet<StateWord>> {
        if self.state.is_empty() {
            return None;
        }
        let keeps = |state: &StateWord| {
            let wanted = self.state.contains(&Choice::Is(*state));
            let unwanted = self.state.contains(&Choice::IsNot(*state));
            let any_wanted = self.state.iter().any(|choice| matches!(choice, Choice::Is(_)));
            !unwanted && (wanted || !any_wanted)
        };
        Some(StateWord::ALL.into_iter().filter(keeps).collect())
    }

    /// Returns it as the API asks for it.
    fn query(&self) -> Vec<(&'static str, String)> {
        let words = |states: BTreeSet<StateWord>| {
            states.iter().map(StateWord::to_string).collect::<Vec<_>>().join(",")
        };
        let query = [
            ("group", self.group.as_ref().map(ToString::to_string)),
            ("state", self.states().map(words)),
            ("label", self.label.as_ref().map(|(name, value)| format!("{name}:{value}"))),
            ("q", self.begin.clone()),
        ];
        query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Says whether a host is one of those that are meant.
    fn is(&self, host: &HostSummary) -> bool {
        // The registry lists nobody whose reports do not count any more.
        let code = host.reason.as_ref().map(|reason| reason.code.as_str());
        !matches!(code, Some("revoked" | "replaced"))
            && self.group.as_ref().is_none_or(|group| host.groups.contains(group))
            && self.states().is_none_or(|states| states.contains(&host.state))
            && self.label.as_ref().is_none_or(|(name, value)| host.labels.get(name) == Some(value))
            && self.begin.as_ref().is_none_or(|begin| host.name.as_str().starts_with(begin))
    }

    fn asks_for_all(&self) -> bool {
        self.state.is_empty() && self.label.is_none() && self.begin.is_none()
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
    fn own(&self) -> Option<&ProfileReport> {
        self.profile.filter(|_| self.host.state != StateWord::Stale)
    }

    fn state(&self) -> StateWord {
        self.own().map_or(self.host.state, |profile| profile.state)
    }

    fn since(&self) -> Option<Time> {
        self.own().map_or(self.host.since, |profile| Some(profile.since))
    }
}

/// Prints the list.
pub(crate) async fn run(args: Args, context: &Context<'_>) -> Result<(), Problem> {
    let client = Client::of(&context.settings)?;
    let all = counts(&client, &args.filter).await?;
    if all.hosts == 0
        && let Some(group) = &args.filter.group
    {
        near::known_group(&client, group).await?;
    }
    if args.counts {
        return count(&all, context);
    }
    let is_watched = args.watch;
    let mut found = Found { client, args, counts: all, hosts: Vec::new() };
    if is_watched {
        let group = found.args.filter.group.as_ref();
        let which = group.map(|group| ("group", group.to_string())).into_iter().collect();
        return watch::watch(&found.client.clone(), which, found, context).await;
    }
    found.ask().await?;
    context.output.data(&found.text(Timestamp::now()), &found.json())?;
    if found.counts.hosts == 0 {
        context.output.say("No host has enrolled yet.");
        context.output.say("Next: registry host enroll-token --group GROUP");
    } else if let Some(line) = found.share() {
        context.output.say(&line);
    }
    Ok(())
}

async fn counts(client: &Client, filter: &Filter) -> Result<HostCounts, Problem> {
    let group = filter.group.as_ref().map(|group| ("group", group.to_string()));
    client.get("counts", group.as_slice()).await
}

/// The hosts that were found, as they were last told.
struct Found {
    client: Client,
    args: Args,
    /// Of the whole group, or the whole fleet.
    counts: HostCounts,
    hosts: Vec<HostSummary>,
}

impl Found {
    /// Says how many of all hosts are shown, where that is not all.
    fn share(&self) -> Option<String> {
        let all = usize::try_from(self.counts.hosts).unwrap_or(usize::MAX);
        let of = human::count(all, "host");
        let is_part = self.hosts.len() < all || !self.args.filter.asks_for_all();
        is_part.then(|| format!("{} of {of} shown", self.hosts.len()))
    }

    /// Puts a host where it belongs, as the registry would list it.
    fn put(&mut self, host: &HostSummary) {
        self.hosts.push(host.clone());
        // A stable order of them all: what is equal is by name.
        self.hosts.sort_by(|a, b| a.name.cmp(&b.name));
        match self.args.sort {
            Sort::Name => {}
            Sort::State => self.hosts.sort_by_key(|host| host.state),
            Sort::Seen => self.hosts.sort_by_key(|host| host.reported_at.map(Time::as_second)),
        }
    }
}

impl View for Found {
    async fn ask(&mut self) -> Result<(), Problem> {
        self.counts = counts(&self.client, &self.args.filter).await?;
        let mut query = self.args.filter.query();
        let order = self.args.sort.to_possible_value();
        query.extend(order.map(|order| ("sort", order.get_name().to_owned())));
        let most = self.args.limit.and_then(|limit| usize::try_from(limit).ok());
        let page = self.client.pages("hosts", &query, most.unwrap_or(usize::MAX)).await?;
        self.hosts = page.items;
        Ok(())
    }

    fn apply(&mut self, event: &StreamEvent) -> Effect {
        let Some(host) = &event.host else {
            // Hosts that come or go change how many there are.
            let counts = ["host.enrolled", "host.revoked"].contains(&event.r#type.as_str());
            return if counts { Effect::Ask } else { Effect::None };
        };
        let before = self.hosts.len();
        self.hosts.retain(|known| known.host != host.host);
        let was_shown = self.hosts.len() < before;
        let is_shown = self.args.filter.is(host);
        if is_shown {
            self.put(host);
        }
        match (was_shown || is_shown, self.args.limit) {
            (false, _) => Effect::None,
            (true, None) => Effect::Seen,
            // Who moves up when one goes, only the registry knows.
            (true, Some(_)) => Effect::Ask,
        }
    }

    fn text(&self, now: Timestamp) -> String {
        table(&self.hosts, &self.args.filter, now)
    }

    fn json(&self) -> Value {
        json(&self.hosts, &self.args.filter, &self.counts)
    }
}

/// Prints how many hosts there are in each state, the one that needs somebody's eye first at the top.
fn count(counts: &HostCounts, context: &Context<'_>) -> Result<(), Problem> {
    let rows = counts.states.iter().filter(|(_, hosts)| **hosts > 0);
    let rows: Vec<_> =
        rows.map(|(state, hosts)| [shown::state(*state), hosts.to_string()]).collect();
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

/// Returns the lines of the hosts that were found; of a host in a wanted state, not its profiles in
/// others.
fn lines<'a>(hosts: &'a [HostSummary], filter: &Filter) -> Vec<Line<'a>> {
    let states = filter.states();
    let of_host = |host: &'a HostSummary| {
        let profiles = host.profiles.iter().map(|profile| Line { host, profile: Some(profile) });
        let bare = host.profiles.is_empty().then_some(Line { host, profile: None });
        profiles.chain(bare).collect::<Vec<_>>()
    };
    let mut lines: Vec<Line<'_>> = hosts.iter().flat_map(of_host).collect();
    lines.retain(|line| states.as_ref().is_none_or(|states| states.contains(&line.state())));
    lines
}

fn table(hosts: &[HostSummary], filter: &Filter, now: Timestamp) -> String {
    let lines = lines(hosts, filter);
    if lines.is_empty() {
        return String::new();
    }
    let rows: Vec<[String; 7]> = lines.iter().map(|line| row(line, now)).collect();
    table::render(HEADING, &rows)
}

fn row(line: &Line<'_>, now: Timestamp) -> [String; 7] {
    let host = line.host;
    let (reason, next) = match line.own() {
        Some(profile) => (profile.reason.as_ref(), profile.next.as_ref()),
        None => (host.reason.as_ref(), host.next.as_ref()),
    };
    // The host's own words, which whoever holds the host may have chosen.
    let why = [
        reason.map(|reason| shown::brief(&reason.text)),
        next.map(|next| format!("→ {}", shown::next(host, next))),
    ];
    [
        host.name.to_string(),
        line.profile.map_or_else(String::new, |it| format!("{}/{}", it.group, it.profile)),
        shown::state(line.state()),
        line.profile.map_or_else(String::new, shown::versions),
        line.since().map_or_else(String::new, |since| shown::span(since, now)),
        shown::seen(host, now),
        why.into_iter().flatten().collect::<Vec<_>>().join("  "),
    ]
}

fn json(hosts: &[HostSummary], filter: &Filter, counts: &HostCounts) -> Value {
    let json_line = |line: &Line<'_>| {
        json!({
            "host": line.host.name,
            "id": line.host.host,
            "groups": line.host.groups,
            "labels": line.host.labels,
            "state": line.state(),
            "since": line.since(),
            "reported_at": line.host.reported_at,
            "agent": line.host.agent,
            "reason": line.own().map_or(&line.host.reason, |profile| &profile.reason),
            "next": line.own().map_or(&line.host.next, |profile| &profile.next),
            "profile": line.profile,
        })
    };
    let lines: Vec<_> = lines(hosts, filter).iter().map(json_line).collect();
    json!({"schema": "hosts.v1", "hosts": lines, "of": counts.hosts, "as_of": counts.as_of})
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::cli::examples;

    fn filter(text: &str) -> Filter {
        let state = text.split(',').map(|word| word.parse().unwrap()).collect();
        Filter { state, ..Filter::default() }
    }

    #[test]
    fn a_choice_of_states_includes_or_excludes() {
        let keeps = |text, state| filter(text).states().unwrap().contains(&state);
        assert_eq!(Filter::default().states(), None);
        assert!(keeps("failed,stale", StateWord::Stale));
        assert!(!keeps("failed,stale", StateWord::Converged));
        assert!(!keeps("!converged", StateWord::Converged));
        assert!(keeps("!converged", StateWord::Waiting));
        assert!("conv".parse::<Choice>().is_err());
    }

    #[test]
    fn the_registry_is_asked_for_what_is_wanted_and_no_more() {
        let asked = Filter {
            group: Some("eu-prod".parse().unwrap()),
            label: Some(("region".parse().unwrap(), "eu".parse().unwrap())),
            begin: Some("web-".to_owned()),
            ..filter("!converged,!waiting,failed,stale")
        };
        let query = asked.query();
        let said = |name| query.iter().find(|it| it.0 == name).map(|it| it.1.as_str());
        assert_eq!(said("group"), Some("eu-prod"));
        assert_eq!(said("state"), Some("failed,stale"));
        assert_eq!(said("label"), Some("region:eu"));
        assert_eq!(said("q"), Some("web-"));
        assert!(Filter::default().query().is_empty());
    }

    #[test]
    fn hosts_are_listed_with_why_and_what_next() {
        let hosts = examples::hosts();
        let shown = table(&hosts, &filter("!converged"), examples::now());
        assert!(shown.contains("\u{1b}["), "{shown}");
        let plain = anstream::adapter::strip_str(&shown).to_string();
        expect![[r#"
            HOST    PROFILE  STATE           VERSION    SINCE  SEEN    REASON
            web-21  web/app  ?U stale        #40 → #42  3h     3h ago  no report since 2026-03-01T11:08:20Z  → on web-21: agent status
            web-17  web/app  ↩R rolled_back  #41 → #42  4m     9s ago  http-8080: answered 502  [31m3 times   → on web-17: agent retry app
            web-09  web/app  ⏸P pinned       #41 → #42  2h     8s ago  root, until 18:00: kernel panic  → on web-09: agent unpin app
            web-04  web/app  ↻S switching    #41 → #42  11s    2s ago  restarting 3 units  → on web-04: agent status
        "#]].assert_eq(&plain);
        expect![[r#"
            HOST    PROFILE  STATE           VERSION    SINCE  SEEN    REASON
            web-21  web/app  ?U stale        #40 > #42  3h     3h ago  no report since 2026-03-01T11:08:20Z  > on web-21: agent status
            web-17  web/app  <R rolled_back  #41 > #42  4m     9s ago  http-8080: answered 502  [31m3 times   > on web-17: agent retry app
            web-09  web/app  |P pinned       #41 > #42  2h     8s ago  root, until 18:00: kernel panic  > on web-09: agent unpin app
            web-04  web/app  ~S switching    #41 > #42  11s    2s ago  restarting 3 units  > on web-04: agent status
        "#]].assert_eq(&human::ascii(&plain));
        assert_eq!(table(&hosts[..1], &filter("converged"), examples::now()), "");
    }

    #[test]
    fn programs_get_each_line_with_all_that_is_known_of_it() {
        let counts: HostCounts = examples::answer(json!({
            "hosts": 24, "states": {"converged": 19}, "as_of": "2026-03-01T14:08:20Z"
        }));
        let json = json(&examples::hosts()[1..2], &Filter::default(), &counts);
        expect![[r#"{"as_of":"2026-03-01T14:08:20Z","hosts":[{"agent":"0.1.0","groups":["web"],"host":"web-17","id":"7765622d31377765622d31377765622d31377765622d31377765622d31377765","labels":{"region":"eu"},"next":"agent retry app","profile":{"attempt":null,"group":"web","healthy_since":null,"next":"agent retry app","profile":"app","reason":{"code":"health_failed","text":"http-8080: answered 502 \u001b[31m3 times\u202e"},"running":{"epoch":0,"generation":118,"path":"/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-app-2.9","version":41},"since":"2026-03-01T14:04:20Z","state":"rolled_back","wanted":{"epoch":0,"path":"/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-app-3.0","version":42}},"reason":{"code":"health_failed","text":"http-8080: answered 502 \u001b[31m3 times\u202e"},"reported_at":"2026-03-01T14:08:11Z","since":"2026-03-01T14:04:20Z","state":"rolled_back"}],"of":24,"schema":"hosts.v1"}"#]].assert_eq(&human::plain_json(&json.to_string()));
    }

    #[test]
    fn a_watched_list_follows_what_hosts_say() {
        let client = Client::new("http://127.0.0.1:1", "main").unwrap();
        let args = Args {
            filter: filter("!converged"),
            sort: Sort::State,
            limit: None,
            counts: false,
            watch: true,
        };
        let counts = examples::answer(json!({
            "hosts": 5, "states": {}, "as_of": "2026-03-01T14:08:20Z"
        }));
        let mut found = Found { client, args, counts, hosts: examples::hosts()[2..4].to_vec() };
        let event = |host: &HostSummary| -> StreamEvent {
            examples::answer(json!({
                "number": 1, "type": "host.x", "at": "2026-03-01T14:08:20Z", "host": host,
            }))
        };
        let names = |found: &Found| -> Vec<String> {
            found.hosts.iter().map(|host| host.name.to_string()).collect()
        };
        // One that is worse than all comes first; one that is well again goes; others are not shown.
        assert_eq!(found.apply(&event(&examples::hosts()[1])), Effect::Seen);
        assert_eq!(names(&found), ["web-17", "web-09", "web-04"]);
        let well = HostSummary { state: StateWord::Converged, ..examples::hosts()[2].clone() };
        assert_eq!(found.apply(&event(&well)), Effect::Seen);
        assert_eq!(found.apply(&event(&well)), Effect::None);
        assert_eq!(names(&found), ["web-17", "web-04"]);
        let mut revoked = examples::hosts().remove(0);
        revoked.reason.as_mut().unwrap().code = "revoked".to_owned();
        assert_eq!(found.apply(&event(&revoked)), Effect::None);
        found.args.limit = Some(1);
        assert_eq!(found.apply(&event(&examples::hosts()[3])), Effect::Ask);
    }
}
