//! Everything that touches the world on behalf of Nix: the local store, its profiles, and binary
//! caches.
//!
//! Knows store paths, archives and narinfos, never manifests. Blocking code runs wherever the
//! caller puts it; only the network side is async. Start at [`local`] for this
//! machine's side, at [`cache`] for the network's.

pub mod archive;
pub mod cache;
mod cpu;
pub mod decompress;
pub mod disk;
mod folder;
pub mod gc;
pub mod local;
pub mod lock;
pub mod net;
pub mod profile;
pub mod space;
pub mod substitute;
