//! Nix's own formats, exactly as Nix 2.34 reads and writes them.
//!
//! Everything here is pure: parsers take bytes that may come from an attacker and return typed
//! values or an error that names the offending part; writers produce the bytes Nix would.
//! Reading order: [`base32`], [`hash`], [`store_path`], [`signature`], [`content_address`],
//! [`path_info`], [`narinfo`], [`nar`].

pub mod base32;
pub mod content_address;
pub mod hash;
pub mod nar;
pub mod narinfo;
pub mod path_info;
pub mod signature;
pub mod store_path;

pub use content_address::ContentAddress;
pub use hash::{Hash, Sha256};
pub use narinfo::NarInfo;
pub use path_info::PathInfo;
pub use signature::{PublicKey, SecretKey, Signature, TrustedKeys};
pub use store_path::{STORE_DIR, StorePath};
