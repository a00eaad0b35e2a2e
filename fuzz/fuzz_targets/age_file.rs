//! See `fuzz::age_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::age_file(data));
