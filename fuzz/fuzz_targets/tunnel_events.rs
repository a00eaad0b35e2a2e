//! See `fuzz::tunnel_events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tunnel_events(data));
