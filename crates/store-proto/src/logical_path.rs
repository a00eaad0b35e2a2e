//! The name a user gives a file inside a cohort.
//!
//! **Invariant:** a `LogicalPath` has one to many non-empty segments, none of which is `.` or `..`
//! in any spelling a later reader may undo (percent-encoding, Unicode compatibility forms,
//! backslashes). It never becomes a path of the backend, whose keys are random ids; the rules
//! protect whoever downloads the file and every tool in between.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::limits::{MAX_PATH_BYTES, MAX_SEGMENT_BYTES};

/// Why a text is not a logical path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing there.
    #[error("the path is empty")]
    Empty,
    /// More than [`MAX_PATH_BYTES`].
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// A segment has more than [`MAX_SEGMENT_BYTES`].
    #[error("a segment of the path is longer than {MAX_SEGMENT_BYTES} bytes")]
    SegmentTooLong,
    /// Begins with `/`.
    #[error("the path must be relative: it begins with `/`")]
    Absolute,
    /// `a//b` or `a/`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.` or `..`, plain or disguised.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// `\` is a separator on some systems.
    #[error("the path has a backslash")]
    Backslash,
    /// NUL, a control character, a line separator or a bidirectional override.
    #[error("the path has a control character")]
    Control,
    /// Two spellings of one name must not be two files.
    #[error("the path is not in Unicode normalization form C (NFC)")]
    NotNfc,
    /// Decodes, once more, to a separator or a dot segment.
    #[error("the path hides a separator or a `..` segment behind an encoding")]
    Disguised,
    /// Percent-encoded bytes that are not UTF-8.
    #[error("the path is not UTF-8")]
    NotUtf8,
}

/// A relative path of valid segments; see the module for what it excludes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogicalPath(String);

impl LogicalPath {
    /// Takes a decoded path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if text.contains('\\') {
            return Err(PathError::Backslash);
        }
        if text.chars().any(is_unprintable) {
            return Err(PathError::Control);
        }
        if !is_nfc(text) {
            return Err(PathError::NotNfc);
        }
        for segment in text.split('/') {
            check_segment(segment)?;
        }
        Ok(Self(text.to_owned()))
    }

    /// Takes a path as it stands in a URL or in the `Culvert-Path` header; decodes once.
    pub fn from_percent_encoded(text: &str) -> Result<Self, PathError> {
        // Each byte takes at most three characters: more cannot be a path.
        if text.len() > MAX_PATH_BYTES * 3 {
            return Err(PathError::TooLong);
        }
        let decoded = percent_decode_str(text).decode_utf8().map_err(|_| PathError::NotUtf8)?;
        Self::parse(&decoded)
    }

    /// The path as it stands in a URL or in the `Culvert-Path` header. `/` stays.
    pub fn to_percent_encoded(&self) -> String {
        utf8_percent_encode(&self.0, ENCODED).to_string()
    }

    /// The decoded path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

/// RFC 3986's `pchar` and `/` stay; all else is encoded. Non-ASCII always is.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

fn check_segment(segment: &str) -> Result<(), PathError> {
    if segment.is_empty() {
        return Err(PathError::EmptySegment);
    }
    if segment.len() > MAX_SEGMENT_BYTES {
        return Err(PathError::SegmentTooLong);
    }
    if is_dot_segment(segment) {
        return Err(PathError::DotSegment);
    }
    // A client or proxy that decodes or normalizes once too often must not find a way up.
    let compatible: String = segment.nfkc().collect();
    let decoded = percent_decode_str(segment).decode_utf8_lossy();
    if [compatible.as_str(), &decoded]
        .into_iter()
        .any(|form| form.contains(['/', '\\', '\0']) || is_dot_segment(form))
    {
        return Err(PathError::Disguised);
    }
    Ok(())
}

fn is_dot_segment(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// Control characters (C0, DEL, C1), line and paragraph separators, and the characters that make a
/// name read in another order than it is written.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for LogicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LogicalPath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for LogicalPath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        Self::parse(&text)
    }
}

