//! `agent status`: how this host is, told by its daemon, or from its own disk.

use clap::Args;
use jiff::Timestamp;
use owo_colors::{OwoColorize as _, Style};
use shared::human;
use shared::problem::{Kind, Problem};
use shared::report;
use shared::state_word::StateWord;
use shared::time::Time;

use crate::cli::{Context, Host};
use crate::status::{ProfileStatus, Status};

/// Show what runs, what is wanted, why not yet, and what to do next.
///
/// Asks the daemon if it runs, else the disk, and nobody else: it tells the same with the registry
/// down.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print one line for each profile.
    #[arg(long)]
    oneline: bool,
}

/// Prints the status.
pub(crate) async fn run(args: &StatusArgs, context: &Context) -> Result<(), Problem> {
    let host = Host::open(context)?;
    show(&host.told().await?, args.oneline, context)
}

/// Prints a status as the global flags say.
pub(crate) fn show(status: &Status, oneline: bool, context: &Context) -> Result<(), Problem> {
    if context.output.is_json() {
        return context.output.json(status);
    }
    let now = Timestamp::now();
    let text = if oneline { lines(status) } else { whole(status, now) };
    if text.is_empty() { Ok(()) } else { context.output.data(text.trim_end()) }
}

/// Turns a host that is not as it should be into the exit code of a command that settles it.
pub(crate) fn verdict(status: &Status) -> Result<(), Problem> {
    let not_there = status.profiles.iter().filter(|profile| profile.state != StateWord::Converged);
    let Some(worst) = not_there.min_by_key(|profile| profile.state) else { return Ok(()) };
    let code = worst.reason.as_ref().map_or("not_converged", |reason| reason.code.as_str());
    let kind = match worst.state {
        StateWord::Untrusted => Kind::Trust,
        StateWord::Failed => Kind::Failed,
        StateWord::RolledBack => Kind::RolledBack,
        StateWord::Stale => Kind::Unreachable,
        StateWord::Pinned
        | StateWord::Held
        | StateWord::RebootPending
        | StateWord::Confirming
        | StateWord::Switching
        | StateWord::Fetching
        | StateWord::Waiting
        | StateWord::Converged => kind_of(code),
    };
    let what = format!("`{}` is {}", worst.profile, worst.state);
    let mut problem = Problem::new(kind, code, what).leaves(match &worst.running {
        Some(running) => format!("still running generation {}", running.generation),
        None => "nothing runs, as before".to_owned(),
    });
    if let Some(reason) = &worst.reason {
        problem = problem.because(reason.text.clone());
    }
    if let Some(next) = &worst.next {
        problem = problem.next(next.clone());
    }
    Err(problem)
}

/// What could not be done is no plain "not yet".
fn kind_of(code: &str) -> Kind {
    match code {
        "disk_full" | "store_failed" | "state_failed" => Kind::Runtime,
        "refused_bytes" => Kind::Trust,
        _ => Kind::Negative,
    }
}

