//! Numbers as people read them: sizes, spans of time, counts.
//!
//! Machines get bytes, seconds and timestamps; only text for a person passes through here.

use jiff::{SignedDuration, Timestamp};

/// Writes a number of bytes in binary units, such as `38.4 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// Writes a difference of bytes with its sign, such as `+1.2 MiB`.
#[must_use]
pub fn size_change(before: u64, after: u64) -> String {
    let sign = if after < before { "-" } else { "+" };
    format!("{sign}{}", size(after.abs_diff(before)))
}

/// Writes a span of time by its one or two largest units, such as `3d 4h` or `12s`.
#[must_use]
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => two(minutes, "m", seconds % 60, "s"),
        (0, hours, minutes) => two(hours, "h", minutes, "m"),
        (days, hours, _) => two(days, "d", hours, "h"),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        return format!("{large}{large_unit}");
    }
    format!("{large}{large_unit} {small}{small_unit}")
}

/// Hides what stands for a user and password in the addresses of a text, whoever wrote it.
///
/// Rather too much than too little: what was written may be no address at all.
#[must_use]
pub fn without_passwords(text: &str) -> String {
    let ends = |it: char| it.is_whitespace() || it.is_control() || "'\"`<>".contains(it);
    let mut words = text.split("://");
    let mut plain = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (address, rest) = word.split_at(word.find(ends).unwrap_or(word.len()));
        let shown = address.rsplit_once('@').map_or(address, |(_, host)| host);
        let hidden = if shown.len() < address.len() { "***@" } else { "" };
        plain.extend(["://", hidden, shown, rest]);
    }
    plain
}

/// Writes what somebody else said so that it can do nothing to a terminal: in one line, without
/// control characters or changes of the writing direction.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|it| if moves_a_terminal(it) { ' ' } else { it }).collect()
}

