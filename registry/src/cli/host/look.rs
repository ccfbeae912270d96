//! `registry host HOST`: what the registry knows of one host, why it is not there yet, and what its
//! attempts said.

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};
use shared::{
    api::{HostAttempt, HostDetail, HostSummary, ManifestDiff, ManifestSummary, Page, StreamEvent},
    human,
    id::{GroupName, LabelName, LabelValue},
    problem::Problem,
    report::{Clock, ProfileReport, Report, Wanted},
    state_word::StateWord,
};

use super::super::{
    Context, near, shown,
    watch::{self, Effect, View},
};
use crate::{client::Client, output::joined, table};

/// The commands beside the name of a host, for whoever mistypes one.
const COMMANDS: [&str; 4] = ["enroll-token", "list", "show", "revoke"];
/// Attempts that are listed.
const ATTEMPTS: usize = 5;
/// Lines of the end of an attempt's output that `--why` shows.
const LINES: usize = 12;

/// What of a host is looked at.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Look {
    /// A host: its name, or its id
    #[arg(value_name = "HOST")]
    pub(super) host: Option<String>,
    /// Tell why it is not converged: since when, what changes, what the last attempt said, what next
    #[arg(long, requires = "host")]
    why: bool,
    /// Print what an attempt wrote: the last one, or the one that is named
    #[arg(
        long, value_name = "ATTEMPT", requires = "host", conflicts_with = "why",
        num_args = 0..=1, default_missing_value = "",
    )]
    log: Option<String>,
    /// Stay, and tell what changes
    #[arg(long, requires = "host", conflicts_with = "log")]
    watch: bool,
}

/// Prints what was asked for.
pub(crate) async fn run(look: &Look, host: &str, context: &Context<'_>) -> Result<(), Problem> {
    let client = Client::of(&context.settings)?;
    if !host.bytes().all(|it| it.is_ascii_alphanumeric() || b"-._:".contains(&it)) {
        return Err(near::no("no_host", "host", host, std::iter::empty(), "registry hosts"));
    }
    let detail: HostDetail = match client.get(&format!("hosts/{host}"), &[]).await {
        Ok(detail) => detail,
        Err(problem) => {
            let problem = near::host_problem(&client, host, problem).await;
            return Err(match near::nearest(host, COMMANDS.into_iter()) {
                Some(command) if problem.fix.is_none() => {
                    problem.fix(format!("did you mean the command `registry host {command}`?"))
                }
                Some(_) | None => problem,
            });
        }
    };
    if let Some(attempt) = &look.log {
        return log(&client, &detail, attempt, context).await;
    }
    let is_converged = detail.summary.state == StateWord::Converged;
    let name = detail.summary.name.clone();
    let wants_why = look.why;
    let mut looked = Looked { client, detail, wants_why, attempts: Vec::new(), whys: Vec::new() };
    if look.watch {
        let which = match looked.detail.summary.groups.as_slice() {
            [group] => vec![("group", group.to_string())],
            _ => Vec::new(),
        };
        return watch::watch(&looked.client.clone(), which, looked, context).await;
    }
    looked.gather().await?;
    context.output.data(&looked.text(Timestamp::now()), &looked.json())?;
    if !is_converged && !wants_why {
        context.output.say(&format!("Next: registry host {name} --why"));
    }
    Ok(())
}

/// A host as it was last told.
struct Looked {
    client: Client,
    detail: HostDetail,
    wants_why: bool,
    attempts: Vec<HostAttempt>,
    whys: Vec<Why>,
}

impl Looked {
    /// Asks for what stands beside the host itself.
    async fn gather(&mut self) -> Result<(), Problem> {
        if !self.wants_why {
            let query = [("limit", ATTEMPTS.to_string())];
            let attempts = path(&self.detail, "attempts");
            let page: Page<HostAttempt> = self.client.get(&attempts, &query).await?;
            self.attempts = page.items;
            return Ok(());
        }
        self.whys.clear();
        let HostSummary { state, profiles, .. } = &self.detail.summary;
        for profile in profiles {
            if profile.state != StateWord::Converged || *state == StateWord::Stale {
                self.whys.push(Why::ask(&self.client, &self.detail, profile).await?);
            }
        }
        Ok(())
    }
}

impl View for Looked {
    async fn ask(&mut self) -> Result<(), Problem> {
        let host = format!("hosts/{}", self.detail.summary.host);
        self.detail = self.client.get(&host, &[]).await?;
        self.gather().await
    }

