//! What the registry and the agent must agree on.
//!
//! This crate is pure: no files, no network, no clock, no threads, no randomness. Whatever it
//! needs of the world is an argument, so every rule here can be tested by a value.
//!
//! Reading order: [`nix`] for Nix's own formats; [`id`] for names; [`manifest`] with its
//! [`shard`]s, [`policy`] and [`closure`] for what is published; [`trust`] for who may; [`report`] and [`certificate`] for
//! what comes back; [`api`] for how it travels.

pub mod api;
pub mod certificate;
pub mod closure;
pub mod diff;
pub mod feature;
pub mod finding;
pub mod health;
pub mod hints;
pub mod human;
pub mod id;
pub mod json;
pub mod manifest;
pub mod nix;
#[cfg(feature = "openapi")]
mod openapi;
pub mod policy;
pub mod problem;
pub mod progress;
pub mod report;
pub mod shard;
pub mod state_word;
pub mod time;
pub mod trust;
pub mod version;
pub mod window;
