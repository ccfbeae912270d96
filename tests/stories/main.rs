//! The stories: the real programs, as a person or systemd runs them, against real Nix.
//!
//! Each module is one story. They are `cfg(test)` so that what our lints allow in tests holds in
//! their helpers too.

#[cfg(test)]
mod access;
#[cfg(test)]
mod agent;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod backups;
#[cfg(test)]
mod beside;
#[cfg(test)]
mod caches;
#[cfg(test)]
mod converge;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod gc;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod health;
#[cfg(test)]
mod hostile_cache;
#[cfg(test)]
mod hostile_server;
#[cfg(test)]
mod house;
#[cfg(test)]
mod local_store;
#[cfg(test)]
mod looking;
#[cfg(test)]
mod machines;
#[cfg(test)]
mod network;
#[cfg(test)]
mod nixos;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod power;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod purity;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod registry_server;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod second_reader;
#[cfg(test)]
mod shards;
#[cfg(test)]
mod signers;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod small_disk;
#[cfg(test)]
mod status_api;
#[cfg(test)]
mod substitution;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tuf_client;
#[cfg(test)]
mod watching;
#[cfg(test)]
mod windows;
