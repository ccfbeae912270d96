//! What is read as a narinfo is written to a narinfo that means the same.
//!
//! `cargo +nightly fuzz run narinfo corpus/narinfo ../../tests/fixtures/nix/narinfo`

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::nix::{NarInfo, TrustedKeys};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut narinfo) = NarInfo::parse(bytes) else { return };
    drop(narinfo.info.voucher(&TrustedKeys::default()));
    let again = NarInfo::parse(narinfo.to_string().as_bytes());
    narinfo.info.signatures.sort();
    narinfo.info.signatures.dedup();
    assert_eq!(again, Ok(narinfo));
});