/// Writes JSON of one line so that it can do nothing to a terminal either: what would stands escaped in it.
///
/// JSON itself escapes only the first 32 control characters; there are more.
#[must_use]
pub fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for character in json.chars() {
        if moves_a_terminal(character) {
            // Beyond ASCII it can only stand in a string, and none of these is beyond 16 bits.
            plain.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Tells whether a character is for a terminal, not for its reader.
fn moves_a_terminal(character: char) -> bool {
    let turns = ['\u{200e}', '\u{200f}'].contains(&character)
        || ('\u{202a}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character);
    turns || character.is_control()
}

/// [`plain`] for each line of an output; without the empty lines at its end.
#[must_use]
pub fn plain_lines(text: &str) -> String {
    text.trim_end().lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// Returns the end of a text, at most so many bytes of it: what a program said last matters most.
#[must_use]
pub fn tail(text: &str, max: usize) -> &str {
    let start = text.len().saturating_sub(max);
    let start = (start..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

/// Words in the name of a value that nobody else shall read.
const SECRETS: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "apikey",
    "authorization",
];

/// Hides what looks like a secret in the output of a program: values of names such as `password`,
/// passwords in URLs, private keys. A precaution, and no more: it knows only what it has seen.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut in_key = false;
    let line = |line: &str| {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            in_key = true;
            return Some("[private key]".to_owned());
        }
        if in_key {
            in_key = !line.contains("-----END");
            return None;
        }
        Some(redact_value(&without_passwords(line)))
    };
    text.split('\n').filter_map(line).collect::<Vec<_>>().join("\n")
}

/// Hides everything behind the first `=` or `:` that follows such a name.
fn redact_value(line: &str) -> String {
    let bare: String = line
        .chars()
        .map(|letter| if letter == '_' || letter == '-' { '\u{1}' } else { letter })
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    let joined = |word: &str| bare.find(word);
    let api_key = bare.find("api\u{1}key");
    let found = SECRETS.iter().filter_map(|word| joined(word)).chain(api_key).min();
    let Some(name) = found else { return line.to_owned() };
    let value = line.get(name..).and_then(|rest| rest.find(['=', ':'])).map(|at| name + at + 1);
    match value.and_then(|value| Some((line.get(..value)?, line.get(value..)?))) {
        Some((shown, hidden)) if !hidden.trim().is_empty() => format!("{shown}***"),
        Some(_) | None => line.to_owned(),
    }
}

/// Writes a text of ours for a terminal that shows ASCII alone: one letter for each of our glyphs, so
/// that columns stay straight, and `?` for what others wrote.
#[must_use]
pub fn ascii(text: &str) -> String {
    let letter = |glyph: char| match glyph {
        '‼' | '⏻' => '!',
        '✗' => 'x',
        '✓' => '+',
        '↩' => '<',
        '⏸' | '‖' => '|',
        '◔' => 'o',
        '↻' => '~',
        '⇣' => 'v',
        '…' => '.',
        '→' => '>',
        '·' | '–' => '-',
        '│' => '|',
        plain if plain.is_ascii() => plain,
        _ => '?',
    };
    text.chars().map(letter).collect()
}

/// Says whether a terminal shows more than ASCII, by what the environment says of its language: the
/// first of `LC_ALL`, `LC_CTYPE` and `LANG` that says anything decides, as POSIX has it.
#[must_use]
pub fn shows_glyphs(environment: impl Fn(&str) -> Option<String>) -> bool {
    let told = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| environment(name).filter(|value| !value.is_empty()));
    let told = told.unwrap_or_default().to_ascii_lowercase();
    (told.contains("utf-8") || told.contains("utf8"))
        && environment("TERM").is_none_or(|term| term != "dumb")
}

/// Writes how long ago `then` was, such as `12s ago`; a time to come is `now`.
#[must_use]
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(then);
    if passed.as_secs() <= 0 { "now".to_owned() } else { format!("{} ago", span(passed)) }
}

/// Writes a count with its noun, such as `1 path` or `3 paths`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_word::StateWord;

    #[test]
    fn passwords_in_addresses_are_not_repeated() {
        for (typed, shown) in [
            ("nothing to hide: me@example", "nothing to hide: me@example"),
            ("'https://cache.example/a?b'", "'https://cache.example/a?b'"),
            ("'ftp://me:hunter2@host/x' for", "'ftp://***@host/x' for"),
            ("x://hunter2@a y://b z://c:hun/ter@2@d", "x://***@a y://b z://***@d"),
            ("\u{1b}[33mhttp://u:p@h?q\u{1b}[0m", "\u{1b}[33mhttp://***@h?q\u{1b}[0m"),
        ] {
            assert_eq!(without_passwords(typed), shown);
        }
    }

    #[test]
    fn what_others_say_moves_no_cursor_and_turns_no_line() {
        let text = "caf\u{e9}\u{1b}[2J\r\nerror\u{202e}: \u{9b}31m\u{7f}";
        assert_eq!(plain(text), "caf\u{e9} [2J  error :  31m ");
    }

    #[test]
    fn the_end_of_a_text_is_cut_between_letters_and_lines_stay_lines() {
        assert_eq!(tail("abc", 10), "abc");
        assert_eq!(tail("abcdef", 2), "ef");
        assert_eq!(tail("a\u{fc}b", 2), "b");
        assert_eq!(tail("", 2), "");
        assert_eq!(plain_lines("a\u{1b}[31m\u{fffd}b\r\nc\n\n"), "a [31m\u{fffd}b\nc");
    }

    #[test]
    fn what_looks_like_a_secret_is_hidden_and_the_rest_is_not() {
        let check = |text: &str, shown: &str| assert_eq!(redact(text), shown, "{text}");
        check("connected to db at 10.0.0.1:5432", "connected to db at 10.0.0.1:5432");
        check("DB_PASSWORD=hunter2 retry", "DB_PASSWORD=***");
        check("  \"api-key\": \"abc\", \"x\": 1", "  \"api-key\":***");
        check("> Authorization: Bearer abc.def", "> Authorization:***");
        check("token expired", "token expired");
        check("dial postgres://app:hunter2@db/x?y: refused", "dial postgres://***@db/x?y: refused");
        check("http://a/x https://b@c/", "http://a/x https://***@c/");
        check("dial db://app:hun/ter2@db", "dial db://***@db");
        let key = "a\n-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\nb";
        check(key, "a\n[private key]\nb");
        check("-----BEGIN OPENSSH PRIVATE KEY-----\ncut off", "[private key]");
        check("caf\u{e9} \u{130}PASSWORD=\u{e9}", "caf\u{e9} \u{130}PASSWORD=***");
    }

    #[test]
    fn sizes_change_units_at_1024() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size_change(2048, 1024), "-1.0 KiB");
        assert_eq!(size_change(0, 3), "+3 B");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in [
            (-5, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m 1s"),
            (3600, "1h"),
            (3661, "1h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(SignedDuration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_terminal_without_glyphs_gets_a_letter_for_each() {
        assert_eq!(ascii("↩R rolled_back  40 → 42 · ✓ é"), "<R rolled_back  40 > 42 - + ?");
        for state in StateWord::ALL {
            assert!(ascii(&state.glyph().to_string()).is_ascii());
            assert!(state.glyph() == '?' || ascii(&state.glyph().to_string()) != "?", "{state}");
        }
        let shows = |set: &[(&str, &str)]| {
            shows_glyphs(|name| set.iter().find(|it| it.0 == name).map(|it| it.1.to_owned()))
        };
        assert!(shows(&[("LANG", "de_DE.UTF-8")]));
        assert!(shows(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!shows(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")]));
        assert!(!shows(&[("LANG", "C.UTF-8"), ("TERM", "dumb")]));
        assert!(!shows(&[]));
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let text = "\u{1b}[31m \u{7f}\u{9b}31m \u{202e} ä";
        let written = serde_json::to_string(text).unwrap();
        let plain = plain_json(&written);
        assert!(plain.chars().all(|it| !moves_a_terminal(it)), "{plain:?}");
        assert_eq!(serde_json::from_str::<String>(&plain).unwrap(), text);
    }
}
