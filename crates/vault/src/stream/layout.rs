//! Which bytes of a file lie in which segment, and where.
//!
//! **Invariant:** pure arithmetic: an [`Extent`] that exists has at most 2³² segments, and its plain and its
//! sealed length say the same.

use std::ops::Range;

use super::{HEADER_BYTES, SEGMENT_BYTES};
use crate::provider::TAG_BYTES;

const HEADER: u64 = HEADER_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;
/// The segment number is 32 bits of the nonce.
const MAX_SEGMENTS: u64 = 1 << 32;

/// The size of a stream's segments, sealed. The header counts to the first segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    segment_bytes: u32,
}

/// A stream of known length in a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    layout: Layout,
    plain_bytes: u64,
    segments: u64,
}

impl Layout {
    /// What the store writes.
    pub const STORE: Layout = Layout { segment_bytes: SEGMENT_BYTES };

    /// Segments of so many sealed bytes: more than a header and a tag, so that the first holds something.
    pub fn new(segment_bytes: u32) -> Option<Layout> {
        (u64::from(segment_bytes) > HEADER + TAG).then_some(Layout { segment_bytes })
    }

    /// Bytes of a segment, sealed.
    pub fn segment_bytes(self) -> u32 {
        self.segment_bytes
    }

    /// Plain bytes in a segment that is not the last.
    pub fn plain_bytes_in(self, segment: u32) -> usize {
        let bytes = self.segment_bytes as usize - TAG_BYTES;
        if segment == 0 { bytes - HEADER_BYTES } else { bytes }
    }

    /// A stream of so many plain bytes, unless it is too long for 2³² segments.
    pub fn of_plain(self, plain_bytes: u64) -> Option<Extent> {
        let each = self.plain_bytes_each();
        // A last segment that is full stays the last; a stream of nothing has one segment of nothing.
        let segments = plain_bytes.checked_add(HEADER)?.div_ceil(each).max(1);
        (segments <= MAX_SEGMENTS).then_some(Extent { layout: self, plain_bytes, segments })
    }

    /// A stream of so many sealed bytes, header and tags included, if there is one of this length.
    pub fn of_sealed(self, sealed_bytes: u64) -> Option<Extent> {
        let segments = sealed_bytes.div_ceil(u64::from(self.segment_bytes));
        let plain_bytes = sealed_bytes.checked_sub(HEADER)?.checked_sub(segments.checked_mul(TAG)?)?;
        self.of_plain(plain_bytes).filter(|extent| extent.sealed_bytes() == sealed_bytes)
    }

    fn plain_bytes_each(self) -> u64 {
        u64::from(self.segment_bytes) - TAG
    }
}

impl Extent {
    /// Its layout.
    pub fn layout(self) -> Layout {
        self.layout
    }

    /// Bytes of the file.
    pub fn plain_bytes(self) -> u64 {
        self.plain_bytes
    }

    /// Bytes of the object: header, ciphertext, tags.
    pub fn sealed_bytes(self) -> u64 {
        HEADER + self.plain_bytes + TAG * self.segments
    }

    /// How many segments there are; at least one.
    pub fn segments(self) -> u64 {
        self.segments
    }

    /// Whether `segment` is the last one.
    pub fn is_last(self, segment: u32) -> bool {
        u64::from(segment) + 1 == self.segments
    }

    /// Where `segment` lies in the object, its tag included and the header not.
    pub fn sealed_range(self, segment: u32) -> Range<u64> {
        let size = u64::from(self.layout.segment_bytes);
        let start = u64::from(segment) * size;
        let end = (start + size).min(self.sealed_bytes());
        let start = if segment == 0 { HEADER } else { start };
        start.min(end)..end
    }

    /// Which bytes of the file `segment` holds.
    pub fn plain_range(self, segment: u32) -> Range<u64> {
        let each = self.layout.plain_bytes_each();
        let start = (u64::from(segment) * each).saturating_sub(HEADER);
        let end = ((u64::from(segment) + 1) * each - HEADER).min(self.plain_bytes);
        start.min(end)..end
    }

