//! See `fuzz::udp_datagrams`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::udp_datagrams(data));
