//! The way with AVX-512: the only place that may not be entered on every processor.
//!
//! **Invariant:** whoever calls has asked [`is_available`]. Within, no memory is reached but through slices.

mod chacha20;
mod poly1305;

use std::arch::is_x86_feature_detected;

/// Whether this processor has all that is enabled below; asked once by the standard library.
pub(crate) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma")
}

/// Encrypts in place; the tag.
#[expect(unsafe_code, reason = "a function for processors that have what was asked for")]
pub(crate) fn seal(key: &[u32; 8], counter: u64, text: &mut [u8]) -> [u8; 16] {
    // SAFETY: a key of this kind is only made where `is_available` said so.
    unsafe { sealed(key, counter, text) }
}

/// Decrypts in place if `is_right` takes the tag.
#[expect(unsafe_code, reason = "a function for processors that have what was asked for")]
pub(crate) fn open(
    key: &[u32; 8],
    counter: u64,
    text: &mut [u8],
    is_right: impl FnOnce(&[u8; 16]) -> bool,
) -> bool {
    // SAFETY: a key of this kind is only made where `is_available` said so.
    unsafe { opened(key, counter, text, is_right) }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn sealed(key: &[u32; 8], counter: u64, text: &mut [u8]) -> [u8; 16] {
    let begin = chacha20::Begin::new(key, counter, text.len());
    begin.apply(text);
    poly1305::tag(&begin.tag_key(), text)
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn opened(key: &[u32; 8], counter: u64, text: &mut [u8], is_right: impl FnOnce(&[u8; 16]) -> bool) -> bool {
    let begin = chacha20::Begin::new(key, counter, text.len());
    let is_right = is_right(&poly1305::tag(&begin.tag_key(), text));
    if is_right {
        begin.apply(text);
    }
    is_right
}
