//! The keys that exist, and what somebody meant who wrote another one.

/// Every key; `*` stands for any word, and a table that may be repeated is written with `[]`.
const KEYS: &[&str] = &[
    "activation.runner",
    "cache[].keys",
    "cache[].netrc",
    "cache[].priority",
    "cache[].url",
    "daemon.metrics",
    "daemon.readers",
    "daemon.socket",
    "gc.every",
    "gc.keep",
    "gc.max_free",
    "gc.min_free",
    "gc.older_than",
    "groups",
    "health.registry",
    "host.labels.*",
    "host.name",
    "profiles.activations",
    "profiles.allow",
    "realm",
    "reboot.allow",
    "registry.ca_file",
    "registry.heartbeat",
    "registry.poll",
    "registry.urls",
    "registry.wait",
    "state_dir",
    "store.bandwidth",
    "store.connections",
    "store.min_free",
    "store.min_rate",
    "store.min_rate_over",
    "store.root",
    "store.stall_timeout",
    "trust.builders",
    "trust.caches",
    "trust.max_age.owners",
    "trust.max_age.snapshot",
    "trust.max_age.targets",
    "trust.max_age.team",
    "trust.max_age.timestamp",
    "trust.root",
    "trust.root_sha256",
    "windows.fetch[].cron",
    "windows.fetch[].length",
    "windows.fetch[].zone",
    "windows.reboot[].cron",
    "windows.reboot[].length",
    "windows.reboot[].zone",
    "windows.switch[].cron",
    "windows.switch[].length",
    "windows.switch[].zone",
];

/// Returns the first unknown key of a table, with the known keys that look like it.
pub(super) fn unknown(table: &toml::Table) -> Option<(String, Vec<String>)> {
    let mut keys = Vec::new();
    collect("", table, &mut keys);
    let key = keys.into_iter().find(|key| !KEYS.iter().any(|known| matches(known, key)))?;
    let near = near_matches(&key, KEYS.iter().copied());
    Some((key, near))
}

/// Returns the candidates that look like `word`, the nearest first.
pub(crate) fn near_matches<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |known: &str| {
        let whole = distance(word, known);
        (whole.min(1 + distance(&last(word), &last(known))), whole)
    };
    let mut near: Vec<_> = candidates
        .into_iter()
        .map(|known| (score(known), known))
        .filter(|((away, _), known)| *away <= 1 + last(known).len() / 3)
        .collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
}

/// Writes the question that ends a message, if there is somebody to suggest.
pub(crate) fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        _ => format!("; did you mean `{}`?", near.join("` or `")),
    }
}

fn collect(prefix: &str, table: &toml::Table, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            toml::Value::Table(inner) if inner.is_empty() => keys.push(key),
            toml::Value::Table(inner) => collect(&format!("{key}."), inner, keys),
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
                for inner in items.iter().filter_map(toml::Value::as_table) {
                    collect(&format!("{key}[]."), inner, keys);
                }
            }
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => keys.push(key),
        }
    }
}

fn matches(known: &str, key: &str) -> bool {
    // An empty table, such as a bare `[trust]`, says nothing and is no mistake.
    let heading = known.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']));
    let any = known.strip_suffix('*').is_some_and(|prefix| key.starts_with(prefix));
    known == key || heading || any
}

/// Returns how many letters must be added, dropped or changed to make one word the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, a) in left.chars().enumerate() {
        let mut next = vec![line + 1];
        for ((b, above_left), above) in right.iter().zip(&row).zip(row.iter().skip(1)) {
            let before = next.last().copied().unwrap_or(0);
            let changed = above_left + usize::from(a != *b);
            next.push(changed.min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &[&str])>) {
        let table: toml::Table = text.parse().unwrap();
        let expected = expected.map(|(key, near)| {
            (key.to_owned(), near.iter().map(|&word| word.to_owned()).collect())
        });
        assert_eq!(unknown(&table), expected, "{text}");
    }

    #[test]
    fn names_an_unknown_key_and_what_was_meant() {
        check("realm = \"main\"\ngroups = [\"eu\"]", None);
        check("[host.labels]\nregion = \"eu\"", None);
        check("[trust]", None);
        check("relm = \"main\"", Some(("relm", &["realm"])));
        check("[registry]\nurl = []", Some(("registry.url", &["registry.urls", "cache[].url"])));
        check("[[cache]]\nkey = []", Some(("cache[].key", &["cache[].keys"])));
        check("[metrics]\nlisten = \"::1\"", Some(("metrics.listen", &[])));
    }

    #[test]
    fn counts_the_letters_that_differ() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
