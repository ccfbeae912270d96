//! Passwords for web servers, in the form of `~/.netrc` as curl and Nix read it.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use reqwest::header::HeaderValue;

/// Longest file that is read, in bytes.
const MAX_LEN: u64 = 1024 * 1024;

/// Why a netrc file is not used.
#[derive(Debug, thiserror::Error)]
pub enum NetrcError {
    /// It cannot be read.
    #[error("cannot read the netrc file `{}`", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Others may read the passwords in it.
    #[error("the netrc file `{}` can be read by others (mode {mode:04o})", .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not of its form.
    #[error("the netrc file `{}` is wrong in line {line}: {why}", .file.display())]
    Form {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there; never what is written there.
        why: &'static str,
    },
}

impl NetrcError {
    /// Returns the command that mends it, if one does.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Open { file, .. } => Some(format!("chmod 600 {}", file.display())),
            Self::Read { .. } | Self::Form { .. } => None,
        }
    }
}

/// The passwords of a netrc file.
#[derive(Debug, Default)]
pub(crate) struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Nothing means any.
    machine: Option<String>,
    login: Secret,
    password: Secret,
}

/// A text that is never printed.
#[derive(Default)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Netrc {
    /// Reads a file that nobody else can read.
    ///
    /// As ssh does with keys, a file of ours that the group may read is refused too; a file that
    /// somebody else gave us may be ours by our group.
    pub(crate) fn load(file: &Path) -> Result<Self, NetrcError> {
        let failed = |source| NetrcError::Read { file: file.to_owned(), source };
        // A pipe must not hold us; whether it is one is seen on what was opened.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(file);
        let opened = opened.map_err(failed)?;
        let metadata = opened.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        let mode = metadata.mode() & 0o777;
        if mode & if ours { 0o077 } else { 0o007 } != 0 {
            return Err(NetrcError::Open { file: file.to_owned(), mode });
        }
        let mut bytes = Vec::new();
        opened.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(failed(io::Error::other(format!("it is longer than {MAX_LEN} bytes"))));
        }
        let form = |(line, why)| NetrcError::Form { file: file.to_owned(), line, why };
        let text = std::str::from_utf8(&bytes).map_err(|_| form((1, "it is no UTF-8 text")))?;
        Self::parse(text).map_err(form)
    }

    /// Parses the text; an error is the number of a line and what is wrong there.
    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut words = Words { lines: text.lines().enumerate(), line: 0, rest: "" };
        while let Some(word) = words.next()? {
            let line = words.line;
            match word.as_str() {
                "default" => entries.push(Entry::default()),
                "machine" => {
                    let machine = Some(words.value()?);
                    entries.push(Entry { machine, ..Entry::default() });
                }
                "macdef" => words.skip_macro(),
                "login" | "password" | "account" => {
                    let value = words.value()?;
                    let last = entries.last_mut();
                    let entry = last.ok_or((line, "it stands before any `machine`"))?;
                    match word.as_str() {
                        "login" if value.contains(':') => {
                            return Err((line, "a login has no colon"));
                        }
                        "login" => entry.login = Secret(value),
                        "password" => entry.password = Secret(value),
                        _ => {}
                    }
                }
                _ => {
                    return Err((
                        line,
                        "only machine, default, login, password, account and \
                    macdef are known",
                    ));
                }
            }
        }
        Ok(Self { entries })
    }

    /// Returns the `Authorization` header for a host: of the first entry that is for it.
    pub(crate) fn authorization(&self, host: &str) -> Option<HeaderValue> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_for = |entry: &&Entry| {
            entry.machine.as_ref().is_none_or(|machine| machine.eq_ignore_ascii_case(host))
        };
        let Entry { login, password, .. } = self.entries.iter().find(is_for)?;
        Some(basic(&login.0, &password.0))
    }
}

/// Makes an `Authorization` header that no log prints.
pub(crate) fn basic(login: &str, password: &str) -> HeaderValue {
    let encoded = BASE64.encode(format!("{login}:{password}").as_bytes());
    // Base64 holds nothing that a header may not.
    let header = HeaderValue::try_from(format!("Basic {encoded}"));
    let mut header = header.unwrap_or_else(|_| HeaderValue::from_static("Basic Og=="));
    header.set_sensitive(true);
    header
}

