//! See `fuzz::inner_packets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::inner_packets(data));
