//! See `fuzz::readiness`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::readiness(data));
