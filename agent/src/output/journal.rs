//! The log where it goes to systemd's journal: with fields, so that a reader can ask for them.
//!
//! Fields whose names begin with `SHOAL_`, and `MESSAGE_ID`, are written for the journal. Elsewhere
//! the former lose their beginning, and the latter is left out.

use std::fmt;
use std::os::fd::AsFd;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Set by systemd to the device and inode of the stream that it gave us for the journal.
const STREAM: &str = "JOURNAL_STREAM";

/// Says whether stderr is the journal's, and not a file or a pipe of somebody in between.
pub(super) fn is_stderr() -> bool {
    let Ok(stream) = std::env::var(STREAM) else { return false };
    let Ok(stat) = rustix::fs::fstat(std::io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Returns what writes to the journal, if it can be reached.
pub(super) fn layer() -> Option<tracing_journald::Layer> {
    let layer = tracing_journald::layer().ok()?;
    Some(layer.with_field_prefix(None).with_syslog_identifier("shoal-agent".to_owned()))
}

/// Writes fields for people.
#[derive(Debug)]
pub(super) struct Readable;

impl<'writer> FormatFields<'writer> for Readable {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line { writer, separator: "", result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'writer> {
    writer: Writer<'writer>,
    separator: &'static str,
    result: fmt::Result,
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            // The first one says it already, and the second is for programs.
            "SHOAL_PROFILE" | "SHOAL_STATE" | "MESSAGE_ID" => return,
            "message" => write!(self.writer, "{}{value:?}", self.separator),
            name => {
                let name = name.strip_prefix("SHOAL_").unwrap_or(name).to_lowercase();
                write!(self.writer, "{}{name}={value:?}", self.separator)
            }
        };
        self.separator = " ";
        self.result = self.result.and(written);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn fields_of_the_journal_are_told_to_people_as_words() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .fmt_fields(Readable)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                SHOAL_PROFILE = "web",
                SHOAL_VERSION = 3,
                MESSAGE_ID = "0123",
                name = "a b",
                "web is {}",
                "converged"
            );
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, " INFO web is converged version=3 name=\"a b\"\n");
    }

    #[test]
    fn stderr_is_the_journals_only_if_systemd_says_so() {
        assert!(!is_stderr());
    }
}
