//! See `fuzz::request_context`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::request_context(data));
