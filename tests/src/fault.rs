//! A web server that misbehaves byte by byte, as its script says; over TLS, too.
//!
//! [`crate::Server`] answers in HTTP. This one writes whatever a story wants, as slowly or as long
//! as it wants, and counts what it got rid of. What the script leaves alone is answered from
//! [`Goods`], as a decent server would: with ETags and ranges.

mod answer;
mod goods;
mod tls;

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

pub use answer::{Answer, Step};
pub use goods::{Goods, compress, noise};
pub use tls::{Certificates, Identity};

use crate::server::{Request, read_request};

/// How often a thread that waits looks whether the server is to close.
const GLANCE: Duration = Duration::from_millis(100);

/// What a client asks for, and how often anybody asked for it before.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The request.
    pub request: &'a Request,
    /// How many requests for the same path came before.
    pub before: usize,
    /// Where this server is, without a slash at the end.
    pub url: &'a str,
}

impl Ask<'_> {
    /// Returns the path without its first slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.path().trim_start_matches('/')
    }
}

/// Decides on a request; `None` leaves it to the goods.
pub type Script = Arc<dyn Fn(&Ask<'_>, &Goods) -> Option<Answer> + Send + Sync>;

/// What the threads of a server share.
struct State {
    url: String,
    goods: Arc<Goods>,
    script: Script,
    asked: Mutex<BTreeMap<String, usize>>,
    sent: AtomicU64,
    closing: AtomicBool,
}

/// A server of goods by a script; closes with the value.
pub struct FaultServer {
    address: SocketAddr,
    state: Arc<State>,
    listening: Option<thread::JoinHandle<()>>,
}

impl fmt::Debug for FaultServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultServer({})", self.url())
    }
}

impl FaultServer {
    /// Serves `goods` by `script` on a free port of the loopback.
    #[must_use]
    pub fn new(goods: &Arc<Goods>, script: Script) -> Self {
        Self::start(goods, script, None, "http")
    }

    /// Serves `goods` as they are.
    #[must_use]
    pub fn honest(goods: &Arc<Goods>) -> Self {
        Self::new(goods, Arc::new(|_, _| None))
    }

    /// Serves `goods` by `script` over TLS, as whoever `identity` is.
    #[must_use]
    pub fn tls(goods: &Arc<Goods>, script: Script, identity: Identity) -> Self {
        Self::start(goods, script, Some(identity), "https")
    }

    /// Says that it speaks TLS, and does not.
    #[must_use]
    pub fn plain_as_tls(goods: &Arc<Goods>, script: Script) -> Self {
        Self::start(goods, script, None, "https")
    }

    fn start(goods: &Arc<Goods>, script: Script, identity: Option<Identity>, scheme: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            url: format!("{scheme}://{address}"),
            goods: Arc::clone(goods),
            script,
            asked: Mutex::default(),
            sent: AtomicU64::new(0),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        let listening = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.closing.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, identity) = (Arc::clone(&shared), identity.clone());
                if let Ok(stream) = stream {
                    // A client that goes away in the middle is what many scripts are about.
                    thread::spawn(move || drop(converse(stream, identity, &shared)));
                }
            }
        });
        Self { address, state, listening: Some(listening) }
    }

    /// Returns `http://127.0.0.1:PORT`, or the same with `https`.
    #[must_use]
    pub fn url(&self) -> String {
        self.state.url.clone()
    }

    /// Returns how many bytes of answers clients took, or the kernel for them.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Returns how often each path was asked for.
    #[must_use]
    pub fn asked(&self) -> BTreeMap<String, usize> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(self.address));
        if let Some(listening) = self.listening.take() {
            drop(listening.join());
        }
    }
}

/// A connection, in the clear or not.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// One connection, and what its scripts need to know.
struct Line<'a> {
    stream: BufReader<Box<dyn Stream>>,
    socket: TcpStream,
    state: &'a State,
}

/// Answers the requests of one connection until it ends.
fn converse(socket: TcpStream, identity: Option<Identity>, state: &State) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match identity {
        None => Box::new(socket.try_clone()?),
        Some(identity) => identity.accept(socket.try_clone()?)?,
    };
    let mut line = Line { stream: BufReader::new(stream), socket, state };
    while let Some(request) = read_request(&mut line.stream)? {
        let before = {
            let mut asked = state.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let count = asked.entry(request.path().to_owned()).or_default();
            *count += 1;
            *count - 1
        };
        let ask = Ask { request: &request, before, url: &state.url };
        let answer = (state.script)(&ask, &state.goods);
        let answer = answer.unwrap_or_else(|| state.goods.answer(&ask));
        for step in answer.steps() {
            if line.take(step)? == Goes::Away {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether a connection may carry another request.
#[derive(PartialEq, Eq)]
enum Goes {
    On,
    Away,
}

impl Line<'_> {
    fn take(&mut self, step: &Step) -> io::Result<Goes> {
        match step {
            Step::Send(bytes) => self.send(bytes)?,
            Step::Forever(bytes) => loop {
                if self.is_over() {
                    return Ok(Goes::Away);
                }
                self.send(bytes)?;
            },
            Step::Drip { bytes, pause } => {
                for byte in bytes.iter().cycle() {
                    if self.is_over() {
                        return Ok(Goes::Away);
                    }
                    self.send(&[*byte])?;
                    thread::sleep(*pause);
                }
            }
            Step::Slowly { bytes, piece, pause } => {
                for piece in bytes.chunks(*piece) {
                    if self.is_over() {
                        return Ok(Goes::Away);
                    }
                    self.send(piece)?;
                    thread::sleep(*pause);
                }
            }
            Step::Stall => {
                while !self.is_over() && !self.has_client_left() {
                    thread::sleep(GLANCE);
                }
                return Ok(Goes::Away);
            }
            Step::Close => {
                self.socket.shutdown(std::net::Shutdown::Both)?;
                return Ok(Goes::Away);
            }
            Step::Reset => {
                // Nothing lingers: what was not read yet is lost, and the client sees a reset.
                rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO))?;
                return Ok(Goes::Away);
            }
        }
        Ok(Goes::On)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()?;
        self.state.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.state.closing.load(Ordering::SeqCst)
    }

    fn has_client_left(&self) -> bool {
        drop(self.socket.set_nonblocking(true));
        let peeked = self.socket.peek(&mut [0]);
        drop(self.socket.set_nonblocking(false));
        match peeked {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
