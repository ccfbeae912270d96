//! Every number that says how patient we are with the network, each with its reason.
//!
//! What has no deadline of its own: a NAR that arrives, and a run as a whole. A closure of 20 GB over
//! a thin line is slow, not broken. But there is a rate below which nothing is a line any more, and
//! it bounds both: waiting for `n` bytes takes at most `n / MIN_RATE` and one window.

use std::time::Duration;

use super::Backoff;

/// How long a connection may take to come about. Linux sends its SYN after 0, 1, 3 and 7 s: an
/// answer to the last of these has 8 s left.
pub const CONNECT: Duration = Duration::from_secs(15);
/// How long the head of an answer may take. Caches that fetch from another one first are slow
/// here, and nowhere else.
pub const HEADERS: Duration = Duration::from_secs(60);
/// How long an answer may stand still without a byte. Above what a congested line or a paused
/// virtual machine needs to go on.
pub const IDLE: Duration = Duration::from_secs(30);
/// How long a file that is no NAR may take as a whole: a narinfo has a few hundred bytes.
pub const SMALL_FILE: Duration = Duration::from_secs(60);

/// The rate in bytes per second below which a NAR is given up. No line that carries closures is so
/// slow; a server that drips bytes to hold us is.
pub const MIN_RATE: u64 = 1024;
/// How long we must have waited for bytes before that rate is held against a cache: above an outage
/// that people sit out, such as a modem that dials anew.
pub const RATE_WINDOW: Duration = Duration::from_secs(300);
/// The same while another cache could be asked instead: longer than a loss of packets, shorter than
/// anyone watches a bar that stands.
pub const HASTY_RATE_WINDOW: Duration = Duration::from_secs(30);

/// How often a request is made before it has failed: a deployment of the server, a lost packet
/// and a lost connection in a row are survived.
pub const ATTEMPTS: u32 = 4;
/// How often a request is made while another cache could be asked instead: once more, because a
/// kept-alive connection that the server closed meanwhile fails the first time.
pub const HASTY_ATTEMPTS: u32 = 2;
/// The pauses between these tries: the first within what a person takes for no pause, the last
/// so long that a server which restarts is back.
pub const RETRY: Backoff = Backoff {
    floor: Duration::ZERO,
    base: Duration::from_millis(250),
    cap: Duration::from_secs(10),
};
/// The longest `Retry-After` that is waited for within a run. Beyond it, the run fails and its
/// caller, who has a backoff of its own, comes back.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// The same while another cache could be asked instead.
pub const MAX_HASTY_WAIT: Duration = Duration::from_secs(2);

/// Most redirects that are followed for one request. Real caches need one, to a signed URL.
pub const MAX_REDIRECTS: usize = 5;

/// How long one cache may be opened after another one was: those that answer soon do the work.
pub const OPEN_GRACE: Duration = Duration::from_secs(5);

/// After so many failures in a row a cache is left out: one may be chance, three are a state.
pub const PATIENCE: u32 = 3;
/// How long a failure makes a cache come after its peers: it has to be asked again by then, as
/// nothing else would tell that it is well.
pub const SICK_MEMORY: Duration = Duration::from_secs(60);
/// How long a cache is left out that cannot be reached. At most what a person waits after having
/// mended it; at least as long as all connections need to notice.
pub const UNREACHABLE: Backoff = Backoff {
    floor: Duration::from_secs(5),
    base: Duration::from_secs(30),
    cap: Duration::from_secs(600),
};
/// How long a cache is left out that lied: longer than any that cannot be reached, because what
/// is broken on its disk seldom mends itself, and every lie costs a whole download.
pub const LIAR: Backoff = Backoff {
    floor: Duration::from_secs(600),
    base: Duration::from_secs(1200),
    cap: Duration::from_secs(6 * 3600),
};
/// The longest `Retry-After` for which a cache is left out: the header is not authenticated, and
/// must not exile a cache for ever.
pub const MAX_ASKED: Duration = Duration::from_secs(600);
/// How long a lie is held against a cache when it lies again.
pub const LIE_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// How long the one request may take that tries a cache which was left out, before another one
/// may: past the deadlines of its parts, so that it is normally the request that ends first.
pub const TRIAL: Duration = Duration::from_secs(120);
/// How long a measured speed holds: after that a cache that was slow gets its chance.
pub const SPEED_MEMORY: Duration = Duration::from_secs(600);
/// How much slower than its peers a cache must be to come after them. Below that, chance and our
/// own other downloads decide more than the cache does.
pub const MUCH_SLOWER: f64 = 4.0;
/// What 1 MiB takes from a cache that nobody measured yet; and the time that is never too slow.
pub const USUAL: Duration = Duration::from_secs(1);

/// How long a connection to a registry may take to come about: it is small and near, and there
/// are mirrors to go on with.
pub const REGISTRY_CONNECT: Duration = Duration::from_secs(10);
/// How long a registry may be silent in the middle of an answer to an agent.
pub const REGISTRY_IDLE: Duration = Duration::from_secs(20);
/// How long one signed file may take as a whole, so that no registry can hold an agent by
/// dripping bytes.
pub const REGISTRY_FILE: Duration = Duration::from_secs(300);
/// How long all the answers of one registry may take together in one round of an agent, besides
/// what it was asked to wait: the next source gets its turn, however many files are asked for.
pub const REGISTRY_ROUND: Duration = Duration::from_secs(300);
/// How long a registry may think over what somebody publishes: it verifies and signs first.
pub const REGISTRY_THINKS: Duration = Duration::from_secs(60);
