//! What is read as an archive is written to the bytes that were read.
//!
//! `cargo +nightly fuzz run nar corpus/nar ../../tests/fixtures/nix/nar`

#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use shared::nix::nar::{self, Writer};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut writer = Writer::new(Vec::new());
    let read = nar::read(&mut rest, &mut writer);
    if read.is_ok() {
        let written = writer.finish().expect("the reader tells whole trees");
        assert_eq!(bytes.strip_suffix(rest), Some(written.as_slice()));
    }
    // A buffer that is smaller than any word must change nothing.
    let mut narrow = BufReader::with_capacity(3, bytes);
    assert_eq!(nar::read(&mut narrow, &mut Writer::new(Vec::new())).is_ok(), read.is_ok());
});
