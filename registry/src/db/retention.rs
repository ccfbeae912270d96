//! How long what is kept is kept.

use serde::Deserialize;

/// Seconds after which something is deleted; nothing is for ever where a number is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retention {
    /// Attempts of hosts, since they were told.
    pub(crate) attempts: Option<u32>,
    /// Hosts that have said nothing for so long, with all they said; revocations stay.
    pub(crate) hosts: Option<u32>,
    /// Tokens, since they ended.
    pub(crate) tokens: Option<u32>,
}

impl Default for Retention {
    /// A quarter of attempts, and a month for tokens, so that a refusal can still be explained.
    /// Hosts are never forgotten unasked.
    fn default() -> Self {
        Self { attempts: Some(90 * 86_400), hosts: None, tokens: Some(30 * 86_400) }
    }
}

impl Retention {
    /// Returns each key with its value, as a configuration shows it.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, String)> {
        let shown =
            |value: Option<u32>| value.map_or_else(|| "for ever".to_owned(), |it| it.to_string());
        [
            ("retention.attempts", shown(self.attempts)),
            ("retention.hosts", shown(self.hosts)),
            ("retention.tokens", shown(self.tokens)),
        ]
        .into_iter()
    }
}

/// How much was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pruned {
    pub(crate) attempts: usize,
    pub(crate) hosts: usize,
    pub(crate) tokens: usize,
}
