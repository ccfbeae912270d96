//! The network as all clients of ours use it: one way to make a client, one place for patience.
//!
//! Proxies come from the environment, as curl takes them: `http_proxy`, `https_proxy`,
//! `all_proxy` and `no_proxy`. Certificate authorities come from `NIX_SSL_CERT_FILE` or
//! `SSL_CERT_FILE`, else from the system. Start at [`client`]; every number is in [`limits`].

mod backoff;
mod bandwidth;
mod client;
pub mod limits;
mod netrc;
mod pace;
mod retry_after;

pub use backoff::Backoff;
pub use bandwidth::TokenBucket;
pub use client::{Authorities, NetworkError, client};
pub use netrc::NetrcError;
pub use retry_after::retry_after;

pub(crate) use bandwidth::Bandwidth;
pub(crate) use client::may_carry_secrets;
pub(crate) use netrc::{Netrc, basic};
pub(crate) use pace::{Pace, TooSlow};
