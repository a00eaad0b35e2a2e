//! Buffers for text with keys in it.
//!
//! Invariant: what was in one is overwritten before its memory is given back, also when it grows; an ordinary
//! vector moves on and leaves a copy behind.
use zeroize::Zeroizing;

/// The least that is asked for.
const FIRST_BYTES: usize = 4096;

/// Makes room for `more` bytes behind what is there.
pub(crate) fn reserve(buffer: &mut Zeroizing<Vec<u8>>, more: usize) {
    let needed = buffer.len().saturating_add(more);
    if needed <= buffer.capacity() {
        return;
    }
    let capacity = needed.max(buffer.capacity().saturating_mul(2)).max(FIRST_BYTES);
    let mut larger = Zeroizing::new(Vec::with_capacity(capacity));
    larger.extend_from_slice(buffer);
    // The smaller one is wiped as it goes.
    *buffer = larger;
}

/// Adds to the end.
pub(crate) fn extend(buffer: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    reserve(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

/// The same bytes as text, without a copy; what is no text is wiped as well.
pub(crate) fn into_text(mut buffer: Zeroizing<Vec<u8>>) -> Option<Zeroizing<String>> {
    match String::from_utf8(std::mem::take(&mut *buffer)) {
        Ok(text) => Some(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_keeps_the_content() {
        let mut buffer = Zeroizing::new(Vec::new());
        for number in 0..10_000_u32 {
            extend(&mut buffer, &number.to_le_bytes());
        }
        assert_eq!(buffer.len(), 40_000);
        assert_eq!(buffer[39_996..], 9_999_u32.to_le_bytes());
    }

    #[test]
    fn what_is_no_text_is_none() {
        assert!(into_text(Zeroizing::new(vec![0xff])).is_none());
        assert_eq!(into_text(Zeroizing::new(b"text".to_vec())).expect("text").as_str(), "text");
    }
}
