//! The stories: the real programs, as a person or systemd runs them, against real Nix.
//!
//! Each module is one story. They are `cfg(test)` so that what our lints allow in tests holds in
//! their helpers too.

#[cfg(test)]
mod caches;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod house;
#[cfg(test)]
mod local_store;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod purity;
