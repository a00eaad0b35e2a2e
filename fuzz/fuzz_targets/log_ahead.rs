//! See `fuzz::log_ahead`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::log_ahead(data));
