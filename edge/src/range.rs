//! The `Range` of a download.
//!
//! A range is decided against the size of the file before anything is fetched: what leaves this
//! module lies inside the file, and no byte of it twice. RFC 9110 §14 is followed where it leaves no choice;
//! where it does, a `Range` we do not serve (many ranges, overlaps, another unit, bad syntax) is ignored and
//! the whole sent.

use crate::limits::RANGES;

/// Bytes `first..=last` of a file; never empty, never beyond its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    first: u64,
    last: u64,
}

impl ByteRange {
    /// The first byte's position.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last byte's position (inclusive, as on the wire).
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many bytes.
    pub fn length(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What a `Range` header means for a file of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything: no range, or one that is to be ignored.
    Whole,
    /// One stretch.
    Part(ByteRange),
    /// Two or more, which do not overlap, in the order in which they were asked for.
    Parts(Vec<ByteRange>),
    /// The range lies outside the file: 416.
    Unsatisfiable,
}

/// Applies a `Range` header's value to a file of `size` bytes.
pub fn select(value: &str, size: u64) -> Selection {
    let Some((unit, set)) = value.split_once('=') else { return Selection::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Selection::Whole;
    }
    let mut found = Vec::new();
    for (count, spec) in set.split(',').enumerate() {
        // RFC 9110 §14.2: what asks for many ranges may be ignored.
        if count == RANGES {
            return Selection::Whole;
        }
        match one(spec.trim(), size) {
            One::Bad => return Selection::Whole,
            One::Outside => {}
            One::Inside(range) => found.push(range),
        }
    }
    let mut sorted = found.clone();
    sorted.sort_unstable_by_key(ByteRange::first);
    // Bytes that are asked for twice make an answer longer than the file: such a client gets the whole.
    if sorted.windows(2).any(|pair| pair[1].first <= pair[0].last) {
        return Selection::Whole;
    }
    match found[..] {
        [] => Selection::Unsatisfiable,
        [range] => Selection::Part(range),
        _ => Selection::Parts(found),
    }
}

enum One {
    Inside(ByteRange),
    Outside,
    Bad,
}

fn one(spec: &str, size: u64) -> One {
    let Some((first, last)) = spec.split_once('-') else { return One::Bad };
    match (position(first), position(last)) {
        (Position::Bad, _) | (_, Position::Bad) | (Position::Absent, Position::Absent) => One::Bad,
        (Position::Absent, Position::At(suffix)) => {
            if suffix == 0 || size == 0 {
                return One::Outside;
            }
            One::Inside(ByteRange { first: size.saturating_sub(suffix), last: size - 1 })
        }
        (Position::At(first), Position::Absent) => from(first, u64::MAX, size),
        (Position::At(first), Position::At(last)) if last < first => One::Bad,
        (Position::At(first), Position::At(last)) => from(first, last, size),
    }
}

fn from(first: u64, last: u64, size: u64) -> One {
    if first >= size {
        return One::Outside;
    }
    One::Inside(ByteRange { first, last: last.min(size - 1) })
}

enum Position {
    Absent,
    At(u64),
    Bad,
}

fn position(text: &str) -> Position {
    if text.is_empty() {
        return Position::Absent;
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Position::Bad;
    }
    // A number beyond u64 is beyond any file: the largest position stands for it.
    Position::At(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, size: u64, expected: &str) {
        let seen = match select(value, size) {
            Selection::Whole => "whole".to_owned(),
            Selection::Unsatisfiable => "416".to_owned(),
            Selection::Part(r) => format!("{}-{} ({})", r.first(), r.last(), r.length()),
            Selection::Parts(parts) => {
                let parts = parts.iter().map(|r| format!("{}-{}", r.first(), r.last()));
                parts.collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(seen, expected, "{value} of {size}");
    }

    #[test]
    fn one_range_is_clipped_to_the_file() {
        check("bytes=0-0", 10, "0-0 (1)");
        check("bytes=0-9", 10, "0-9 (10)");
        check("bytes=3-", 10, "3-9 (7)");
        check("bytes=3-99999999999999999999999", 10, "3-9 (7)");
        check("bytes=-4", 10, "6-9 (4)");
        check("bytes=-400", 10, "0-9 (10)");
        check("Bytes=9-9", 10, "9-9 (1)");
        check("bytes= 1-2 ", 10, "1-2 (2)");
    }

    #[test]
    fn a_range_outside_the_file_is_unsatisfiable() {
        check("bytes=10-", 10, "416");
        check("bytes=10-12", 10, "416");
        check("bytes=99999999999999999999999-", 10, "416");
        check("bytes=-0", 10, "416");
        check("bytes=0-", 0, "416");
        check("bytes=-1", 0, "416");
    }

    #[test]
    fn several_ranges_keep_their_order() {
        check("bytes=0-1,3-4", 10, "0-1 3-4");
        check("bytes=7-8, 0-1 ,-1", 10, "7-8 0-1 9-9");
        check("bytes=0-0,1-1", 10, "0-0 1-1");
        check("bytes=0-1,10-", 10, "0-1 (2)");
        check("bytes=10-,20-", 10, "416");
        let many: Vec<String> = (0..=RANGES).map(|n| format!("{}-{}", 2 * n, 2 * n)).collect();
        check(&format!("bytes={}", many.join(",")), 1000, "whole");
    }

    #[test]
    fn what_is_not_a_list_of_byte_ranges_is_ignored() {
        for value in [
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=0-3,3-4",
            "bytes=0-1,x",
            "bytes=0-1,,3-4",
            "bytes=5-2",
            "items=0-1",
            "0-1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=0x1-2",
            "",
            "bytes==0-1",
        ] {
            check(value, 10, "whole");
        }
    }
}
