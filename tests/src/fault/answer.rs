//! What a script has a server do with a connection.

use std::time::Duration;

use crate::server::Request;

/// One thing that a server does with a connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again, until the client has had enough.
    Forever(Vec<u8>),
    /// Sends these bytes again and again, one by one, with a pause behind each.
    Drip {
        /// The bytes.
        bytes: Vec<u8>,
        /// The pause.
        pause: Duration,
    },
    /// Sends these bytes once, a piece of so many at a time, with a pause behind each.
    Slowly {
        /// The bytes.
        bytes: Vec<u8>,
        /// The length of a piece.
        piece: usize,
        /// The pause.
        pause: Duration,
    },
    /// Says nothing more until the client goes away.
    Stall,
    /// Ends the connection properly.
    Close,
    /// Breaks the connection off.
    Reset,
}

/// What a server does about one request: its steps, one after the other.
///
/// A connection that is neither closed nor broken carries the next request.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    steps: Vec<Step>,
}

impl Answer {
    /// Starts with a status line and exactly these headers.
    #[must_use]
    pub fn head(status: u16, headers: &[(&str, &str)]) -> Self {
        let mut head = format!("HTTP/1.1 {status} .\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        Self::raw(head + "\r\n")
    }

    /// Starts with these bytes.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::default().send(bytes)
    }

    /// Makes a whole answer with the length of its body.
    #[must_use]
    pub fn whole(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let length = body.len().to_string();
        let mut all = headers.to_vec();
        all.push(("Content-Length", &length));
        Self::head(status, &all).send(body)
    }

    /// Makes the answer of a decent server that has this file: whole, or from where it is asked.
    #[must_use]
    pub fn file(request: &Request, etag: &str, body: &[u8]) -> Self {
        let header = |name: &str| request.headers.get(name).map(String::as_str);
        let from = header("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let same = header("if-range").is_none_or(|wanted| wanted == etag);
        match from.filter(|_| same).map(|from| (from, body.get(from..).unwrap_or_default())) {
            Some((_, [])) => {
                let range = format!("bytes */{}", body.len());
                Self::whole(416, &[("Content-Range", &range)], b"")
            }
            Some((from, rest)) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Self::whole(206, &[("ETag", etag), ("Content-Range", &range)], rest)
            }
            None => Self::whole(200, &[("ETag", etag), ("Accept-Ranges", "bytes")], body),
        }
    }

    /// Sends the client elsewhere.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::whole(302, &[("Location", location)], b"")
    }

    /// Adds bytes.
    #[must_use]
    pub fn send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Send(bytes.into()))
    }

    /// Adds bytes that never end.
    #[must_use]
    pub fn forever(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Forever(bytes.into()))
    }

    /// Adds any step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Returns what is done, in order.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }
}