    fn apply(&mut self, event: &StreamEvent) -> Effect {
        let own = &self.detail.summary;
        let is_own = event.host.as_ref().is_some_and(|host| host.host == own.host);
        let published = event.publication.as_ref();
        let wants = published.is_some_and(|it| own.groups.contains(it.target.group()));
        if is_own || wants { Effect::Ask } else { Effect::None }
    }

    fn text(&self, now: Timestamp) -> String {
        let head = head(&self.detail, now);
        if self.wants_why {
            return head + &why(&self.detail, &self.whys, now);
        }
        head + &profiles(&self.detail, now) + &list(&self.attempts, now)
    }

    fn json(&self) -> Value {
        let more = if self.wants_why {
            json!({"schema": "host.v1", "why": self.whys.iter().map(Why::json).collect::<Vec<_>>()})
        } else {
            json!({"schema": "host.v1", "attempts": self.attempts})
        };
        joined(&self.detail, more)
    }
}

/// What a host is, and its freshest statement.
fn head(detail: &HostDetail, now: Timestamp) -> String {
    let host = &detail.summary;
    let groups: Vec<&str> = host.groups.iter().map(GroupName::as_str).collect();
    let name = host.name.as_str().bold().to_string();
    let mut text = format!("{name} · {} · {}\n", shown::state(host.state), groups.join(", "));
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:<9} {value}\n"));
    let report = detail.report.as_ref();
    let agent = host.agent.map(|agent| format!(" · agent {agent}")).unwrap_or_default();
    let facts = report.map(facts).unwrap_or_default();
    line("Seen", &format!("{}{agent}{facts}", shown::seen(host, now)));
    let left = Timestamp::from(detail.not_after).duration_since(now);
    let ends = if left.is_negative() {
        "its certificate has ended".to_owned()
    } else {
        format!("its certificate ends in {}", human::span(left))
    };
    line("Enrolled", &format!("{}; {ends}", human::ago(detail.enrolled_at.into(), now)));
    let label = |(name, value): (&LabelName, &LabelValue)| format!("{name}={value}");
    let labels: Vec<String> = host.labels.iter().map(label).collect();
    if !labels.is_empty() {
        line("Labels", &labels.join(", "));
    }
    if let Some(report) = report {
        let trust = &report.trust;
        let timestamp = trust.timestamp.map_or("nothing yet".to_owned(), |it| it.to_string());
        let signed = trust.signed_at.map(|at| format!(", signed {}", human::ago(at.into(), now)));
        let signed = signed.unwrap_or_default();
        line("Trusts", &format!("root {}, timestamp {timestamp}{signed}", trust.root));
    }
    // The registry's own word on it, where no profile has one.
    let own = host.profiles.is_empty() || host.state == StateWord::Stale;
    if own && let Some(reason) = &host.reason {
        line("Why", &format!("{} [{}]", human::plain(&reason.text), human::plain(&reason.code)));
    }
    if own && let Some(next) = &host.next {
        line("Next", &shown::next(host, next));
    }
    text
}

fn facts(report: &Report) -> String {
    let clock = match report.clock {
        Clock::Synchronized => "clock kept right",
        Clock::Unsynchronized => "clock not kept right",
        Clock::Suspect => "clock wrong",
        Clock::Unknown => "clock unknown",
    };
    let room = |what: &str, free: Option<u64>| {
        free.map(|free| format!(" · {what} {} free", human::size(free))).unwrap_or_default()
    };
    let (store, boot) = (room("store", report.free.store), room("boot", report.free.boot));
    format!(" · {} · {clock}{store}{boot}", report.system)
}

fn profiles(detail: &HostDetail, now: Timestamp) -> String {
    detail.summary.profiles.iter().map(|profile| one(detail, profile, now)).collect()
}

