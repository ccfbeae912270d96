//! What became of each switch: one file a profile, the newest last.
//!
//! For people who look back. The journal decides; what is lost here is missed by no machine.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::id::ProfileName;
use shared::nix::StorePath;

use crate::files::{self, FileError};
use crate::state::{Attempt, EpochVersion, Phase, Profile, Reason, Running, State, Target};

/// Attempts that are kept of one profile.
const MAX_ENTRIES: usize = 100;

/// Longest file that is read; each entry has a log of a few kilobytes at most.
const MAX_LEN: u64 = 4 << 20;

/// One end of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// The version, if it is known.
    pub(crate) version: Option<EpochVersion>,
    /// The generation, once there is one.
    pub(crate) generation: Option<u64>,
    /// The root.
    pub(crate) path: StorePath,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// What was wanted runs, healthy and confirmed.
    Confirmed,
    /// What was asked for by hand runs, and is not healthy.
    Unhealthy,
    /// What ran before runs again.
    RolledBack,
    /// It was to be stopped, and is.
    Stopped,
    /// Going back failed as well.
    Failed,
    /// Nothing was changed: something stood in the way before the link was moved.
    Undone,
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The attempt's id, as in logs and reports.
    pub(crate) attempt: String,
    /// When it ended.
    pub(crate) at: Timestamp,
    /// What ran before.
    pub(crate) from: Option<End>,
    /// Where it led; nothing if the profile was to be stopped.
    pub(crate) to: Option<End>,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Why, if not as it should.
    pub(crate) reason: Option<Reason>,
    /// What it went through, oldest first.
    pub(crate) phases: Vec<Phase>,
    /// The last lines of its output.
    pub(crate) log: String,
}

/// Returns what became of the attempt that was under way before and is no more.
pub(crate) fn ended(before: &Profile, after: &Profile, now: Timestamp) -> Option<Entry> {
    let attempt = before.attempt()?;
    if after.attempt().is_some_and(|other| other.id == attempt.id) {
        return None;
    }
    let (outcome, reason) = outcome(before, after, attempt);
    let end = |running: &Running| End {
        version: running.version,
        generation: Some(running.generation),
        path: running.path.clone(),
    };
    let generation = match &before.state {
        State::Confirming { generation, .. } | State::RebootPending { generation, .. } => {
            Some(*generation)
        }
        State::Starting
        | State::Steady { .. }
        | State::Fetching { .. }
        | State::Staged { .. }
        | State::Switching { .. }
        | State::RollingBack { .. }
        | State::Failed { .. } => None,
    };
    let to = match &attempt.target {
        Target::Wanted { wanted } => {
            Some(End { version: Some(wanted.version), generation, path: wanted.path.clone() })
        }
        Target::Generation { running } => Some(end(running)),
        Target::Nothing => None,
    };
    // What comes next may have begun already.
    let records = [&after.record, &before.record].into_iter().flatten();
    let record = records.into_iter().find(|it| it.id == attempt.id).cloned().unwrap_or_default();
    Some(Entry {
        attempt: attempt.id.clone(),
        at: now,
        from: attempt.from.as_ref().map(end),
        to,
        outcome,
        reason,
        phases: record.phases,
        log: record.log,
    })
}

fn outcome(before: &Profile, after: &Profile, attempt: &Attempt) -> (Outcome, Option<Reason>) {
    if let State::Failed { reason, .. } = &after.state {
        return (Outcome::Failed, Some(reason.clone()));
    }
    if let State::RollingBack { reason, .. } = &before.state {
        return (Outcome::RolledBack, Some(reason.clone()));
    }
    if attempt.target == Target::Nothing {
        return (Outcome::Stopped, None);
    }
    if let Some(reason) = &after.unhealthy {
        return (Outcome::Unhealthy, Some(reason.clone()));
    }
    let undone = matches!(before.state, State::Switching { .. });
    (if undone { Outcome::Undone } else { Outcome::Confirmed }, None)
}

/// Adds an entry; the oldest ones go. The caller has the host's lock.
pub(crate) fn append(state_dir: &Path, name: &ProfileName, entry: &Entry) -> Result<(), FileError> {
    let mut entries = read(state_dir, name)?;
    // A crash may have been between this file and the journal.
    entries.retain(|known| known.attempt != entry.attempt);
    entries.push(entry.clone());
    let excess = entries.len().saturating_sub(MAX_ENTRIES);
    let mut bytes = Vec::new();
    for entry in entries.iter().skip(excess) {
        bytes.extend(serde_json::to_vec(entry).unwrap_or_default());
        bytes.push(b'\n');
    }
    files::replace(&path(state_dir, name), &bytes)
}

/// Returns what is known of a profile's attempts, oldest first; lines of no use are passed over.
pub(crate) fn read(state_dir: &Path, name: &ProfileName) -> Result<Vec<Entry>, FileError> {
    let bytes = files::read(&path(state_dir, name), MAX_LEN)?.unwrap_or_default();
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

fn path(state_dir: &Path, name: &ProfileName) -> PathBuf {
    state_dir.join("history").join(format!("{name}.jsonl"))
}