impl From<LogicalPath> for String {
    fn from(path: LogicalPath) -> String {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::PathError::*;
    use super::*;

    #[test]
    fn no_spelling_climbs() {
        let table: &[(&str, PathError)] = &[
            ("", Empty),
            ("/", Absolute),
            ("//", Absolute),
            ("/etc/passwd", Absolute),
            ("//server/share", Absolute),
            (".", DotSegment),
            ("..", DotSegment),
            ("../", DotSegment),
            ("../x", DotSegment),
            ("a/..", DotSegment),
            ("a/../b", DotSegment),
            ("a/./b", DotSegment),
            ("./a", DotSegment),
            ("a/b/../../../etc/shadow", DotSegment),
            ("../../../../../../etc/passwd", DotSegment),
            ("a//b", EmptySegment),
            ("a/", EmptySegment),
            ("a/b//", EmptySegment),
            ("..\\..\\windows\\win.ini", Backslash),
            ("a\\b", Backslash),
            ("C:\\x", Backslash),
            ("\\\\server\\share", Backslash),
            ("a\0.csv", Control),
            ("a/b\0/../c", Control),
            ("a\nb", Control),
            ("a\r\nSet-Cookie: x", Control),
            ("a\tb", Control),
            ("a\u{7f}", Control),
            ("a\u{85}b", Control),
            ("a\u{2028}b", Control),
            ("gpj.\u{202e}exe", Control),
            ("a\u{2066}b", Control),
            ("a\u{61c}b", Control),
            ("e\u{301}.csv", NotNfc),
            ("\u{212b}.csv", NotNfc),
            ("%2e%2e", Disguised),
            ("%2E%2e/x", Disguised),
            ("a%2fb", Disguised),
            ("..%5c..%5cx", Disguised),
            ("..%2fetc", Disguised),
            ("a%00", Disguised),
            (".%2e", Disguised),
            ("\u{ff0e}\u{ff0e}/x", Disguised),
            ("\u{2025}/x", Disguised),
            ("a/\u{2024}\u{2024}/x", Disguised),
            ("..\u{ff0f}x", Disguised),
            ("a\u{ff3c}b", Disguised),
        ];
        assert!(table.len() >= 34);
        for (text, expected) in table {
            assert_eq!(LogicalPath::parse(text), Err(*expected), "{text:?}");
        }
    }

    #[test]
    fn no_encoded_spelling_climbs() {
        let table: &[(&str, PathError)] = &[
            ("%2e%2e/x", DotSegment),
            ("..%2fx", DotSegment),
            ("%2e%2e%2f%2e%2e%2fetc%2fpasswd", DotSegment),
            ("%2fetc/passwd", Absolute),
            ("..%5cx", Backslash),
            ("%252e%252e%252fx", Disguised),
            ("%252e%252e/x", Disguised),
            ("%25%32%65%25%32%65/x", Disguised),
            ("%c0%ae%c0%ae/x", NotUtf8),
            ("%c0%af", NotUtf8),
            ("%e0%80%ae/x", NotUtf8),
            ("%ff", NotUtf8),
            ("a%00b", Control),
            ("a%0d%0ab", Control),
            ("%ef%bc%8e%ef%bc%8e/x", Disguised),
        ];
        for (text, expected) in table {
            assert_eq!(LogicalPath::from_percent_encoded(text), Err(*expected), "{text:?}");
        }
    }

    #[test]
    fn ordinary_names_pass() {
        for text in [
            "a",
            "scan.csv",
            "2026/visit 1/scan.csv",
            "...",
            "..a",
            "a..b",
            ".hidden",
            "100%",
            "50%25",
            "ü/日本.csv",
            "a+b=c&d;e,f@g:h",
            "~root",
            "C:/x",
            &"a".repeat(255),
        ] {
            let path = LogicalPath::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            let encoded = path.to_percent_encoded();
            assert!(encoded.bytes().all(|c| c.is_ascii_graphic()), "{encoded}");
            assert_eq!(LogicalPath::from_percent_encoded(&encoded), Ok(path));
        }
        assert_eq!(LogicalPath::parse("a/b/c.csv").unwrap().file_name(), "c.csv");
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(LogicalPath::parse(&"a".repeat(256)), Err(SegmentTooLong));
        assert_eq!(LogicalPath::parse(&"a/".repeat(600)), Err(TooLong));
        assert_eq!(LogicalPath::from_percent_encoded(&"%61".repeat(1025)), Err(TooLong));
        let longest = vec!["a".repeat(255); 4].join("/") + "";
        assert_eq!(longest.len(), 1023);
        assert!(LogicalPath::parse(&longest).is_ok());
    }

    fn holds(path: &LogicalPath) {
        let text = path.as_str();
        assert!((1..=MAX_PATH_BYTES).contains(&text.len()));
        assert!(!text.starts_with('/') && !text.contains(['\\', '\0']));
        for segment in text.split('/') {
            assert!((1..=MAX_SEGMENT_BYTES).contains(&segment.len()));
            assert!(segment != "." && segment != "..");
        }
        // Read by std, it only ever goes down.
        for component in std::path::Path::new(text).components() {
            assert!(matches!(component, std::path::Component::Normal(_)), "{text:?}");
        }
        assert_eq!(LogicalPath::from_percent_encoded(&path.to_percent_encoded()).as_ref(), Ok(path));
    }

    proptest! {
        #[test]
        fn what_parses_keeps_the_invariant(text in "\\PC{0,64}") {
            if let Ok(path) = LogicalPath::parse(&text) { holds(&path); }
            if let Ok(path) = LogicalPath::from_percent_encoded(&text) { holds(&path); }
        }

        #[test]
        fn what_parses_from_hostile_pieces_keeps_the_invariant(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    ".", "..", "/", "\\", "%", "2e", "2f", "5c", "25", "00", "%2e", "%2F", "%c0%ae", "a", "\0",
                    "\u{ff0e}", "\u{2024}", "\u{2025}", "\u{ff0f}", "e\u{301}", " ", "\u{202e}",
                ]), 0..12)
        ) {
            let text = pieces.concat();
            if let Ok(path) = LogicalPath::parse(&text) { holds(&path); }
            if let Ok(path) = LogicalPath::from_percent_encoded(&text) { holds(&path); }
        }

        #[test]
        fn joined_plain_segments_parse(segments in proptest::collection::vec("[a-z0-9_-]{1,20}", 1..10)) {
            let text = segments.join("/");
            let path = LogicalPath::parse(&text).unwrap();
            prop_assert_eq!(path.as_str(), text);
        }
    }
}
