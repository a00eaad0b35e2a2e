//! See `fuzz::sealed_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sealed_stream(data));
