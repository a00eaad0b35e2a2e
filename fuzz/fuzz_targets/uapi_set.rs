//! See `fuzz::uapi_set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::uapi_set(data));
