//! A kept connection, spoken to without a library: what is measured is the server.

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A kept connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came for a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) tag: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Bytes of head and body.
    pub(crate) bytes: usize,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request, and fails unless the answer is 200.
    pub(crate) async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let answer = self.exchange(request).await?;
        let text = || String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 200, "{}: {}", answer.status, text());
        Ok(())
    }

    /// Sends a request, and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks; it must not be used again then.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection ended");
            let Some(end) = find(&self.buffer, b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(self.buffer.get(..end).unwrap_or_default());
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (found, value) = line.split_once(": ")?;
                    found.eq_ignore_ascii_case(name).then(|| value.to_owned())
                })
            };
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status = status.context("an answer without a status")?;
            let length = match (status, header("content-length")) {
                (304, _) => 0,
                (_, length) => length.context("an answer without a length")?.parse::<usize>()?,
            };
            let (from, bytes) = (end + 4, end + 4 + length);
            if let Some(body) = self.buffer.get(from..bytes) {
                return Ok(Answer { status, tag: header("etag"), body: body.to_vec(), bytes });
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
