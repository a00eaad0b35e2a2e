//! See `fuzz::sealed_row`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sealed_row(data));
