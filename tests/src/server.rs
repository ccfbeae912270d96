//! A small HTTP server on the loopback, for files, and for every fault a cache can have.
//!
//! Not our registry: that one is a program under test. This one answers exactly as it is told.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `HEAD` or another method.
    pub method: String,
    /// The path and, behind `?`, the query, as they were sent.
    pub target: String,
    /// The headers, by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body; empty if there is none.
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }
}

/// What the server answers.
#[derive(Debug, Clone)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection is cut.
    cut: Option<usize>,
}

impl Response {
    /// Makes an answer with a status and a body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    /// Makes an answer that sends the client elsewhere.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::new(302, "").header("Location", location)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Cuts the connection after this many bytes of the body; its full length is promised.
    #[must_use]
    pub const fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Changes the body.
    #[must_use]
    pub fn map_body(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.body);
        self
    }

    /// Answers with a file below `root`: 200, 206 for a range `bytes=N-`, or 404.
    #[must_use]
    pub fn file(root: &Path, request: &Request) -> Self {
        let relative = PathBuf::from(request.path().trim_start_matches('/'));
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let body = Some(root.join(relative)).filter(|_| inside).map(fs::read);
        let Some(Ok(body)) = body else { return Self::new(404, "not found\n") };
        let from = request.headers.get("range").and_then(|range| {
            range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
        let whole = body.len();
        let answer = match from.and_then(|from| body.get(from..).map(|rest| (from, rest))) {
            Some((from, rest)) => {
                let range = format!("bytes {from}-{}/{whole}", whole.saturating_sub(1));
                Self::new(206, rest).header("Content-Range", &range)
            }
            None => Self::new(200, body),
        };
        answer.header("Accept-Ranges", "bytes")
    }
}

/// Decides on a request; `None` leaves it to the files.
type Hook = Box<dyn Fn(&Request) -> Option<Response> + Send>;

/// What the threads of a server share.
struct State {
    root: PathBuf,
    hook: Mutex<Hook>,
    requests: Mutex<Vec<Request>>,
    closing: AtomicBool,
}

/// A server of the files below a folder; closes with the value.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    listening: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.url())
    }
}

impl Server {
    /// Serves the files below `root` on a free port of the loopback.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: root.to_owned(),
            hook: Mutex::new(Box::new(|_| None)),
            requests: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let listening = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.closing.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                if let Ok(stream) = stream {
                    // A client that goes away in the middle is no matter of the server.
                    thread::spawn(move || drop(converse(&stream, &shared)));
                }
            }
        });
        Self { address, state, listening: Some(listening) }
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks `hook` before the files from now on; where it returns `None` they answer.
    pub fn hook(&self, hook: impl Fn(&Request) -> Option<Response> + Send + 'static) {
        *self.state.hook.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(hook);
    }

    /// Answers each request for `path` with a clone of `response` from now on.
    pub fn answer(&self, path: &str, response: Response) {
        let path = path.to_owned();
        self.hook(move |request| (request.path() == path).then(|| response.clone()));
    }

    /// Returns the requests that came since the last call, the first one first.
    #[must_use]
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(self.address));
        if let Some(listening) = self.listening.take() {
            drop(listening.join());
        }
    }
}

/// Returns the URL of a server that nobody runs: connections to it are refused.
///
/// # Panics
/// When there is no free port.
#[must_use]
pub fn nobody() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    format!("http://{}", listener.local_addr().unwrap())
}

/// Answers the requests of one connection until it ends.
fn converse(stream: &TcpStream, state: &State) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader)? {
        state.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let hooked = state.hook.lock().unwrap_or_else(PoisonError::into_inner)(&request);
        let response = hooked.unwrap_or_else(|| Response::file(&state.root, &request));
        let closing = state.closing.load(Ordering::SeqCst);
        if !write_response(stream, &request, &response)? || closing {
            return stream.shutdown(std::net::Shutdown::Both);
        }
    }
    Ok(())
}

pub(crate) fn read_request(reader: &mut impl io::BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::other("no request line"));
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, target, headers, body }))
}

/// Writes an answer; returns whether the connection may go on.
fn write_response(
    mut stream: &TcpStream,
    request: &Request,
    response: &Response,
) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} .\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if response.status != 304 && response.status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
    }
    head.push_str("\r\n");
    let mut message = head.into_bytes();
    let body = response.cut.and_then(|cut| response.body.get(..cut)).unwrap_or(&response.body);
    if request.method != "HEAD" {
        message.extend_from_slice(body);
    }
    stream.write_all(&message)?;
    Ok(body.len() == response.body.len())
}
