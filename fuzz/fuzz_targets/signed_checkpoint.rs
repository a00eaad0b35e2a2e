//! See `fuzz::signed_checkpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::signed_checkpoint(data));
