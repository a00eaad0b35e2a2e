//! See `fuzz::form_data`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::form_data(data));
