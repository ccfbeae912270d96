//! What a new version of a role changes, told to whoever is asked to sign it.

use super::{Delegation, Targets};

/// Lists the changes from `old` (if any) to `new`, one sentence each.
#[must_use]
pub fn changes(old: Option<&Targets>, new: &Targets) -> Vec<String> {
    let mut lines = Vec::new();
    let old_delegations = old.map_or(&[][..], |old| old.delegations.as_slice());
    for delegation in &new.delegations {
        match old_delegations.iter().find(|known| known.role == delegation.role) {
            None => lines.push(format!("adds {}", describe(delegation))),
            Some(known) if known != delegation => {
                lines.push(format!("changes {} to {}", describe(known), describe(delegation)));
            }
            Some(_) => {}
        }
    }
    for known in old_delegations {
        if !new.delegations.iter().any(|delegation| delegation.role == known.role) {
            lines.push(format!("removes {}", describe(known)));
        }
    }
    for (path, target) in &new.targets {
        match old.and_then(|old| old.targets.get(path)) {
            None => lines.push(format!("adds target `{path}`")),
            Some(known) if known != target => lines.push(format!("replaces target `{path}`")),
            Some(_) => {}
        }
    }
    for path in old.iter().flat_map(|old| old.targets.keys()) {
        if !new.targets.contains_key(path) {
            lines.push(format!("removes target `{path}`"));
        }
    }
    lines
}

fn describe(delegation: &Delegation) -> String {
    let Delegation { role, ring, patterns } = delegation;
    let patterns: Vec<_> = patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
    let keys: Vec<_> = ring.keys.iter().map(|key| key.key_id().short().to_owned()).collect();
    format!(
        "role `{role}`: {} of the keys {}, may publish {}",
        ring.threshold,
        keys.join(", "),
        patterns.join(", ")
    )
}
