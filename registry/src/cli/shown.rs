//! How hosts and their states are written for people. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use shared::{
    api::{GroupCounts, HostSummary},
    human,
    report::ProfileReport,
    state_word::StateWord,
    time::Time,
};

/// Letters of a host's own words that a table shows; all of them stand in `registry host`.
const MOST: usize = 120;

/// Writes a state: glyph, letter and word, so that colour is never the only signal.
pub(super) fn state(state: StateWord) -> String {
    coloured(state, &format!("{}{} {state}", state.glyph(), state.letter()))
}

/// Gives a text the colour of a state.
pub(super) fn coloured(state: StateWord, text: &str) -> String {
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

/// Writes how many hosts are in each of these states, the worst first.
pub(super) fn states(
    states: &BTreeMap<StateWord, u64>,
    wanted: impl Fn(StateWord) -> bool,
) -> String {
    let known = states.iter().filter(|(state, hosts)| **hosts > 0 && wanted(**state));
    let known = known.map(|(state, hosts)| coloured(*state, &format!("{hosts} {state}")));
    known.collect::<Vec<_>>().join(", ")
}

/// Writes how many hosts of a group are converged, and which share of it that is.
pub(super) fn settled(counts: &GroupCounts) -> String {
    let settled = counts.states.get(&StateWord::Converged).copied().unwrap_or(0);
    match counts.hosts {
        0 => String::new(),
        // Rounded down: all is said of a whole group alone.
        hosts => format!("{settled} ({} %)", settled.saturating_mul(100) / hosts),
    }
}

/// Writes a count with its noun.
pub(super) fn count(number: u64, noun: &str) -> String {
    human::count(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

/// Writes which version runs, and which is wanted instead.
pub(super) fn versions(profile: &ProfileReport) -> String {
    let running = profile.running.as_ref().and_then(|running| running.version);
    let wanted = profile.wanted.as_ref().map(|wanted| wanted.version);
    match (running, wanted) {
        (Some(running), Some(wanted)) if running != wanted => format!("#{running} → #{wanted}"),
        (None, Some(wanted)) => format!("– → #{wanted}"),
        (Some(running), _) => format!("#{running}"),
        (None, None) => "–".to_owned(),
    }
}

/// Writes how long ago the registry heard of a host.
pub(super) fn seen(host: &HostSummary, now: Timestamp) -> String {
    host.reported_at.map_or_else(|| "never".to_owned(), |at| human::ago(at.into(), now))
}

/// Writes how long something has been so.
pub(super) fn span(since: Time, now: Timestamp) -> String {
    human::span(now.duration_since(since.into()))
}

/// Writes the beginning of what a host said in its own words.
pub(super) fn brief(text: &str) -> String {
    let text = human::plain(text);
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Writes the next command, and where to type it: an agent's own is for its host.
pub(super) fn next(host: &HostSummary, command: &str) -> String {
    let command = human::plain(command);
    let is_for_host = ["agent ", "systemctl "].iter().any(|begin| command.starts_with(begin));
    if is_for_host { format!("on {}: {command}", host.name) } else { command }
}