fn lines(status: &Status) -> String {
    let mut text = String::new();
    for profile in &status.profiles {
        let word = styled(profile.state);
        let reason = profile.reason.as_ref().map(|reason| reason.code.as_str()).unwrap_or_default();
        let line = format!("{} {word} {} {reason}", profile.profile, versions(profile));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn whole(status: &Status, now: Timestamp) -> String {
    let groups: Vec<&str> = status.groups.iter().map(|group| group.as_str()).collect();
    let mut text = format!("{} · {} · realm {}\n", status.host, groups.join(", "), status.realm);
    for profile in &status.profiles {
        text.push('\n');
        one(&mut text, profile, now);
    }
    text.push('\n');
    about_systems(&mut text, status);
    about_registry(&mut text, status, now);
    about_daemon(&mut text, status, now);
    text
}

fn one(text: &mut String, profile: &ProfileStatus, now: Timestamp) {
    let since = human::ago(profile.since.into(), now);
    let name = profile.profile.as_str().bold().to_string();
    text.push_str(&format!("{name}  {} ({since})\n", styled(profile.state)));
    let mut line = |label: &str, value: String| text.push_str(&format!("  {label:<9} {value}\n"));
    let running = profile.running.as_ref().map_or("nothing".to_owned(), |running| {
        let version = running.version.map_or("of no manifest".to_owned(), |v| format!("#{v}"));
        format!("{version}  generation {}  {}", running.generation, running.path)
    });
    line("Running", running);
    if let Some(wanted) = &profile.wanted {
        let path = wanted.path.as_ref().map(ToString::to_string).unwrap_or_default();
        line("Wanted", format!("#{}  {path}", wanted.version));
    }
    if let Some(reason) = &profile.reason {
        line("Why", format!("{} [{}]", reason.text, reason.code));
    }
    if let Some(until) = profile.until {
        let left = human::span(Timestamp::from(until).duration_since(now));
        line("Until", format!("{until} (in {left})"));
    }
    if let Some(next) = &profile.next {
        line("Next", next.clone());
    }
}

/// Tells the three systems of a machine where they are not one.
fn about_systems(text: &mut String, status: &Status) {
    let Some(report::Systems { running, booted, next_boot }) = &status.systems else { return };
    if running == booted && booted == next_boot {
        return;
    }
    let systems = [("Activated", running), ("Booted", booted), ("Boots next", next_boot)];
    for (label, system) in systems {
        let told = system.as_ref().map_or_else(|| "not known".to_owned(), ToString::to_string);
        text.push_str(&format!("{label:<11} {told}\n"));
    }
}

fn about_registry(text: &mut String, status: &Status, now: Timestamp) {
    let mut line = |label: &str, value: String| text.push_str(&format!("{label:<11} {value}\n"));
    let ago = |time: Option<Time>| time.map_or("never".to_owned(), |at| human::ago(at.into(), now));
    let registry = &status.registry;
    line("Registry", format!("{}  good {}", registry.urls.join(", "), ago(registry.good_at)));
    if let Some(trouble) = &registry.trouble {
        let tries = human::count(usize::try_from(registry.failures).unwrap_or(0), "failed poll");
        line("Trouble", format!("{} [{}]; {tries}", trouble.text, trouble.code));
    }
    for (group, reason) in &registry.groups {
        line("Group", format!("{group}: {} [{}]", reason.text, reason.code));
    }
    if let Some(trust) = &status.trust {
        let expires = trust.expires_at.map_or(String::new(), |at| {
            let left = jiff::Timestamp::from(at).duration_since(now);
            if left.is_negative() {
                "; expired".to_owned()
            } else {
                format!("; expires in {}", human::span(left))
            }
        });
        line("Signed", format!("freshest statement {}{expires}", ago(trust.signed_at)));
    }
    if let Some(free) = status.free {
        line("Space", format!("store {}", human::size(free)));
    }
}

fn about_daemon(text: &mut String, status: &Status, now: Timestamp) {
    let line = match &status.daemon {
        None => "no daemon answers: told from the disk".to_owned(),
        Some(daemon) => {
            let next = daemon.next_poll.map_or(String::new(), |at| {
                let left = Timestamp::from(at).duration_since(now);
                let left = left.max(jiff::SignedDuration::ZERO);
                format!("; asks the registry in {}", human::span(left))
            });
            format!("pid {}, since {}{next}", daemon.pid, human::ago(daemon.since.into(), now))
        }
    };
    text.push_str(&format!("{:<11} {line}\n", "Daemon"));
}

/// Returns the versions, and the generation that runs.
fn versions(profile: &ProfileStatus) -> String {
    let generation = profile.running.as_ref().map(|running| running.generation);
    let generation = generation.map_or(String::new(), |number| format!(" generation {number}"));
    format!("{}{generation}", profile.versions())
}

/// Glyph, letter and word, so that colour is never the only signal.
fn styled(state: StateWord) -> String {
    let style = match state {
        StateWord::Untrusted | StateWord::Failed => Style::new().red().bold(),
        StateWord::RolledBack | StateWord::Stale => Style::new().red(),
        StateWord::Pinned | StateWord::Held | StateWord::RebootPending => Style::new().yellow(),
        StateWord::Confirming | StateWord::Switching | StateWord::Fetching => Style::new().cyan(),
        StateWord::Waiting => Style::new().yellow(),
        StateWord::Converged => Style::new().green(),
    };
    let text = format!("{}{} {state}", state.glyph(), state.letter());
    text.style(style).to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// A host with a profile that its operator holds back, and one that went back by itself.
    const STATUS: &str = r#"{"schema":"status.v1","host":"web-09","realm":"main","groups":["eu-prod"],
        "state":"rolled_back","profiles":[
        {"group":"eu-prod","profile":"webshop","state":"pinned","since":"2026-03-01T11:00:00Z",
         "until":"2026-03-01T18:00:00Z","reason":{"code":"pinned","text":"kernel panic"},
         "next":"agent unpin webshop",
         "wanted":{"epoch":0,"version":42,"path":"/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-webshop-3.0"},
         "running":{"epoch":0,"version":41,"path":"/nix/store/1c6kzph7l0dcbfmjap64f0czdafn3b7x-webshop-2.9",
          "generation":118},"healthy_since":"2026-02-26T09:12:00Z"},
        {"group":"eu-prod","profile":"till","state":"rolled_back","since":"2026-03-01T14:04:20Z",
         "until":null,"reason":{"code":"health_failed","text":"front: answered 502 3 times"},
         "next":"agent retry till",
         "wanted":{"epoch":0,"version":8,"path":"/nix/store/2c6kzph7l0dcbfmjap64f0czdafn3b7x-till-8"},
         "running":{"epoch":0,"version":7,"path":"/nix/store/3c6kzph7l0dcbfmjap64f0czdafn3b7x-till-7",
          "generation":12},"healthy_since":"2026-03-01T14:04:20Z"},
        {"group":"eu-prod","profile":"door","state":"converged","since":"2026-02-26T09:12:00Z",
         "until":null,"reason":null,"next":null,
         "wanted":{"epoch":0,"version":3,"path":"/nix/store/4c6kzph7l0dcbfmjap64f0czdafn3b7x-door"},
         "running":{"epoch":0,"version":3,"path":"/nix/store/4c6kzph7l0dcbfmjap64f0czdafn3b7x-door",
          "generation":3},"healthy_since":"2026-02-26T09:12:00Z"}],
        "registry":{"urls":["https://registry.example/"],"asked_at":"2026-03-01T14:08:08Z",
         "good_at":"2026-03-01T14:08:08Z","failures":0,"trouble":null,"groups":[]},
        "trust":{"root":3,"timestamp":812,"signed_at":"2026-03-01T13:20:00Z",
         "expires_at":"2026-03-04T13:20:00Z"},
        "free":44023414784,
        "daemon":{"pid":812,"version":"0.1.0","since":"2026-02-26T09:12:00Z",
         "next_poll":"2026-03-01T14:09:08Z"}}"#;

    #[test]
    fn shows_what_runs_what_is_wanted_why_not_yet_and_what_to_do() {
        let status = Status::parse(STATUS.as_bytes()).unwrap();
        let plain = |text: &str| anstream::adapter::strip_str(text).to_string();
        let now = "2026-03-01T14:08:20Z".parse().unwrap();
        expect![[r#"
            web-09 · eu-prod · realm main

            webshop  ⏸P pinned (3h 8m ago)
              Running   #41  generation 118  /nix/store/1c6kzph7l0dcbfmjap64f0czdafn3b7x-webshop-2.9
              Wanted    #42  /nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-webshop-3.0
              Why       kernel panic [pinned]
              Until     2026-03-01T18:00:00Z (in 3h 51m)
              Next      agent unpin webshop

            till  ↩R rolled_back (4m ago)
              Running   #7  generation 12  /nix/store/3c6kzph7l0dcbfmjap64f0czdafn3b7x-till-7
              Wanted    #8  /nix/store/2c6kzph7l0dcbfmjap64f0czdafn3b7x-till-8
              Why       front: answered 502 3 times [health_failed]
              Next      agent retry till

            door  ✓= converged (3d 4h ago)
              Running   #3  generation 3  /nix/store/4c6kzph7l0dcbfmjap64f0czdafn3b7x-door
              Wanted    #3  /nix/store/4c6kzph7l0dcbfmjap64f0czdafn3b7x-door

            Registry    https://registry.example/  good 12s ago
            Signed      freshest statement 48m 20s ago; expires in 2d 23h
            Space       store 41.0 GiB
            Daemon      pid 812, since 3d 4h ago; asks the registry in 48s
        "#]]
        .assert_eq(&plain(&whole(&status, now)));
        expect![[r#"
            webshop ⏸P pinned #41 → #42 generation 118 pinned
            till ↩R rolled_back #7 → #8 generation 12 health_failed
            door ✓= converged #3 generation 3
        "#]]
        .assert_eq(&plain(&lines(&status)));
        let problem = verdict(&status).unwrap_err();
        expect![[r#"
            error[health_failed]: `till` is rolled_back
              because front: answered 502 3 times
              state: still running generation 12
              next: agent retry till"#]]
        .assert_eq(&problem.render());
    }
}
