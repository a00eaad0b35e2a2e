//! `If-Match`, `If-None-Match` and `If-Range` against a file's entity tag (RFC 9110 §13).
//!
//! Our tags are strong and name the content, so a match means the same bytes. Dates are not
//! compared: a file has no `Last-Modified`, and the RFC lets a date be ignored then.

/// Whether an `If-Match` list holds the tag (strong comparison: `W/` never matches).
pub fn if_match_holds(list: &str, etag: &str) -> bool {
    list.trim() == "*" || tags(list).any(|tag| tag == etag)
}

/// Whether an `If-None-Match` list names the tag (weak comparison: `W/` is looked through).
pub fn if_none_match_names(list: &str, etag: &str) -> bool {
    list.trim() == "*" || tags(list).any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Whether a `Range` may be served although the client holds older bytes: only an equal strong tag.
pub fn if_range_holds(value: &str, etag: &str) -> bool {
    value.trim() == etag
}

/// The tags of a list. A quoted tag may hold a comma, so quotes are followed rather than commas.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let open = rest.find('"')?;
        let close = open + 1 + rest[open + 1..].find('"')?;
        let (tag, after) = rest.split_at(close + 1);
        rest = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"abc\"";

    #[test]
    fn if_match_compares_strongly() {
        for (list, expected) in [
            ("*", true),
            ("\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("\"x\",\"abc\"", true),
            ("W/\"abc\"", false),
            ("\"x\"", false),
            ("abc", false),
            ("", false),
            ("\"a,b\", \"abc\"", true),
            ("\"abc", false),
        ] {
            assert_eq!(if_match_holds(list, TAG), expected, "{list}");
        }
    }

    #[test]
    fn if_none_match_looks_through_weak_tags() {
        for (list, expected) in
            [("*", true), ("W/\"abc\"", true), ("\"x\", W/\"abc\"", true), ("\"x\"", false), ("", false)]
        {
            assert_eq!(if_none_match_names(list, TAG), expected, "{list}");
        }
    }

    #[test]
    fn if_range_takes_only_the_equal_strong_tag() {
        assert!(if_range_holds(TAG, TAG));
        assert!(!if_range_holds("W/\"abc\"", TAG));
        assert!(!if_range_holds("Sat, 21 Nov 2026 00:00:00 GMT", TAG));
    }
}
