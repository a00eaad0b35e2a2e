//! See `fuzz::logical_path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::logical_path(data));