    /// The segments that hold `range` of the file, cut to its end. Nothing lies in an empty range; who wants a
    /// whole file that is empty opens segment 0 all the same.
    pub fn segments_of(self, range: Range<u64>) -> Range<u64> {
        let end = range.end.min(self.plain_bytes);
        if range.start >= end {
            return 0..0;
        }
        let segment_of = |byte: u64| (byte + HEADER) / self.layout.plain_bytes_each();
        segment_of(range.start)..segment_of(end - 1) + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layouts() -> impl Strategy<Value = Layout> {
        prop_oneof![57..300_u32, Just(65_536), Just(SEGMENT_BYTES), Just(u32::MAX)]
            .prop_map(|segment_bytes| Layout::new(segment_bytes).unwrap())
    }

    /// The definition, one segment after the other.
    fn counted(layout: Layout, plain_bytes: u64) -> Vec<u64> {
        let mut left = plain_bytes;
        let mut segments = Vec::new();
        loop {
            let index = u32::try_from(segments.len()).unwrap();
            let taken = left.min(layout.plain_bytes_in(index) as u64);
            segments.push(taken);
            left -= taken;
            if left == 0 {
                return segments;
            }
        }
    }

    proptest! {
        #[test]
        fn the_arithmetic_agrees_with_counting(layout in layouts(), plain in 0..20_000_u64) {
            let extent = layout.of_plain(plain).unwrap();
            let counted = counted(layout, plain);
            prop_assert_eq!(extent.segments(), counted.len() as u64);
            let (mut plain_at, mut sealed_at) = (0, HEADER);
            for (index, bytes) in counted.iter().enumerate() {
                let index = u32::try_from(index).unwrap();
                prop_assert_eq!(extent.plain_range(index), plain_at..plain_at + bytes);
                prop_assert_eq!(extent.sealed_range(index), sealed_at..sealed_at + bytes + TAG);
                prop_assert_eq!(extent.is_last(index), u64::from(index) + 1 == counted.len() as u64);
                plain_at += bytes;
                sealed_at += bytes + TAG;
            }
            prop_assert_eq!((plain_at, sealed_at), (plain, extent.sealed_bytes()));
            prop_assert_eq!(layout.of_sealed(extent.sealed_bytes()), Some(extent));
        }

        #[test]
        fn each_byte_of_a_range_lies_in_its_segments_and_the_ends_are_needed(
            layout in layouts(), plain in 1..1_u64 << 40, a: u64, b: u64,
        ) {
            let Some(extent) = layout.of_plain(plain) else { return Ok(()) };
            let (start, end) = (a % plain, b % plain + 1);
            let segments = extent.segments_of(start..end);
            if start >= end {
                prop_assert!(segments.is_empty());
                return Ok(());
            }
            let of = |segment| extent.plain_range(u32::try_from(segment).unwrap());
            prop_assert!(of(segments.start).contains(&start));
            prop_assert!(of(segments.end - 1).contains(&(end - 1)));
            prop_assert!(segments.end <= extent.segments());
        }

        #[test]
        fn a_sealed_length_that_no_stream_has_is_refused(layout in layouts(), sealed in 0..20_000_u64) {
            if let Some(extent) = layout.of_sealed(sealed) {
                prop_assert_eq!(extent.sealed_bytes(), sealed);
            } else {
                // A tag with nothing, a piece of a tag, or a piece of a header at the end.
                let rest = sealed % u64::from(layout.segment_bytes());
                prop_assert!(rest <= TAG || sealed < HEADER + TAG, "{}", sealed);
            }
        }

        #[test]
        fn no_length_overflows(layout in layouts(), length: u64) {
            for extent in [layout.of_plain(length), layout.of_sealed(length)].into_iter().flatten() {
                let last = u32::try_from(extent.segments() - 1).unwrap();
                prop_assert_eq!(extent.sealed_range(last).end, extent.sealed_bytes());
                prop_assert_eq!(extent.plain_range(last).end, extent.plain_bytes());
            }
        }
    }

    #[test]
    fn a_file_of_nothing_is_a_header_and_a_tag() {
        let extent = Layout::STORE.of_plain(0).unwrap();
        assert_eq!((extent.segments(), extent.sealed_bytes()), (1, 56));
        assert_eq!((extent.plain_range(0), extent.sealed_range(0)), (0..0, 40..56));
        assert!(extent.segments_of(0..1).is_empty());
    }

    #[test]
    fn a_full_last_segment_is_followed_by_nothing() {
        let layout = Layout::new(100).unwrap();
        // 44 bytes fill the first segment, 84 each other one.
        for (plain, segments) in [(44, 1), (45, 2), (44 + 84, 2), (44 + 84 + 1, 3)] {
            assert_eq!(layout.of_plain(plain).unwrap().segments(), segments, "{plain}");
        }
    }

    #[test]
    fn a_segment_needs_room_for_more_than_header_and_tag() {
        assert_eq!(Layout::new(56), None);
        assert!(Layout::new(57).is_some());
    }

    #[test]
    fn more_segments_than_the_nonce_can_number_are_refused() {
        let layout = Layout::new(57).unwrap();
        let most = (1_u64 << 32) * 41 - 40;
        assert_eq!(layout.of_plain(most).unwrap().segments(), 1 << 32);
        assert_eq!(layout.of_plain(most + 1), None);
    }
}
