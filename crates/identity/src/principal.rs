//! The name in records of somebody whom an identity provider vouches for.
//!
//! **Invariant:** two subjects never share a name, nor do two providers: the provider's short name has no `:`, and what
//! a user's name may not hold is escaped in one way alone.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use store_proto::UserName;
use store_proto::limits::MAX_USER_NAME_BYTES;

/// `ISSUER:SUBJECT`; bytes that a name may not hold as `+HH`, and a subject that is too long as `+sha256+` and its digest.
pub(crate) fn name(issuer: &str, subject: &str) -> Option<UserName> {
    let mut text = format!("{issuer}:");
    for byte in subject.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'@' | b':') {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "+{byte:02X}");
        }
    }
    if text.len() > MAX_USER_NAME_BYTES {
        text = format!("{issuer}:+sha256+");
        for byte in Sha256::digest(subject.as_bytes()) {
            let _ = write!(text, "{byte:02x}");
        }
    }
    UserName::parse(&text).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_names_of_well_known_providers() {
        for (subject, expected) in [
            ("248289761001", "idp:248289761001"),
            ("f:7b0c:ada@example.org", "idp:f:7b0c:ada@example.org"),
            ("auth0|5f7c8ec7", "idp:auth0+7C5f7c8ec7"),
            ("repo:o/n:ref:refs/heads/main", "idp:repo:o+2Fn:ref:refs+2Fheads+2Fmain"),
            ("a+b", "idp:a+2Bb"),
        ] {
            assert_eq!(name("idp", subject).unwrap().as_str(), expected);
        }
        let long = name("idp", &"x".repeat(200)).unwrap();
        assert!(long.as_str().starts_with("idp:+sha256+"), "{long}");
    }

    proptest! {
        #[test]
        fn no_two_subjects_share_a_name(subjects in proptest::collection::vec(".{1,60}", 2..40)) {
            let mut seen = HashMap::new();
            for subject in subjects {
                let name = name("idp", &subject).unwrap();
                let before = seen.insert(name, subject.clone());
                prop_assert!(before.is_none_or(|before| before == subject));
            }
        }
    }
}