/// Writes what a host says of one profile.
fn one(detail: &HostDetail, profile: &ProfileReport, now: Timestamp) -> String {
    let name = format!("{}/{}", profile.group, profile.profile);
    let since = human::ago(profile.since.into(), now);
    let mut text = format!("\n{}  {} ({since})\n", name.bold(), shown::state(profile.state));
    let mut line = |label: &str, value: &str| text.push_str(&format!("  {label:<9} {value}\n"));
    let running = profile.running.as_ref().map_or("nothing".to_owned(), |running| {
        let version = running.version.map_or("of no manifest".to_owned(), |v| format!("#{v}"));
        format!("{version}  generation {}  {}", running.generation, running.path)
    });
    line("Running", &running);
    if let Some(Wanted { version, path, .. }) = &profile.wanted {
        let path = path.as_ref().map_or("nothing for this host".to_owned(), ToString::to_string);
        line("Wanted", &format!("#{version}  {path}"));
    }
    if let Some(at) = profile.healthy_since {
        line("Healthy", &format!("since {}", human::ago(at.into(), now)));
    }
    if let Some(reason) = &profile.reason {
        line("Why", &format!("{} [{}]", human::plain(&reason.text), human::plain(&reason.code)));
    }
    if let Some(next) = &profile.next {
        line("Next", &shown::next(&detail.summary, next));
    }
    text
}

/// Writes the attempts, the latest first.
fn list(attempts: &[HostAttempt], now: Timestamp) -> String {
    if attempts.is_empty() {
        return String::new();
    }
    let row = |it: &HostAttempt| {
        let wanted = it.wanted.as_ref().map_or_else(String::new, |it| format!("#{}", it.version));
        let reason = it.reason.as_ref().map(|reason| shown::brief(&reason.text));
        [
            human::plain(&it.id),
            format!("{}/{}", it.group, it.profile),
            human::ago(it.since.into(), now),
            wanted,
            shown::state(it.state),
            took(it),
            reason.unwrap_or_default(),
        ]
    };
    let rows: Vec<[String; 7]> = attempts.iter().map(row).collect();
    let heading = ["ATTEMPT", "PROFILE", "ENDED", "WANTED", "OUTCOME", "TOOK", "REASON"];
    format!("\n{}", table::render(heading, &rows))
}

fn took(attempt: &HostAttempt) -> String {
    let seconds: u64 =
        attempt.phases.iter().map(|phase| phase.seconds).fold(0, u64::saturating_add);
    span(seconds)
}

fn span(seconds: u64) -> String {
    human::span(jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
}

/// Prints what an attempt wrote.
async fn log(
    client: &Client,
    detail: &HostDetail,
    attempt: &str,
    context: &Context<'_>,
) -> Result<(), Problem> {
    let name = &detail.summary.name;
    let list: Page<HostAttempt> = client.get(&path(detail, "attempts"), &[]).await?;
    let ids = || list.items.iter().map(|it| it.id.as_str());
    let Some(id) = Some(attempt).filter(|it| !it.is_empty()).or_else(|| ids().next()) else {
        context.output.say(&format!("No attempt of {name} has ended yet."));
        let json = json!({"schema": "attempt.v1", "host": name, "attempt": null});
        return context.output.data("", &json);
    };
    let next = format!("registry host {name}");
    if !id.bytes().all(|it| it.is_ascii_alphanumeric()) {
        return Err(near::no("no_attempt", "attempt", id, ids(), &next));
    }
    let found = client.get::<HostAttempt>(&path(detail, &format!("attempts/{id}")), &[]).await;
    let found = found.map_err(|problem| match problem.code.as_str() {
        "not_found" => near::no("no_attempt", "attempt", id, ids(), &next),
        _ => problem,
    })?;
    let json = json!({"schema": "attempt.v1", "host": name, "attempt": found});
    // What is not the program's own output is talk, so that the output alone can be piped on.
    for line in about(&found, Timestamp::now()).lines() {
        context.output.say(line);
    }
    context.output.data(&output(&found), &json)
}

fn output(attempt: &HostAttempt) -> String {
    let log = human::plain_lines(&attempt.log);
    if log.is_empty() { log } else { format!("{log}\n") }
}

/// Says which attempt it was, and how long each phase of it took.
fn about(attempt: &HostAttempt, now: Timestamp) -> String {
    let wanted = attempt.wanted.as_ref().map(|it| format!(" to #{}", it.version));
    let mut text = format!(
        "Attempt {} of {}/{}{}: {} {}\n",
        human::plain(&attempt.id),
        attempt.group,
        attempt.profile,
        wanted.unwrap_or_default(),
        shown::state(attempt.state),
        human::ago(attempt.since.into(), now),
    );
    let phase = |phase: &shared::api::Phase| {
        format!("{} {}", human::plain(&phase.phase), span(phase.seconds))
    };
    let phases: Vec<String> = attempt.phases.iter().map(phase).collect();
    if !phases.is_empty() {
        text.push_str(&format!("{}\n", phases.join(" → ")));
    }
    if attempt.log.trim().is_empty() {
        text.push_str("It wrote nothing.\n");
    }
    text
}

/// Why a profile is not converged, with what stands behind it.
#[derive(Debug)]
struct Why {
    profile: ProfileReport,
    /// What is published, where the host has not even taken it up.
    in_force: Option<ManifestSummary>,
    /// What lies between what runs and what is wanted.
    change: Option<ManifestDiff>,
    /// The last attempt, with all of its output.
    attempt: Option<HostAttempt>,
}

impl Why {
    async fn ask(
        client: &Client,
        detail: &HostDetail,
        profile: &ProfileReport,
    ) -> Result<Self, Problem> {
        let ProfileReport { group, profile: name, wanted, running, .. } = profile;
        let manifests = format!("groups/{group}/manifests");
        let manifests = or_none(client.get::<Page<ManifestSummary>>(&manifests, &[]).await)?;
        let manifests = manifests.map(|page| page.items).unwrap_or_default();
        let mut manifests = manifests.into_iter();
        let in_force = manifests.find(|it| it.publication.target.profile() == Some(name));
        let from = running.as_ref().and_then(|it| Some((it.epoch?, it.version?)));
        let to = wanted.as_ref().map(|wanted| (wanted.epoch, wanted.version));
        let change = match (from, to) {
            (Some((_, from)), Some((_, to))) if from != to => {
                let query = [
                    ("profile", name.to_string()),
                    ("from", from.to_string()),
                    ("to", to.to_string()),
                    ("host", detail.summary.name.to_string()),
                ];
                // A version that only the host knows of is no reason to tell nothing.
                or_none(client.get(&format!("groups/{group}/diff"), &query).await)?
            }
            (Some(_) | None, _) => None,
        };
        let query = [("target", format!("{group}/{name}")), ("limit", "1".to_owned())];
        let attempts: Page<HostAttempt> = client.get(&path(detail, "attempts"), &query).await?;
        let attempt = attempts.items.into_iter().next();
        Ok(Self { profile: profile.clone(), in_force, change, attempt })
    }

    fn json(&self) -> Value {
        json!({
            "profile": self.profile,
            "in_force": self.in_force,
            "change": self.change,
            "attempt": self.attempt,
        })
    }
}

/// What is not there is told as nothing.
fn or_none<T>(answer: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(problem) if problem.code == "not_found" => Ok(None),
        Err(problem) => Err(problem),
    }
}

