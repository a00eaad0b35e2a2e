//! See `fuzz::backup_pieces`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::backup_pieces(data));
