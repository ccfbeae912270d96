//! A closure index has one form: what is read is written to the same bytes.
//!
//! `cargo +nightly fuzz run closure_index`

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::closure::ClosureIndex;

fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = ClosureIndex::parse(bytes) else { return };
    assert_eq!(index.to_bytes(), bytes);
    for entry in index.entries() {
        assert!(entry.references().all(|path| index.get(path).is_some()));
    }
});
