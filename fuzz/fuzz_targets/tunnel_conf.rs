//! See `fuzz::tunnel_conf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tunnel_conf(data));
