//! See `fuzz::update_bundle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::update_bundle(data));
