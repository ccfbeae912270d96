//! What the registry and the agent must agree on.
//!
//! This crate is pure: no files, no network, no clock, no threads, no randomness. Whatever it
//! needs of the world is an argument, so every rule here can be tested by a value. Start at
//! [`nix`] for Nix's own formats.

pub mod human;
pub mod nix;
pub mod problem;
