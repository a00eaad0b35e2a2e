//! Names as look-up keys that do not tell the name.
//!
//! **Invariant:** equal only for the same key, domain and parts: every part goes in with its length, so no
//! two lists of parts run together.

use crate::key::Key256;
use crate::provider;

/// HMAC-SHA256 over `domain` and `parts`, each behind its length.
pub fn blind(key: &Key256, domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let lengths: Vec<[u8; 8]> = std::iter::once(domain.len())
        .chain(parts.iter().map(|part| part.len()))
        .map(|length| (length as u64).to_be_bytes())
        .collect();
    let texts = std::iter::once(domain.as_bytes()).chain(parts.iter().copied());
    let message: Vec<&[u8]> =
        lengths.iter().zip(texts).flat_map(|(length, text)| [length.as_slice(), text]).collect();
    provider::hmac_sha256(key, &message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::provider::tests::hex;

    fn key() -> Key256 {
        Key256::from_bytes([5; 32])
    }

    /// Made with Python: `hmac` over `len(8, big) ‖ text` for "path", "a", "b/c".
    #[test]
    fn a_blinded_name_is_what_the_format_page_says() {
        assert_eq!(
            blind(&key(), "path", &[b"a", b"b/c"]).to_vec(),
            hex("a67fd6d930f020b5c064eb47fc11c5d1cca3589715ff6b91361452b284b12dfe")
        );
    }

    proptest! {
        #[test]
        fn different_parts_never_meet(a: Vec<Vec<u8>>, b: Vec<Vec<u8>>) {
            let of = |parts: &[Vec<u8>]| {
                blind(&key(), "d", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            };
            prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(blind(&key(), "d", &[b"ab", b"c"]), blind(&key(), "d", &[b"a", b"bc"]));
        assert_ne!(blind(&key(), "da", &[b"b"]), blind(&key(), "d", &[b"ab"]));
        assert_ne!(blind(&key(), "d", &[]), blind(&key(), "d", &[b""]));
    }

    #[test]
    fn another_key_or_domain_gives_another_name() {
        assert_ne!(blind(&key(), "d", &[b"x"]), blind(&Key256::from_bytes([6; 32]), "d", &[b"x"]));
        assert_ne!(blind(&key(), "d", &[b"x"]), blind(&key(), "e", &[b"x"]));
    }
}
