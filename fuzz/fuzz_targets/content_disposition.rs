//! See `fuzz::content_disposition`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::content_disposition(data));
