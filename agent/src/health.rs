//! Health checks: what they find, and what that means.
//!
//! A [`Prober`] makes one try of one check. A [`Runner`] keeps trying all of them, each at its own
//! interval. [`Judge`] says after a switch whether the tries are good enough, and [`Pulse`] whether
//! what was confirmed long ago still is; both are pure. Nothing here changes the host, and nothing
//! needs the host's lock.

mod judge;
mod prober;
mod runner;
pub(crate) mod units;

pub(crate) use self::judge::{Judge, Pulse, Verdict};
pub(crate) use self::prober::{Prober, Subject, Tools, Tried};
pub(crate) use self::runner::Runner;
