//! See `fuzz::new_upload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::new_upload(data));
