//! See `fuzz::repr_digest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::repr_digest(data));