fn why(detail: &HostDetail, whys: &[Why], now: Timestamp) -> String {
    if whys.is_empty() && detail.summary.state == StateWord::Converged {
        return "\nIt is converged: all that is wanted of it runs.\n".to_owned();
    }
    whys.iter().map(|why| one_why(detail, why, now)).collect()
}

fn one_why(detail: &HostDetail, why: &Why, now: Timestamp) -> String {
    let mut text = one(detail, &why.profile, now);
    let mut line = |label: &str, value: &str| text.push_str(&format!("  {label:<9} {value}\n"));
    let wanted = why.profile.wanted.as_ref().map(|it| (it.epoch, it.version));
    let published = why.in_force.as_ref().map(|it| &it.publication);
    let newer = published.filter(|it| wanted.is_none_or(|wanted| wanted < (it.epoch, it.version)));
    if let Some(newer) = newer {
        let at = human::ago(newer.published_at.into(), now);
        line(
            "In force",
            &format!("#{}, published {at}; the host has not told of it", newer.version),
        );
    }
    if let Some(change) = why.change.as_ref().and_then(|it| it.changes.first()) {
        match &change.diff {
            Some(diff) => line("Change", &diff.summary()),
            None => line("Change", "too much differs to tell it here"),
        }
    }
    let Some(attempt) = &why.attempt else { return text };
    for (number, said) in about(attempt, now).lines().enumerate() {
        line(if number == 0 { "Last" } else { "" }, said);
    }
    let log = human::plain_lines(&attempt.log);
    let lines: Vec<&str> = log.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    for said in shown {
        line("", &format!("│ {said}"));
    }
    if shown.len() < lines.len() || attempt.log_is_cut {
        let name = &detail.summary.name;
        line("", &format!("All of it: registry host {name} --log {}", human::plain(&attempt.id)));
    }
    text
}

/// Returns where something of a host is asked for; by its id, which is never another's.
fn path(detail: &HostDetail, what: &str) -> String {
    format!("hosts/{}/{what}", detail.summary.host)
}

#[cfg(test)]
mod tests;