/// The words of a netrc file, quotes resolved.
struct Words<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    line: usize,
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<Option<String>, (usize, &'static str)> {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.is_empty() {
                break;
            }
            let Some((number, line)) = self.lines.next() else { return Ok(None) };
            self.line = number + 1;
            // Only a line of its own is a comment: a password may begin with `#`.
            let is_comment = line.trim_start().starts_with('#');
            self.rest = if is_comment { "" } else { line };
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            return self.quoted(quoted).map(Some);
        }
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Some(word.to_owned()))
    }

    fn value(&mut self) -> Result<String, (usize, &'static str)> {
        let line = self.line;
        self.next()?.ok_or((line, "its last word has no value"))
    }

    /// Reads up to the closing quote; a backslash takes what follows as it is, or as a control.
    fn quoted(&mut self, text: &'a str) -> Result<String, (usize, &'static str)> {
        let mut value = String::new();
        let mut letters = text.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.rest = text.get(at + 1..).unwrap_or_default();
                    return Ok(value);
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, 'r')) => value.push('\r'),
                    Some((_, 't')) => value.push('\t'),
                    Some((_, other)) => value.push(other),
                    None => break,
                },
                other => value.push(other),
            }
        }
        Err((self.line, "a quote is not closed"))
    }

    /// Leaves out everything up to an empty line.
    fn skip_macro(&mut self) {
        self.rest = "";
        for (number, line) in self.lines.by_ref() {
            self.line = number + 1;
            if line.trim().is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Returns `login:password` for a host.
    fn find(text: &str, host: &str) -> Option<String> {
        let header = Netrc::parse(text).unwrap().authorization(host)?;
        let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        Some(String::from_utf8(BASE64.decode(encoded.as_bytes()).unwrap()).unwrap())
    }

    #[track_caller]
    fn check(text: &str, host: &str, expected: Option<&str>) {
        assert_eq!(find(text, host).as_deref(), expected, "{text} for {host}");
    }

    #[test]
    fn the_first_entry_for_a_host_counts_and_the_default_is_for_all() {
        let text = "machine a.example login u password p\n\
            machine b.example\n  login v\n  password q\n\
            machine a.example login later password later\n\
            default login any password one\n\
            machine c.example login late password late";
        check(text, "a.example", Some("u:p"));
        check(text, "A.EXAMPLE", Some("u:p"));
        check(text, "b.example", Some("v:q"));
        check(text, "c.example", Some("any:one"));
        check("machine a.example login u password p", "x.a.example", None);
        check("machine ::1 login u password p", "[::1]", Some("u:p"));
        check("", "a.example", None);
    }

    #[test]
    fn words_may_be_quoted_as_curl_has_it() {
        check(r#"machine h login "a b" password "q\"\\\n\t\r\x""#, "h", Some("a b:q\"\\\n\t\rx"));
        check(r#"machine h login u password p"q"#, "h", Some("u:p\"q"));
        check("machine h login u password \"ä\" account \"x y\"", "h", Some("u:ä"));
        check("machine h login u password \"\"", "h", Some("u:"));
    }

    #[test]
    fn comments_and_macros_are_left_out_and_a_password_may_begin_like_one() {
        let text = "# machine h login no password no\nmacdef init\nmachine h login no password no\n\
            quit\n\nmachine h login u password #p\n  # the end";
        check(text, "h", Some("u:#p"));
        check("machine h password token", "h", Some(":token"));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_without_its_words() {
        for (text, line) in [
            ("machine h\nlogin u\npassword", 3),
            ("login u", 1),
            ("machine h\nlogin u passwort hunter2", 2),
            ("machine h login u password \"hunter2", 1),
            ("machine h login hun:ter2", 1),
            ("machine h password \"hunter2\\", 1),
        ] {
            let (found, why) = Netrc::parse(text).unwrap_err();
            assert_eq!(found, line, "{text}");
            assert!(!why.contains("hunter") && !why.contains("passwort"), "{why}");
        }
    }

    #[test]
    fn nothing_prints_a_password() {
        let netrc = Netrc::parse("machine h login hunter password hunter2").unwrap();
        let header = netrc.authorization("h").unwrap();
        let printed = format!("{netrc:?} {netrc:#?} {header:?}");
        assert!(!printed.contains("hunter") && !printed.contains("Basic"), "{printed}");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("netrc");
        fs::write(&file, "machine h login u password p").unwrap();
        for (mode, is_taken) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            match Netrc::load(&file) {
                Ok(_) => assert!(is_taken, "{mode:o}"),
                Err(error @ NetrcError::Open { .. }) => {
                    assert!(!is_taken, "{mode:o}");
                    assert_eq!(error.fix(), Some(format!("chmod 600 {}", file.display())));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn what_is_no_file_of_bearable_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Netrc::load(folder.path()), Err(NetrcError::Read { .. })));
        assert!(matches!(Netrc::load(&folder.path().join("no")), Err(NetrcError::Read { .. })));
        let file = folder.path().join("netrc");
        fs::write(&file, " ".repeat(1024 * 1024 + 1)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Netrc::load(&file), Err(NetrcError::Read { .. })));
    }
}
