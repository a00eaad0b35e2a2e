//! See `fuzz::tunnel_control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tunnel_control(data));
