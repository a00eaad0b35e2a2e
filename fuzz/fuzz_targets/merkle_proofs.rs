//! See `fuzz::merkle_proofs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::merkle_proofs(data));
