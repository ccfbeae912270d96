//! A server between a host and its registry, which counts and may change what passes.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::server::{Request, Response, Server};

/// Changes an answer on its way back.
type Change = Box<dyn Fn(&Request, Response) -> Response + Send + Sync>;

/// Passes requests on to a registry, at an address that stays while registries come and go.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    target: Arc<Mutex<String>>,
}

impl Proxy {
    /// Passes everything on to the server at `target`, unchanged.
    #[must_use]
    pub fn new(target: &str) -> Self {
        let proxy = Self {
            server: Server::new(Path::new("/nonexistent")),
            target: Arc::new(Mutex::new(target.to_owned())),
        };
        proxy.honest();
        proxy
    }

    /// Returns where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Passes everything on to another server from now on.
    pub fn point_to(&self, target: &str) {
        target.clone_into(&mut self.target.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Changes answers from now on.
    pub fn change(&self, change: impl Fn(&Request, Response) -> Response + Send + Sync + 'static) {
        let (target, change): (_, Change) = (Arc::clone(&self.target), Box::new(change));
        self.server.hook(move |request| {
            let target = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let answer = forward(&target, request)
                .unwrap_or_else(|error| Response::new(502, error.to_string()));
            Some(change(request, answer))
        });
    }

    /// Changes nothing any more.
    pub fn honest(&self) {
        self.change(|_, answer| answer);
    }

    /// Returns the requests that came since the last call, the first one first.
    #[must_use]
    pub fn take_requests(&self) -> Vec<Request> {
        self.server.take_requests()
    }
}

/// Asks the server at `target` the same, over a connection of its own.
fn forward(target: &str, request: &Request) -> io::Result<Response> {
    let address = target.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address)?;
    // HTTP 1.0: the answer ends with the connection.
    let mut head = format!("{} {} HTTP/1.0\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if name != "connection" {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("no HTTP answer"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let mut response = Response::new(status, answer.get(end + 4..)?);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name = name.to_ascii_lowercase();
        if !["content-length", "connection", "transfer-encoding"].contains(&name.as_str()) {
            response = response.header(&name, value);
        }
    }
    Some(response)
}
